"""A sustained rise above the lowest level that a series has had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.sorted_window import SortedWindow, median_of, quantile_of

_CONSISTENCY = 1.4826  # MAD to standard deviation, for normal noise
_LOWER = 1.2816  # standard deviations from the median of normal noise to its 10th percentile
_RISEN = 5.0  # deviations from which on the level counts as risen
_MOST = 0.25  # of the last values, three quarters lie above this quantile
_FALLEN = 2.0  # floors that the level must have fallen by before it can rise


class Rising:
    """`(level - lowest) / max(width, floor)` in logarithms, level a quartile of recent values.

    Three quarters of the last `level` values lie above the level. `lowest` is the lowest that their
    median has been, frozen while it is above. The width is the larger of 1.4826 MAD of the last
    `window` distances from that median, and of how far their 10th percentile lies below the middle
    one, over 1.2816: what single values scatter, also between two levels, and nothing of the rise
    itself. What the median has come back from once scores no more than 5 again. A series whose
    median has not fallen by twice the floor since it began scores 0: what rises from the start, as
    the loss of many actors does, has not gone back. After four windows over 5 the series lives at
    another level, and `lowest` is taken anew. Values that are not positive enter nothing.

    Source: the frozen average of "loss 3% above its average for five steps" in guides to training
    large models, with the lowest median in place of an average that a spike can lift.

    >>> detector = Rising(window=8, level=8)
    >>> for i in range(40):
    ...     _ = detector.update(4.0 - 0.05 * i)
    >>> for i in range(20):
    ...     score = detector.update(2.0 + 0.1 * i)
    >>> round(score, 1)
    9.3
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "window": window(128),
        "level": Parameter(16, 8, 1000, "how many values the level is the median of", whole=True),
        "floor": Parameter(0.05, 0.001, 10.0, "the least deviation, in logarithms"),
    }

    def __init__(self, window: int = 128, level: int = 16, floor: float = 0.05) -> None:
        self._distances = SortedWindow(window)
        self._level = SortedWindow(level)
        self._floor = floor
        self._first: float | None = None
        self._lowest = math.inf
        self._highest = 0.0  # rise since the level was at its lowest
        self._survived = 0.0  # highest rise that it has come back from
        self._above = int(_MOST * (level - 1)) + 1  # the place of a value not below the quantile
        self._score: float | None = math.nan  # of the last value; None: nobody has asked yet
        self._seen = 0
        self._risen = 0  # values in a row

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        bound = self.learn(value)
        return self.score() if bound == bound else bound

    def learn(self, value: float) -> float:
        """Learn from a value. Returns what its score is not above, NaN if it has none."""
        if not -math.inf < value < math.inf:
            return math.nan
        self._seen += 1
        if value > 0:
            bound = self._learn(math.log(value))
        else:
            bound = _RISEN if self._score is None else self._score
        if bound == bound:
            return bound
        blind = self._seen > self._distances.length + self._level.length
        return 0.0 if blind else bound

    def score(self) -> float:
        """The score of the last value that was finite, which has one."""
        if self._score is None:
            rise = self._level.quantile(_MOST) - self._lowest
            self._score = rise / max(self._width(), self._least())
        return self._score if self._score == self._score else 0.0

    def _learn(self, x: float) -> float:
        values = self._level.let_in(x)
        center = median_of(values)
        self._distances.push(x - center)
        if self._first is None:
            if len(values) < self._level.length:
                return math.nan
            self._first = center
        self._risen = self._risen + 1 if self._score is not None and self._score > _RISEN else 0
        lowest = self._lowest
        if center < lowest + self._floor:
            if self._highest > self._survived:
                self._survived = self._highest
            self._highest = 0.0
        if center < lowest or self._risen > 4 * self._distances.length:
            self._lowest = lowest = center
        if self._first - lowest < _FALLEN * self._floor:
            self._score = 0.0
            return 0.0
        self._score = None
        rise = values[self._above] - lowest
        if rise > self._highest:
            rise = quantile_of(values, _MOST) - lowest
            self._highest = max(self._highest, rise)
        if rise <= 0:
            return 0.0
        bound = rise / self._least()
        # Only what may be above is to be known at once: values in a row are counted.
        return bound if bound <= _RISEN else self.score()

    def _least(self) -> float:
        """The scale without what values scatter."""
        return max(self._floor, self._survived / _RISEN)

    def _width(self) -> float:
        """What values scatter, for noise that is normal a standard deviation."""
        distances = self._distances
        below = (distances.median() - distances.quantile(0.1)) / _LOWER
        return max(_CONSISTENCY * distances.mad(), below)
