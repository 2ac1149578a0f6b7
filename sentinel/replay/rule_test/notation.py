"""The notation of series in tests of rules: promtool's, and noise that is the same every time.

`a+bxn` is a, a+b, a+2b ... with n further values, `a-bxn` goes down and `axn` stays; `_` is a
value that is missing and `_xn` n of them. `NaN`, `Inf` and `-Inf` are values like others.
`noise(a, s)xn` is a with Gaussian noise of standard deviation s added; a may be `a+b` or `a-b`.
"""

from __future__ import annotations

import math
import random
import re
from typing import NamedTuple

from sentinel.errors import RuleError
from sentinel.signals import CATALOG, did_you_mean
from sentinel.wire import MAX_RANKS, Series

MAX_STEPS = 20_000  # values of one series
MAX_TEXT = 20_000  # characters

Value = float | None  # None: not measured

_UNSIGNED = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_LINE = rf"(?P<start>[+-]?{_UNSIGNED}|NaN|[+-]?Inf)(?P<growth>[+-]{_UNSIGNED})?"
_TIMES = r"(?:x(?P<times>[0-9]{1,9}))?(?=\s|$)"
_GAP = re.compile(rf"_{_TIMES}")
_NUMBER = re.compile(_LINE + _TIMES)
_NOISE = re.compile(rf"noise\(\s*{_LINE}\s*,\s*(?P<sigma>{_UNSIGNED})\s*\){_TIMES}")
_SPACE = re.compile(r"\s*")
_SERIES = re.compile(r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*(?:\{(?P<labels>.*)\})?\s*", re.DOTALL)
_LABEL = re.compile(r'\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*"(?P<value>[^"\\]*)"\s*(?:,|$)')


class NamedSeries(NamedTuple):
    """A series of one rank, or of all of them (None)."""

    series: Series
    rank: int | None


def series(text: str) -> NamedSeries:
    """What `loss`, `loss{rank="1"}` or `layer_grad_norm{layer="h.3"}` names. Raises `RuleError`."""
    found = _SERIES.fullmatch(text)
    if found is None:
        raise RuleError(
            f'{_shown(text)} is no series: expected one such as loss, loss{{rank="1"}} or '
            'layer_grad_norm{layer="h.3"}'
        )
    name = found["name"]
    if name not in CATALOG:
        raise RuleError(f"unknown signal {name!r}{did_you_mean(name, CATALOG)}")
    labels = _labels(found["labels"] or "", text)
    rank = labels.pop("rank", None)
    own = CATALOG[name].label
    if strange := next((label for label in labels if label != own), None):
        known = "rank" if not own else f"rank and {own}"
        raise RuleError(f"{name} has no label {strange!r}: it may carry {known}")
    if own and not labels.get(own):
        raise RuleError(f'{name} has a series for each {own}: expected {name}{{{own}="..."}}')
    return NamedSeries(Series(name, labels.get(own, "")), None if rank is None else _rank(rank))


def _labels(text: str, whole: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _LABEL.match(text, at)
        if found is None or found["name"] in labels:
            raise RuleError(f'{_shown(whole)}: labels are written {{rank="1", layer="h.3"}}')
        labels[found["name"]] = found["value"]
        at = found.end()
    return labels


def _rank(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) >= MAX_RANKS:
        raise RuleError(f'rank="{text}" is no rank: they are counted from 0')
    return int(text)


def values(text: str, seed: str = "") -> list[Value]:
    """The values that `text` spells. Raises `RuleError`, which names the column.

    `seed` makes the noise: the same seed, text and place give the same noise everywhere.
    """
    if len(text) > MAX_TEXT:
        raise RuleError(f"values of {len(text)} characters exceed {MAX_TEXT}")
    found: list[Value] = []
    at = _skip(text, 0)
    while at < len(text):
        piece = _GAP.match(text, at) or _NUMBER.match(text, at) or _NOISE.match(text, at)
        if piece is None:
            raise RuleError(
                f"{_shown(text[at:].split()[0])} is no value: expected 2.5, NaN, Inf, -Inf, "
                "_ (missing), 2.5x40 (40 more), 2.5+0.01x40, _x40 or noise(2.5, 0.02)x40",
                column=at + 1,
            )
        if (count := _count(piece)) + len(found) > MAX_STEPS:
            raise RuleError(f"a series has at most {MAX_STEPS} values", column=at + 1)
        found += _expand(piece, count, f"{seed}\0{len(found)}")
        at = _skip(text, piece.end())
    if not found:
        raise RuleError("there are no values: expected some such as 2.5x40 NaN")
    return found


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _count(piece: re.Match[str]) -> int:
    """How many values it is: promtool's `x40` is 40 more, but of missing ones 40."""
    times = piece["times"]
    if piece.re is _GAP:
        return 1 if times is None else int(times)
    if times is None and piece["growth"] and piece.re is _NUMBER:
        raise RuleError(
            f"{_shown(piece[0])} does not say how often: expected {piece[0]}x40",
            column=piece.start() + 1,
        )
    return 1 if times is None else int(times) + 1


def _expand(piece: re.Match[str], count: int, seed: str) -> list[Value]:
    if piece.re is _GAP:
        return [None] * count
    start, growth = _float(piece, "start"), _float(piece, "growth")
    line: list[Value] = [start + at * growth if growth else start for at in range(count)]
    if piece.re is not _NOISE:
        return line
    sigma, noise = _float(piece, "sigma"), random.Random(seed)
    return [value + sigma * _gauss(noise) for value in line if value is not None]


def _float(piece: re.Match[str], name: str) -> float:
    text = piece[name] or "0"
    value = float(text)
    if math.isinf(value) and "Inf" not in text:
        raise RuleError(f"{text} is too large a number", column=piece.start(name) + 1)
    return value


def _gauss(noise: random.Random) -> float:
    """Box and Muller's way, since of Python's generator only `random()` is promised to stay."""
    one, other = 1.0 - noise.random(), noise.random()
    return math.sqrt(-2.0 * math.log(one)) * math.cos(2.0 * math.pi * other)


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
