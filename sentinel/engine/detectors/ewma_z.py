"""The z-score against an exponentially weighted mean and deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window

_CLIP = 3.0  # deviations: what is further away moves the baseline as if it were there
_MINIMUM = 32  # values before there is a score


class EwmaZ:
    """`(x - mean) / max(deviation, floor * |mean|)`, both weighted exponentially over the past.

    The newest value has the weight `2 / (window + 1)`, so that weights are as old on average as
    those of a plain window of that many values; until there are so many all weigh the same.

    A value further than 3 deviations away is scored as it is, but enters mean and deviation as if
    it lay at 3. One spike thus widens the deviation by little, 11% with the default window. A level
    that stays widens it by as much at each step, and so becomes the new baseline in a number of
    steps that grows only with the logarithm of the jump. Where all values were equal and there is
    no floor, whatever differs is infinitely far away, and admitted as it is.

    Source: Roberts, Control Chart Tests Based on Geometric Moving Averages, 1959; the recurrence
    from Finch, Incremental Calculation of Weighted Mean and Variance, 2009; clipped values in the
    baseline as in ZClip (Kumar et al., 2025, arXiv:2504.02507).

    >>> detector = EwmaZ(window=32)
    >>> for i in range(32):
    ...     _ = detector.update(2.0 + 0.1 * (-1) ** i)
    >>> round(detector.update(2.1), 2), round(detector.update(5.0), 1)
    (1.02, 30.0)
    >>> detector.update(math.nan), round(detector.update(5.0), 1)
    (nan, 24.7)
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "window": window(64),
        "floor": Parameter(0.0, 0.0, 1.0, "the least deviation, as a share of the level"),
    }

    def __init__(self, window: int = 64, floor: float = 0.0) -> None:
        self._weight = 2 / (window + 1)
        self._floor = floor
        self._minimum = min(_MINIMUM, window)
        self._count = 0
        self._mean = 0.0
        self._deviation = 0.0

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not math.isfinite(value):
            return math.nan
        distance = value - self._mean
        scale = max(self._deviation, self._floor * abs(self._mean))
        if self._count < self._minimum:
            self._learn(distance)
            return math.nan
        if not scale:
            self._learn(distance)
            return math.copysign(math.inf, distance) if distance else 0.0
        self._learn(max(-_CLIP * scale, min(_CLIP * scale, distance)))
        return distance / scale

    def _learn(self, distance: float) -> None:
        self._count += 1
        weight = max(self._weight, 1 / self._count)
        self._mean += weight * distance
        kept = math.sqrt(1 - weight)  # roots, not squares, which overflow from 1e155 on
        self._deviation = kept * math.hypot(self._deviation, math.sqrt(weight) * distance)
