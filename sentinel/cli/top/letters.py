"""What can be written on this terminal, and how much of it fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Console
from rich.text import Text

from sentinel.cli.terminal import plain
from sentinel.cli.top.snapshot import Number

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-~=+*#"
NOTHING = "-"  # in place of what is not measured


@dataclass(frozen=True)
class Letters:
    """Either Unicode, or what every terminal has."""

    ascii: bool = False

    @classmethod
    def of(cls, console: Console) -> Letters:
        """What this console takes."""
        return cls(console.options.ascii_only)

    @property
    def mark(self) -> str:
        """Before the chosen run."""
        return ">" if self.ascii else "▸"

    def plain(self, text: str) -> str:
        """On one line, without what a terminal would obey, in letters that it has."""
        clean = plain(text)
        return clean.encode("ascii", "replace").decode() if self.ascii else clean

    def text(self, text: str, style: str = "") -> Text:
        """A cell of a table: what does not fit is cut off."""
        return Text(
            self.plain(text), style, no_wrap=True, overflow="crop" if self.ascii else "ellipsis"
        )

    def sparkline(self, values: Sequence[Number], width: int) -> str:
        """The course of some values in `width` letters, from their smallest to their largest.

        A letter stands for the largest of its share of the values; `!` where one of them is not
        finite, and a space where none is known.
        """
        finite = [known for value in values if math.isfinite(known := _number(value))]
        low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        shown = max(0, min(width, len(values)))
        edges = [at * len(values) // shown for at in range(shown + 1)] if shown else []
        return "".join(self._bar(values[begin:end], low, high) for begin, end in pairwise(edges))

    def _bar(self, values: Sequence[Number], low: float, high: float) -> str:
        known = [_number(value) for value in values if value is not None]
        if not known:
            return " "
        if not all(map(math.isfinite, known)):
            return "!"
        bars = _ASCII_BARS if self.ascii else _BARS
        share = (max(known) - low) / (high - low) if high > low else 0.0
        return bars[min(len(bars) - 1, int(share * len(bars)))]


def _number(value: Number) -> float:
    """NaN too where it is not known; the strings that JSON has for what is not finite are read."""
    return math.nan if value is None else float(value)


def number(value: Number, digits: int = 4) -> str:
    """In a few letters: `2.314`, `1.2e-05`, `NaN`."""
    if value is None:
        return NOTHING
    known = _number(value)
    if math.isnan(known):
        return "NaN"
    if math.isinf(known):
        return "inf" if known > 0 else "-inf"
    return f"{known:.{digits}g}" if known else "0"


def scaled(value: Number) -> str:
    """A large number: `12.3k`, `4.1M`."""
    if value is None or not math.isfinite(_number(value)):
        return number(value)
    known, power = _number(value), 0
    while abs(known) >= 999.5 and power < 4:
        known, power = known / 1000, power + 1
    return f"{known:.3g}{('', 'k', 'M', 'G', 'T')[power]}"


def size(value: Number) -> str:
    """Bytes: `4.1GB`."""
    return NOTHING if value is None else f"{scaled(value)}B"


def percent(value: Number) -> str:
    """A share: `41.2%`."""
    return NOTHING if value is None else f"{100 * _number(value):.1f}%"


def seconds(value: Number) -> str:
    """A time: `12 ms`, `4.2 s`, `3 min`, `2.1 h`."""
    if value is None or not math.isfinite(_number(value)):
        return number(value)
    known = _number(value)
    if abs(known) < 0.9995:
        return f"{known * 1000:.3g} ms" if known else "0 s"
    if known < 99.95:
        return f"{known:.3g} s"
    if known < 5400:
        return f"{known / 60:.0f} min"
    return f"{known / 3600:.1f} h" if known < 172_800 else f"{known / 86_400:.0f} d"
