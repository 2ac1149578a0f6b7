"""What others have published, written anew from their descriptions.

Each is told one row at a time. What each does with NaN is its own doing: where its source lets NaN
into its averages, so does this. The last three are textbook rules; they alarm at what is not
finite, and leave it out of their windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.detectors.alarm import Alarm, Watch
from benchmarks.detectors.rows import read
from benchmarks.traces.trace import Row


class Formula(Protocol):
    """One series at a time would not do: some look at the loss and the norm together."""

    def update(self, row: Row) -> Iterator[str]:
        """The rules that alarm on this row, by their names."""


class Window:
    """The last `size` values, of which one that is not finite makes the statistics NaN."""

    def __init__(self, size: int) -> None:
        self._values = np.zeros(size)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._values))

    def append(self, value: float) -> None:
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def mean_and_deviation(self) -> tuple[float, float]:
        """Of a sample: n - 1 below."""
        values = self._values[: len(self)]
        shift = float(values[0])
        apart = values - shift
        mean = float(apart.sum()) / len(apart)
        square = float(apart @ apart) / len(apart) - mean * mean
        if math.isnan(square):
            return math.nan, math.nan
        return shift + mean, math.sqrt(max(0.0, square) * len(apart) / max(1, len(apart) - 1))

    def median_and_mad(self) -> tuple[float, float]:
        """The second times 1.4826, which makes it a deviation where noise is Gaussian."""
        values = self._values[: len(self)]
        median = _median(values)
        return median, 1.4826 * _median(np.abs(values - median))


def _median(values: NDArray[np.float64]) -> float:
    ordered = np.sort(values)
    half = len(ordered) // 2
    return float(ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def _series(row: Row) -> Iterator[tuple[str, float]]:
    """What was logged of the loss and the gradient norm, by the name of an alarm about it."""
    if row.loss is not None:
        yield "LossSpike", row.loss
    if row.grad_norm is not None:
        yield "GradientExplosion", row.grad_norm


class SpikeScore:
    """OLMo 2's spike score, as an alarm: a value at least 7 standard deviations from the mean of
    the last 1,000, of the loss and of the gradient norm, from the 100th value on.

    OLMo team 2025, "2 OLMo 2 Furious", arXiv:2501.00656, section 3.1. The score itself is the share
    of such values; the paper says nothing of the first ones.
    """

    def __init__(self) -> None:
        self._windows = {"LossSpike": Window(1000), "GradientExplosion": Window(1000)}

    def update(self, row: Row) -> Iterator[str]:
        for name, value in _series(row):
            window = self._windows[name]
            if len(window) >= 100:
                mean, deviation = window.mean_and_deviation()
                if abs(value - mean) >= 7 * deviation > 0:
                    yield name
            window.append(value)


class SkipStep:
    """OLMo-core's SkipStepOptimizer: a step is skipped, here alarmed about, unless loss and
    gradient norm are both within 6 standard deviations of the mean of the last 128, once there are
    64. NaN is within nothing, and makes the windows NaN; nor is anything where they are constant.

    github.com/allenai/OLMo-core, src/olmo_core/optim/skip_step_optimizer.py.
    """

    def __init__(self) -> None:
        self._windows = {"LossSpike": Window(128), "GradientExplosion": Window(128)}

    def update(self, row: Row) -> Iterator[str]:
        for name, value in _series(row):
            window = self._windows[name]
            if len(window) >= 63:
                mean, deviation = window.mean_and_deviation()
                score = abs(value - mean) / deviation if deviation else math.nan
                if not score <= 6:
                    yield name
            window.append(value)


class ZClip:
    """ZClip: exponential mean and variance of the gradient norm, alpha .97, begun with the first
    25; an alarm where it would clip, at z over 2.5. What is clipped enters as mean + 2.5^2 sd / z.

    Kumar et al. 2025, arXiv:2504.02507; github.com/bluorion-com/ZClip, zclip.py.
    """

    ALPHA: ClassVar = 0.97
    LIMIT: ClassVar = 2.5

    def __init__(self) -> None:
        self._first: list[float] = []
        self._mean = self._variance = 0.0

    def update(self, row: Row) -> Iterator[str]:
        norm = row.grad_norm
        if norm is None:
            return
        if len(self._first) < 25:
            self._first.append(norm)
            self._mean, self._variance = float(np.mean(self._first)), float(np.var(self._first))
            return
        deviation = math.sqrt(self._variance)
        score = (norm - self._mean) / (deviation + 1e-6)
        if score > self.LIMIT:
            yield "GradientExplosion"
            norm = self._mean + self.LIMIT**2 * deviation / score
        self._mean = self.ALPHA * self._mean + (1 - self.ALPHA) * norm
        square = (norm - self._mean) * (norm - self._mean)
        self._variance = self.ALPHA * self._variance + (1 - self.ALPHA) * square


class KillLossSpike:
    """LLM Foundry's callback: the fifth loss in a row of at least twice the mean of the last 100,
    or, from step 200 on, half of the last 100 losses over 10. Both would stop the run, unless it is
    told only to log.

    github.com/mosaicml/llm-foundry, llmfoundry/callbacks/kill_loss_spike_callback.py.
    """

    def __init__(self) -> None:
        self._window = Window(100)
        self._high: list[bool] = []
        self._outliers = 0
        self._seen = 0

    def update(self, row: Row) -> Iterator[str]:
        if (loss := row.loss) is None:
            return
        self._seen += 1
        if len(self._window) == 100:
            self._outliers = self._outliers + 1 if loss >= 2 * self._mean() else 0
            if self._outliers > 4:
                yield "LossSpike"
            elif self._seen >= 200 and sum(self._high[-100:]) >= 50:
                yield "HighLoss"
        self._window.append(loss)
        self._high = [*self._high[-99:], loss > 10]

    def _mean(self) -> float:
        return self._window.mean_and_deviation()[0]


class TenTimes:
    """Megatron-LM's rerun state machine: at least 10 times the largest of the first 100 losses, or
    of the first 100 gradient norms; and what is not finite, which it looks for apart.

    github.com/NVIDIA/Megatron-LM, megatron/core/rerun_state_machine.py (is_unexpectedly_large).
    """

    def __init__(self) -> None:
        self._largest = {"LossSpike": 0.0, "GradientExplosion": 0.0}
        self._seen = {"LossSpike": 0, "GradientExplosion": 0}

    def update(self, row: Row) -> Iterator[str]:
        for name, value in _series(row):
            if not math.isfinite(value):
                yield "NonFinite"
            elif self._seen[name] < 100:
                self._seen[name] += 1
                self._largest[name] = max(self._largest[name], abs(value))
            elif abs(value) >= 10 * self._largest[name]:
                yield name


class ZScore:
    """More than `limit` standard deviations above the mean of the last 128, once there are 32."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._windows = {"LossSpike": Window(128), "GradientExplosion": Window(128)}

    def update(self, row: Row) -> Iterator[str]:
        for name, value in _series(row):
            window = self._windows[name]
            if not math.isfinite(value):
                yield "NonFinite"
                continue
            if len(window) >= 32:
                mean, deviation = window.mean_and_deviation()
                if value > mean + self._limit * deviation:
                    yield name
            window.append(value)


