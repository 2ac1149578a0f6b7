"""The spike score: how often values lie far from their recent mean."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import ClassVar

from sentinel.engine.detectors.parameter import Parameter, window
from sentinel.engine.moments import MovingMoments

_FAR = 7.0  # standard deviations
_MINIMUM = 32  # values before there is a score


class SpikeScore:
    """The share of the last `window` values that were 7 standard deviations or more from the mean.

    Mean and deviation are those of the last `window` values before each, spikes among them. While
    there have been fewer values than that, those to come count as none of them, so that the first
    spike of a run is not all that there is. 0.001, with the default window, is one spike.

    It tells how well a run behaves over a long time, not whether this step is bad: between two
    runs it compares their stability.

    Source: OLMo Team, 2 OLMo 2 Furious, 2024, arXiv:2501.00656, section 3, where it is taken once
    over a whole run.

    >>> detector = SpikeScore(window=100)
    >>> for i in range(100):
    ...     _ = detector.update(2.0 + 0.1 * (-1) ** i)
    >>> detector.update(2.1), detector.update(5.0), detector.update(math.nan)
    (0.0, 0.01, nan)
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {"window": window(1000)}

    def __init__(self, window: int = 1000) -> None:
        self._past = MovingMoments(window)
        self._spikes: deque[int] = deque()  # when they were, as counts of values
        self._count = 0
        self._minimum = min(_MINIMUM, window)

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        if not math.isfinite(value):
            return math.nan
        moments, past = self._past.moments(), self._past
        past.push(value)
        if moments.size < self._minimum:
            return math.nan
        self._count += 1
        if self._spikes and self._spikes[0] <= self._count - past.length:
            self._spikes.popleft()
        distance = abs(value - moments.mean)
        if distance and distance >= _FAR * moments.deviation:
            self._spikes.append(self._count)
        return len(self._spikes) / past.length
