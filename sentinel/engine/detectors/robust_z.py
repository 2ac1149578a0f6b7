"""The robust z-score: how many deviations a value lies above its recent level."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.window import RingWindow, median, median_absolute_deviation

_CONSISTENCY = 1.4826  # MAD to standard deviation, for normal noise
_OUTLIER = 5.0  # deviations from which on a value is not admitted
_MINIMUM = 32  # values before there is a score


class RobustZ:
    """`(x - median) / (1.4826 * MAD)` over the last `window` inliers before x.

    Values further than 5 deviations away, on either side, are scored but not admitted, so that a
    spike does not raise the level that it is measured by. After `window` of them in a row the
    level itself has moved: they become the new baseline. Where all inliers are equal, whatever
    differs from them is infinitely far away.

    Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993 (the modified z-score).

    >>> detector = RobustZ(window=32)
    >>> for i in range(32):
    ...     _ = detector.update(np.array([2.0 + 0.1 * (-1) ** i]))
    >>> detector.update(np.array([2.1])).round(2), detector.update(np.array([5.0])).round(1)
    (array([0.67]), array([20.2]))
    >>> detector.update(np.array([np.nan])), detector.update(np.array([5.0])).round(1)
    (array([nan]), array([20.2]))
    """

    default_window: ClassVar[int] = 200

    def __init__(self, window: int) -> None:
        self._inliers = RingWindow(window)
        self._outliers = RingWindow(window)  # in a row, since the last inlier
        self._minimum = min(_MINIMUM, window)

    def update(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score one value of each element, then learn from it."""
        self._inliers.grow(values.shape)
        self._outliers.grow(values.shape)
        finite = np.isfinite(values)
        scores = np.where(finite, self._scores(values), np.nan)
        outlying = np.abs(scores) > _OUTLIER  # false for NaN: what comes before is admitted
        inlying = finite & ~outlying
        self._inliers.push(values, inlying)
        if outlying.any() or self._outliers.count.any():
            self._outliers.clear(inlying)
            self._outliers.push(values, outlying)
            self._rebase()
        return scores

    def _rebase(self) -> None:
        """Where a whole window of values in a row lay outside, the level has moved to them."""
        moved = self._outliers.count == self._outliers.length
        self._inliers.replace(self._outliers, moved)
        self._outliers.clear(moved)

    def _scores(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        center = self._inliers.over(median)
        scale = _CONSISTENCY * self._inliers.over(median_absolute_deviation)
        with np.errstate(all="ignore"):
            distance = values - center
            scores = np.where(distance == 0, 0.0, distance / scale)
        return np.where(self._inliers.count >= self._minimum, scores, np.nan)
