"""The learning rate that a step used, and the loss scale of fp16 training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

Reading = Callable[[], "float | Tensor | None"]


class RateProbe(Probe):
    """Learning rate of the first parameter group and loss scale, as they stand before the step.

    `scale` reads the loss scale; where there is none, say why in `no_scale` instead.
    """

    name = "learning rate"
    signals = ("lr", "loss_scale")

    def __init__(self, rate: Reading, scale: Reading | None, no_scale: str = "") -> None:
        self._readings: dict[str, Reading] = {"lr": rate}
        if scale is not None:
            self._readings["loss_scale"] = scale
        self._no_scale = no_scale
        self._first = 0
        self._last: list[float | Tensor | None] = []

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self._readings]

    def missing(self) -> Mapping[str, str]:
        return {} if "loss_scale" in self._readings else {"loss_scale": self._no_scale}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def optimizer_began(self) -> None:
        self._last = [_keep(reading()) for reading in self._readings.values()]

    def read(self, sample: Sample) -> None:
        for index, value in enumerate(self._last, self._first):
            if isinstance(value, Tensor):
                sample.later(value, _filler(sample, index))
            elif value is not None:
                sample.put(index, value)
        self._last = []


def _keep(value: float | Tensor | None) -> float | Tensor | None:
    """A rate may be a tensor that the scheduler changes in place."""
    if isinstance(value, Tensor):
        if value.device.type == "cpu":
            return float(value.detach())
        return value.detach().clone().reshape(1)
    return None if value is None else float(value)


def _filler(sample: Sample, index: int) -> Callable[[list[float]], None]:
    return lambda values: sample.put(index, values[0])
