"""When signals were last measured, for rules that ask how long ago that was."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sentinel.engine.evaluation.values import Source, Values
from sentinel.engine.language.expression import Expression, Reading, SecondsSince, axes_of, walk
from sentinel.engine.window import Floats


class Recency:
    """The times at which the signals that these expressions ask for were last measured.

    A time is that at which the step was judged; NaN for an element that never was measured.
    """

    def __init__(self, expressions: Iterable[Expression]) -> None:
        self._last: dict[Reading, Floats] = {
            part.of: np.full((0,) * len(axes_of(part)), np.nan)
            for expression in expressions
            for part in walk(expression.root)
            if isinstance(part, SecondsSince)
        }

    def judged(self, source: Source, now: float) -> None:
        """Take in what was measured at a step."""
        for reading, last in self._last.items():
            missing = source.read(reading).missing
            times = np.full(missing.shape, np.nan)
            times[tuple(slice(0, size) for size in last.shape)] = last
            self._last[reading] = np.where(missing, times, now)

    def forget(self) -> None:
        """Another job begins."""
        for reading, last in self._last.items():
            self._last[reading] = np.full(last.shape, np.nan)

    def since(self, reading: Reading, now: float, awake: float) -> Values:
        """The seconds since each element was measured; what is before `awake` does not count."""
        last = self._last[reading]
        return Values(now - np.maximum(last, awake), np.isnan(last))
