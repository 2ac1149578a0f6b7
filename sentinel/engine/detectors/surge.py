"""How far a value rises out of its recent noise, whatever the noise is like."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.window import SortedWindow

_CONSISTENCY = 1.4826  # MAD to standard deviation, for normal noise
_OUTLIER = 5.0  # deviations from which on a value is not admitted
_RETURNED = 2.0  # deviations below which the values after an outlier are admitted again
_TAIL, _TAIL_Z = 0.98, 2.054  # a quantile of the noise, and where a normal one has it
_ISOLATED = 3  # values in a row; what is over by then is how this series is, if it comes again
_RECURRING, _MARGIN = 4, 1.25  # what was reached so often is exceeded only if by so much
_WIDER, _WIDER_MARGIN = 2.0, 3.0  # where values go either way: of the noise; of the second largest
_HIGHER = 0.05  # by this share the highest value of the level must be exceeded
_MINIMUM = 12  # distances before there is a score
_YOUNG = 4.0  # with so many distances the scale is doubled, with more of them by less
_REFRESH = 4  # distances after which the scale is taken anew; sooner while they are few
_NOT_POSITIVE = 3  # values that show that a series is not one of positive numbers


class Surge:
    """`(x - median of the last level) / scale`, in logarithms while values are positive.

    The scale is the largest of what the last `window` distances from the level say of the noise:
    `1.4826 MAD`; their 98th percentile less their median, over 2.054, which is the same for normal
    noise and more for heavy tails and two levels; a fifth of 1.25 times the fourth highest, so that
    what comes again and again is no news; and `floor`, so that nothing below `exp(5 floor)` times
    the level scores over 5. Values that score over 5 and are higher than all of the level are not
    admitted. Of those that were over within 3 values the highest enters the noise; after twice
    `level` in a row they are the new level. The third value that is not positive ends the
    logarithms: the detector starts anew with the values themselves, takes its scale from both sides
    and asks for more. The scale is taken anew with every fourth value.

    Source: the modified z-score of Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993;
    thresholds from the tail itself as in Siffer et al., KDD 2017 (SPOT).

    >>> detector = Surge(window=32)
    >>> for i in range(32):
    ...     _ = detector.update(2.0 + 0.1 * (-1) ** i)
    >>> round(detector.update(2.1), 2), round(detector.update(5.0), 1)
    (0.59, 20.2)
    >>> detector.update(math.nan), round(detector.update(5.0), 1)
    (nan, 20.2)
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "window": window(256),
        "level": Parameter(16, 8, 1000, "how many values the level is the median of", whole=True),
        "floor": Parameter(0.04, 0.0, 10.0, "the least scale, in logarithms"),
    }

    def __init__(self, window: int = 256, level: int = 16, floor: float = 0.04) -> None:
        self._distances = SortedWindow(window)
        self._level = SortedWindow(level)
        self._outliers: deque[float] = deque(maxlen=2 * level)  # in a row, since the last inlier
        self._highest = 0.0  # distance of them
        self._minimum = min(_MINIMUM, window)
        self._floor = floor
        self._last_scale = 0.0
        self._learned = _REFRESH  # distances since then
        self._warm = False  # from the first score on; what is learned anew scores 0 at first
        self._not_positive = 0  # values so far, until there are too many

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not math.isfinite(value):
            return math.nan
        if self._in_logarithms and value <= 0:
            self._not_positive += 1
            if self._in_logarithms:
                return -math.inf if self._warm else math.nan
            self._start_anew()
        x = math.log(value) if self._in_logarithms else value
        if len(self._level) < self._level.length // 4:
            self._level.push(x)
            return 0.0 if self._warm else math.nan
        distance = x - self._level.median()
        score = self._score(x, distance)
        if score > (_RETURNED if self._outliers else _OUTLIER):
            self._put_aside(x, distance)
        else:
            self._admit(x, distance)
        return score

    @property
    def _in_logarithms(self) -> bool:
        return self._not_positive < _NOT_POSITIVE

    def _score(self, x: float, distance: float) -> float:
        if len(self._distances) < self._minimum:
            return 0.0 if self._warm else math.nan
        self._warm = True
        if not distance:
            return 0.0
        if self._learned >= min(_REFRESH, len(self._distances) // 16):
            self._last_scale, self._learned = self._scale(), 0
        scale = self._last_scale
        score = distance / scale if scale else math.copysign(math.inf, distance)
        high = self._level.high()
        known = x <= high + _HIGHER * (1.0 if self._in_logarithms else abs(high))
        return min(score, _OUTLIER, _RETURNED if self._outliers else _OUTLIER) if known else score

    def _scale(self) -> float:
        if not self._in_logarithms:
            return self._scale_of_both_sides()
        distances, count = self._distances, len(self._distances)
        tail = distances.quantile(min(_TAIL, 1 - 1 / (count - 1))) - distances.median()
        noise = max(_CONSISTENCY * distances.mad(), tail / _TAIL_Z, self._floor)
        recurring = distances.quantile(max(0.0, 1 - (_RECURRING - 1) / (count - 1)))
        return max(noise * (1 + _YOUNG / count), _MARGIN * recurring / _OUTLIER)

    def _scale_of_both_sides(self) -> float:
        """Values around 0, such as policy gradients' losses, go either way, and by their nature
        ten times as far as they mostly do: both sides tell of that, and more is asked of a surge.
        """
        distances, count = self._distances, len(self._distances)
        middle, second = distances.median(), 1 / (count - 1)
        low, high = distances.quantile(1 - _TAIL), distances.quantile(_TAIL)
        tail = max(high - middle, middle - low)
        noise = _WIDER * max(_CONSISTENCY * distances.mad(), tail / _TAIL_Z)
        floor = math.expm1(_OUTLIER * self._floor) / _OUTLIER * abs(self._level.median())
        recurring = max(distances.quantile(1 - second), -distances.quantile(second))
        scale = max(noise, floor) * (1 + _YOUNG / count)
        return max(scale, _WIDER_MARGIN * recurring / _OUTLIER)

    def _admit(self, x: float, distance: float) -> None:
        if self._outliers:
            if len(self._outliers) <= _ISOLATED:
                self._distances.push(self._highest)
                self._learned = _REFRESH
            self._outliers.clear()
            self._highest = 0.0
        self._distances.push(distance)
        self._learned += 1
        self._level.push(x)

    def _put_aside(self, x: float, distance: float) -> None:
        self._outliers.append(x)
        self._highest = max(self._highest, distance)
        if len(self._outliers) == self._outliers.maxlen:
            for outlier in self._outliers:
                self._level.push(outlier)
            self._outliers.clear()
            self._highest = 0.0

    def _start_anew(self) -> None:
        """Logarithms do not fit this series: forget them."""
        self._learned = _REFRESH
        self._level.clear()
        self._distances.clear()
        self._outliers.clear()
        self._highest = 0.0
