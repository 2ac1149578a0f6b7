"""A series of any length in bounded memory: what a line of a few thousand pixels can show of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

SPANS = 2048  # that are kept at least, once there are as many values; at most twice as many

_Span = tuple[float, float, float, float]  # step and value of its lowest, and of its highest


class Envelope:
    """The lowest and the highest of each so many values in a row.

    When there are too many spans, each two become one. `odd` are steps with values that are not
    finite, no two closer than a span.

    >>> series = Envelope()
    >>> for step in range(100_000):
    ...     series.add(step, -1.0 if step == 70_000 else 1.0)
    >>> len(list(series.points())) < 10_000, min(series.points(), key=lambda point: point[1])
    (True, (70000, -1.0))
    """

    def __init__(self) -> None:
        self.odd: list[float] = []
        self.lowest = math.inf
        self.highest = -math.inf
        self._spans: list[_Span] = []
        self._width = 1  # values in a span
        self._open: _Span | None = None
        self._count = 0  # values in the open one

    def add(self, step: float, value: float) -> None:
        """The next value."""
        if not math.isfinite(value):
            self._not_finite(step)
            return
        self.lowest = min(self.lowest, value)
        self.highest = max(self.highest, value)
        one = (step, value, step, value)
        self._open = one if self._open is None else _joined(self._open, one)
        self._count += 1
        if self._count == self._width:
            self._spans.append(self._open)
            self._open, self._count = None, 0
            if len(self._spans) == 2 * SPANS:
                self._spans = list(map(_joined, self._spans[::2], self._spans[1::2]))
                self._width *= 2

    def points(self) -> Iterator[tuple[float, float]]:
        """Steps and values of a line through all of it."""
        for low_at, low, high_at, high in (*self._spans, *([self._open] if self._open else [])):
            if low_at == high_at:
                yield low_at, low
                continue
            first, second = (low_at, low), (high_at, high)
            yield from (first, second) if low_at < high_at else (second, first)

    def _not_finite(self, step: float) -> None:
        self.odd.append(step)
        if len(self.odd) == 2 * SPANS:
            del self.odd[1::2]


def _joined(one: _Span, other: _Span) -> _Span:
    low = one[:2] if one[1] <= other[1] else other[:2]
    high = one[2:] if one[3] >= other[3] else other[2:]
    return (*low, *high)
