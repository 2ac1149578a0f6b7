"""A sustained rise above the lowest level that a series has had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.window import SortedWindow

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
        self._score = math.nan
        self._seen = 0
        self._risen = 0  # values in a row

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not math.isfinite(value):
            return math.nan
        self._seen += 1
        if value > 0:
            self._learn(math.log(value))
        blind = math.isnan(self._score) and self._seen > self._distances.length + self._level.length
        return 0.0 if blind else self._score

    def _learn(self, x: float) -> None:
        self._level.push(x)
        center = self._level.median()
        self._distances.push(x - center)
        if len(self._level) == self._level.length:
            if self._first is None:
                self._first = center
            self._score = self._rise(center, self._first)

    def _rise(self, center: float, first: float) -> float:
        self._risen = self._risen + 1 if self._score > _RISEN else 0
        if center < self._lowest + self._floor:
            self._survived, self._highest = max(self._survived, self._highest), 0.0
        if center < self._lowest or self._risen > 4 * self._distances.length:
            self._lowest = center
        if first - self._lowest < _FALLEN * self._floor:
            return 0.0
        rise = self._level.quantile(_MOST) - self._lowest
        self._highest = max(self._highest, rise)
        distances = self._distances
        below = (distances.median() - distances.quantile(0.1)) / _LOWER
        width = max(_CONSISTENCY * distances.mad(), below)
        return rise / max(width, self._floor, self._survived / _RISEN)