class RobustScore:
    """More than 8 times 1.4826 MAD above the median of the last 64, once there are 32."""

    def __init__(self) -> None:
        self._windows = {"LossSpike": Window(64), "GradientExplosion": Window(64)}

    def update(self, row: Row) -> Iterator[str]:
        for name, value in _series(row):
            window = self._windows[name]
            if not math.isfinite(value):
                yield "NonFinite"
                continue
            if len(window) >= 32:
                median, deviation = window.median_and_mad()
                if value > median + 8 * deviation:
                    yield name
            window.append(value)


def watch(formula: type[Formula], *arguments: float, acts: bool = False) -> Watch:
    """A formula as a detector; `acts` says that its alarms stop a run."""

    def alarms(path: Path) -> Iterator[Alarm]:
        one = formula(*arguments)
        for number, row in enumerate(read(path)):
            for name in one.update(row):
                yield Alarm(number, name, acts)

    return alarms


PUBLISHED: Mapping[str, Watch] = {
    "OLMo 2 spike score": watch(SpikeScore),
    "OLMo-core SkipStep": watch(SkipStep),
    "ZClip": watch(ZClip),
    "KillLossSpike": watch(KillLossSpike, acts=True),
    "Megatron 10x": watch(TenTimes),
    "z > 6 of 128": watch(ZScore, 6.0),
    "mean + 3 sd": watch(ZScore, 3.0),
    "MAD > 8 of 64": watch(RobustScore),
}
