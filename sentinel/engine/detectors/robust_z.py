"""The robust z-score: how many deviations a value lies above its recent level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.window import SortedWindow

_CONSISTENCY = 1.4826  # MAD to standard deviation, for normal noise
_OUTLIER = 5.0  # deviations from which on a value is not admitted
_MINIMUM = 32  # values before there is a score


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

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not math.isfinite(value):
            return math.nan
        score = self._score(value)
        if abs(score) > _OUTLIER:  # false for NaN: what comes before is admitted
            self._outliers.push(value)
            if len(self._outliers) == self._outliers.length:
                self._inliers, self._outliers = self._outliers, self._inliers
                self._outliers.clear()
        else:
            self._inliers.push(value)
            self._outliers.clear()
        return score

    def _score(self, value: float) -> float:
        inliers = self._inliers
        if len(inliers) < self._minimum:
            return math.nan
        center = inliers.median()
        scale = max(_CONSISTENCY * inliers.mad(), self._floor * abs(center))
        distance = value - center
        if scale:
            return distance / scale
        return math.copysign(math.inf, distance) if distance else 0.0
