"""The cumulative sum: small rises that last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.sorted_window import SortedWindow

_OF_TENTHS = 0.3901  # from lowest to highest tenth, to a standard deviation, for normal noise
_CLIP = 3.0  # deviations that a single value counts for at most, so that a spike is no drift
_CEILING = 2.0  # of the score: what has risen for long is over soon after it has come back
_MINIMUM = 32  # values before there is a score


class Cusum:
    """`S / h`, where `S = max(0, S + z - k)` sums up how far values lie above their recent level.

    `z = (x - level) / deviation`, between -3 and 3, over the last `window` values before x: the
    level is their trimean, (q25 + 2 * median + q75) / 4, the deviation 0.39 times the distance
    between their lowest and highest tenth. Both are robust, and unlike median and MAD they don't
    follow every whim of noise that is skewed or has two levels by nature.

    `k` deviations are forgiven at each step: a rise of less than that is not summed up, and one of
    twice that is what is found soonest. `h` is the sum, in deviations, at which the score is 1,
    the usual limit. The sum ends at `2 h`, so that it is under the limit at most `h / k` steps
    after the values have come back. All finite values enter the window: a level that stays is the
    new one after half of it or so, and the score goes back to 0 by itself.

    One-sided: what falls scores 0. Negate the signal to follow what falls.

    Source: Page, Continuous Inspection Schemes, Biometrika 1954; against single outliers as in
    Lucas and Crosier, Robust CUSUM, 1982; the trimean is Tukey's, Exploratory Data Analysis, 1977.

    >>> detector = Cusum(window=32)
    >>> for i in range(32):
    ...     _ = detector.update(2.0 + 0.1 * (i % 3))
    >>> [round(detector.update(2.4), 2) for _ in range(5)]
    [0.33, 0.67, 1.0, 1.33, 1.5]
    >>> detector.update(math.nan), round(detector.update(2.0), 2)
    (nan, 1.23)
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "window": window(200),
        "k": Parameter(1.0, 0.1, 2.5, "deviations that are forgiven at each step"),
        "h": Parameter(6.0, 1.0, 1000.0, "the sum, in deviations, at which the score is 1"),
    }

    def __init__(self, window: int = 200, k: float = 1.0, h: float = 6.0) -> None:
        self._past = SortedWindow(window)
        self._minimum = min(_MINIMUM, window)
        self._k = k
        self._h = h
        self._sum = 0.0

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not math.isfinite(value):
            return math.nan
        past = self._past
        if len(past) < self._minimum:
            past.let_in(value)
            return math.nan
        distance = value - self._level()
        scale = _OF_TENTHS * (past.quantile(0.9) - past.quantile(0.1))
        z = distance / scale if scale else math.copysign(math.inf, distance) if distance else 0.0
        z = max(-_CLIP, min(_CLIP, z))
        self._sum = max(0.0, min(_CEILING * self._h, self._sum + z - self._k))
        past.let_in(value)
        return self._sum / self._h

    def _level(self) -> float:
        past = self._past
        return (past.quantile(0.25) / 2 + past.median() + past.quantile(0.75) / 2) / 2
