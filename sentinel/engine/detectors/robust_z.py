"""The robust z-score: how many deviations a value lies above its recent level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.sorted_window import SortedWindow, median_of

_CONSISTENCY = 1.4826  # MAD to standard deviation, for normal noise
_OUTLIER = 5.0  # deviations from which on a value is not admitted
_MINIMUM = 32  # values before there is a score
_CALM = 8  # values that may wait
_SURELY = 7.0  # times the MAD: less than 5 deviations, with room for what is lost by rounding
_LARGE = 1e150  # so far from zero nothing can overflow


class RobustZ:
    """`(x - median) / max(1.4826 * MAD, floor * |median|)` over the last `window` inliers before x.

    Values further than 5 deviations away, on either side, are scored but not admitted, so that a
    spike does not raise the level that it is measured by. After `window` of them in a row the
    level itself has moved: they become the new baseline. Where all inliers are equal and there is
    no floor, whatever differs from them is infinitely far away.

    Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993 (the modified z-score).

    >>> detector = RobustZ(window=32)
    >>> for i in range(32):
    ...     _ = detector.update(2.0 + 0.1 * (-1) ** i)
    >>> round(detector.update(2.1), 2), round(detector.update(5.0), 1)
    (0.67, 20.2)
    >>> detector.update(math.nan), round(detector.update(5.0), 1)
    (nan, 20.2)
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "window": window(200),
        "floor": Parameter(0.0, 0.0, 1.0, "the least deviation, as a share of the level"),
    }

    def __init__(self, window: int = 200, floor: float = 0.0) -> None:
        self._inliers = SortedWindow(window)
        self._outliers = SortedWindow(window)  # in a row, since the last inlier
        self._minimum = min(_MINIMUM, window)
        self._floor = floor
        # So many values to come are inliers for sure if they lie between these; those that did
        # wait until more is asked of them.
        self._calm = 0
        self._lowest, self._highest = math.inf, -math.inf
        self._waiting: list[float] = []
        self._last = math.nan  # score, of a value that does not wait

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not math.isfinite(value):
            return math.nan
        if self._waiting:
            self._let_in()
        self._calm = 0
        return self._take(value)

    def learn(self, value: float) -> float:
        """Learn from a value. Returns what its score is not above, NaN if it has none."""
        if self._calm and self._lowest < value < self._highest:
            self._calm -= 1
            self._waiting.append(value)
            return _OUTLIER
        if not math.isfinite(value):
            return math.nan
        if self._waiting:
            self._let_in()
        score = self._last = self._take(value)
        self._look_ahead()
        return score

    def score(self) -> float:
        """The score of the last value that was finite, which has one."""
        if self._waiting:
            last = self._waiting.pop()
            self._let_in()
            self._last = self._take(last)
        return self._last

    def _let_in(self) -> None:
        push = self._inliers.push
        for value in self._waiting:
            push(value)
        self._waiting.clear()

    def _take(self, value: float) -> float:
        score = self._score(value)
        if abs(score) > _OUTLIER:  # false for NaN: what comes before is admitted
            self._outliers.push(value)
            if len(self._outliers) == self._outliers.length:
                self._inliers, self._outliers = self._outliers, self._inliers
                self._outliers.clear()
        else:
            self._inliers.push(value)
            if self._outliers:
                self._outliers.clear()
        return score

    def _score(self, value: float) -> float:
        inliers = self._inliers
        if len(inliers) < self._minimum:
            return math.nan
        ordered = inliers.ordered()
        center = median_of(ordered)
        scale = max(_CONSISTENCY * inliers.mad(), self._floor * abs(center))
        distance = value - center
        if scale:
            return distance / scale
        return math.copysign(math.inf, distance) if distance else 0.0

    def _look_ahead(self) -> None:
        """Find between which bounds the next values are inliers, whatever those before them are.

        Each value that comes moves the others by one place at most, so that the median stays
        between two of them that are known now; and no fewer than half lie outside of two others,
        so that the MAD is not below the distance of the nearer of these from the median.
        """
        ordered = self._inliers.ordered()
        count = len(ordered)
        steps = min(_CALM, count // 16)
        self._calm = 0
        if self._outliers or count < self._inliers.length or steps < 2:
            return
        half, first = count >> 1, count >> 2
        low, high = ordered[half - 1 - steps], ordered[half + steps]
        below = low - ordered[first + steps]
        above = ordered[first + ((count + 1) >> 1) - steps] - high
        near = _SURELY * min(below, above)
        self._lowest, self._highest = high - near, low + near
        if self._lowest < self._highest and ordered[0] > -_LARGE and ordered[-1] < _LARGE:
            self._calm = steps
