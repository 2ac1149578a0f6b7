"""How long a series has stood still at a level that shows that nothing was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.sorted_window import SortedWindow, median_of

_CONSISTENCY = 1.4826  # MAD to standard deviation, for normal noise
_FAILED = 1.5  # times the lowest level: so high is no converged run
_CALM = 8  # values that need not be looked at one by one
_LARGE = 1e150  # so far from zero nothing can overflow


class Plateau:
    """Values in a row whose running median stayed where it was, though it had no right to.

    The level is the median of the last `window` values. It stands still while it is within the
    share `tolerance` of where it last came to rest, and the deviation of the values is no more than
    that: noise that is larger hides what is learned. That counts as long as it has not fallen by
    more than the tolerance below the first level of all (nothing was ever learned), or is 1.5 times
    the lowest level and more (what was learned is lost); where a loss that has fallen stands still
    it has converged, and the score is 0. So it is once the level was not positive: shares of it say
    nothing then.

    Source: patience and minimum change as in early stopping, Prechelt, Early Stopping - But When?,
    1998, asked of the level instead of the best value.

    >>> detector = Plateau(window=8)
    >>> for _ in range(100):
    ...     score = detector.update(0.6931)
    >>> score
    93.0
    >>> for i in range(100):
    ...     score = detector.update(max(0.3, 0.6931 - 0.01 * i))
    >>> score
    0.0
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "window": window(64),
        "tolerance": Parameter(
            0.02, 0.0, 1.0, "the share by which a level that stands still moves"
        ),
    }

    def __init__(self, window: int = 64, tolerance: float = 0.02) -> None:
        self._values = SortedWindow(window)
        self._tolerance = tolerance
        self._first: float | None = None
        self._lowest = math.inf
        self._rest: float | None = math.inf  # the level at which it came to rest; None: the last
        self._still = 0  # values since then
        self._calm = 0  # so many values to come score 0, whatever they are

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not -math.inf < value < math.inf:
            return math.nan
        if self._calm:
            self._calm -= 1
            self._values.push(value)
            return 0.0
        if self._rest is None:
            self._rest = self._values.median()
        ordered = self._values.let_in(value)
        if len(ordered) < self._values.length:
            return math.nan
        return self._judge(ordered)

    def _judge(self, ordered: list[float]) -> float:
        level = median_of(ordered)
        if self._first is None:
            self._first = self._rest = level
        if level < self._lowest:
            self._lowest = level
        if not self._has_failed(level, self._first):
            self._rest, self._still = level, 0
            if level > self._lowest:  # or the next may well be lower still
                self._look_ahead(ordered, self._first)
        elif self._stands_still(level):
            self._still += 1
        else:
            self._rest, self._still = level, 0
        return float(self._still)

    def _stands_still(self, level: float) -> bool:
        assert self._rest is not None
        near = self._tolerance * abs(self._rest)
        return abs(level - self._rest) <= near and _CONSISTENCY * self._values.mad() <= near

    def _has_failed(self, level: float, first: float) -> bool:
        """Whether this is a level of a run that has learned nothing, or lost it."""
        lowest = self._lowest
        if not lowest > 0:
            return False
        return level >= _FAILED * lowest or lowest >= first * (1 - self._tolerance)

    def _look_ahead(self, ordered: list[float], first: float) -> None:
        """Find out whether some values to come cannot change what was found of this level.

        Each moves the others by one place at most, so that the median stays between two of them.
        """
        steps, half = min(_CALM, len(ordered) // 16), len(ordered) >> 1
        low, high = ordered[half - 1 - steps], ordered[half + steps]
        within = max(self._lowest, -_LARGE) <= low and high < _LARGE
        if within and steps and not self._has_failed(high, first):
            self._calm, self._rest = steps, None
