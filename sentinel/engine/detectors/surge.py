"""How far a value rises out of its recent noise, whatever the noise is like."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.sorted_window import SortedWindow, median_of, most_mad, quantile_of

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
        self._fewest = level // 4  # values of the level before there is a distance
        self._outliers: deque[float] = deque(maxlen=2 * level)  # in a row, since the last inlier
        self._highest = 0.0  # distance of them
        self._minimum = min(_MINIMUM, window)
        self._floor = floor
        self._last_scale = 0.0
        self._learned = _REFRESH  # distances since then
        self._refresh = 0  # so many, and it is taken anew
        self._warm = False  # from the first score on; what is learned anew scores 0 at first
        self._settled = False  # whether there are as many values and distances as it takes
        self._in_logarithms = True
        self._not_positive = 0  # values so far, until there are too many

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not -math.inf < value < math.inf:
            return math.nan
        x = value
        if self._in_logarithms:
            if value > 0:
                x = math.log(value)
            elif self._bears_it():
                return -math.inf if self._warm else math.nan
        level = self._level
        if not self._settled and len(level) < self._fewest:
            level.let_in(x)
            return 0.0 if self._warm else math.nan
        values = level.ordered()
        distance = x - median_of(values)
        if distance and self._settled and self._learned < self._refresh and self._last_scale:
            score = distance / self._last_scale
        else:
            score = self._score(distance)
        if score > _RETURNED:
            score = self._limited(x, score, values[-1])
        if score > (_RETURNED if self._outliers else _OUTLIER):
            self._put_aside(x, distance)
            return score
        if self._outliers:
            self._return()
        self._learned += 1
        self._distances.push(distance)
        if self._refresh < _REFRESH:
            self._refresh = min(_REFRESH, len(self._distances) // 16)
        level.let_in(x)
        return score

    def _bears_it(self) -> bool:
        """One more value is not positive: whether logarithms still fit the series."""
        self._not_positive += 1
        if self._not_positive < _NOT_POSITIVE:
            return True
        self._start_anew()
        return False

    def _score(self, distance: float) -> float:
        if not self._settled:
            if len(self._distances) < self._minimum:
                return 0.0 if self._warm else math.nan
            self._settled = self._warm = True
        if not distance:
            return 0.0
        if self._learned >= self._refresh:
            self._last_scale, self._learned = self._scale(), 0
        scale = self._last_scale
        return distance / scale if scale else math.copysign(math.inf, distance)

    def _limited(self, x: float, score: float, high: float) -> float:
        """Not so high that it counts as an outlier, unless it exceeds all of the level."""
        least = _RETURNED if self._outliers else _OUTLIER
        if score <= least:
            return score
        known = x <= high + _HIGHER * (1.0 if self._in_logarithms else abs(high))
        return least if known else score

    def _scale(self) -> float:
        if not self._in_logarithms:
            return self._scale_of_both_sides()
        distances = self._distances.ordered()
        count = len(distances)
        middle = median_of(distances)
        tail = quantile_of(distances, min(_TAIL, 1 - 1 / (count - 1))) - middle
        noise = max(tail / _TAIL_Z, self._floor)
        if _CONSISTENCY * most_mad(distances, middle) > noise:
            noise = max(_CONSISTENCY * self._distances.mad(), noise)
        recurring = quantile_of(distances, max(0.0, 1 - (_RECURRING - 1) / (count - 1)))
        return max(noise * (1 + _YOUNG / count), _MARGIN * recurring / _OUTLIER)

    def _scale_of_both_sides(self) -> float:
        """Values around 0, such as policy gradients' losses, go either way, and by their nature
        ten times as far as they mostly do: both sides tell of that, and more is asked of a surge.
        """
        distances = self._distances.ordered()
        count = len(distances)
        middle, second = median_of(distances), 1 / (count - 1)
        low, high = quantile_of(distances, 1 - _TAIL), quantile_of(distances, _TAIL)
        tail = max(high - middle, middle - low)
        noise = _WIDER * max(_CONSISTENCY * self._distances.mad(), tail / _TAIL_Z)
        floor = math.expm1(_OUTLIER * self._floor) / _OUTLIER * abs(self._level.median())
        recurring = max(quantile_of(distances, 1 - second), -quantile_of(distances, second))
        scale = max(noise, floor) * (1 + _YOUNG / count)
        return max(scale, _WIDER_MARGIN * recurring / _OUTLIER)

    def _return(self) -> None:
        """After outliers, the first value that is none."""
        if len(self._outliers) <= _ISOLATED:
            self._distances.push(self._highest)
            self._learned = _REFRESH
        self._outliers.clear()
        self._highest = 0.0

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
        self._in_logarithms = False
        self._settled = False
        self._learned, self._refresh = _REFRESH, 0
        self._level.clear()
        self._distances.clear()
        self._outliers.clear()
        self._highest = 0.0
