"""The texts of an alert, with its numbers filled in.

A template is checked whole when it is loaded, so that filling it in can never fail.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from string import Formatter

from sentinel.errors import RuleError
from sentinel.signals import did_you_mean

MAX_TEMPLATE = 4000  # characters
MAX_TEXT = 2000
UNKNOWN = "?"


@dataclass(frozen=True)
class Facts:
    """What a template may name. Text that is not known, or not single, is a question mark."""

    value: float
    score: float
    step: int
    rank: str = UNKNOWN
    module: str = UNKNOWN
    layer: str = UNKNOWN
    host: str = UNKNOWN
    detail: str = UNKNOWN
    parameter: str = UNKNOWN
    batch: str = UNKNOWN


_TRIALS = tuple(
    Facts(value=number, score=number, step=step)
    for number, step in ((1.5, 0), (-1e300, 1 << 53), (math.nan, 1), (-math.inf, 1))
)
_NAMES = tuple(asdict(_TRIALS[0]))
_WIDE = re.compile(r"\d{3,}|[{}]")  # widths that would fill the memory, and nested fields


@dataclass(frozen=True)
class Template:
    """A checked text with fields such as `{value:.3g}`."""

    text: str

    def fill(self, facts: Facts) -> str:
        """The text with these facts in place."""
        return self.text.format_map(asdict(facts))[:MAX_TEXT]


def template(text: str) -> Template:
    """The template that `text` spells. Raises `RuleError` when it could fail later."""
    if len(text) > MAX_TEMPLATE:
        raise RuleError(f"text of {len(text)} characters exceeds {MAX_TEMPLATE}")
    try:
        fields = [part for part in Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise RuleError(
            f"{_excerpt(text)}: {error}; a literal brace is written {{{{ or }}}}"
        ) from None
    for _, name, spec, conversion in fields:
        _check(str(name), spec or "", conversion)
    return Template(text)


def _check(name: str, spec: str, conversion: str | None) -> None:
    if name not in _NAMES:
        raise RuleError(
            f"unknown field {{{name}}}{did_you_mean(name, _NAMES)}: "
            f"known are {', '.join(f'{{{known}}}' for known in _NAMES)}"
        )
    piece = (
        "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
    )
    if _WIDE.search(spec):
        raise RuleError(f"{piece}: the format is too wide or holds a field of its own")
    for trial in _TRIALS:
        try:
            piece.format_map(asdict(trial))
        except (ValueError, TypeError, OverflowError) as error:
            raise RuleError(f"{piece} cannot be formatted: {error}") from None


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
