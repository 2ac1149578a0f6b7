"""The learning rate that a step used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample
from sentinel_hooks.probes.readback import number

Rate = float | Tensor


class RateProbe(Probe):
    """Learning rate of the first parameter group, and whether all groups have none.

    `rates` reads the rate of every group as it stands before the step; `absent` says why there
    is none to be read. A rate of 0 is what warm-up schedules begin with: such a step changes
    nothing, though nobody skips it.
    """

    name = "learning rate"
    signals = ("lr", "zero_lr")

    def __init__(self, rates: Callable[[], Sequence[Rate]], absent: str = "") -> None:
        self._rates = rates
        self._absent = absent
        self._first = 0
        self._last: list[Rate] = []

    def series(self) -> Sequence[Series]:
        return () if self._absent else [Series(name) for name in self.signals]

    def missing(self) -> Mapping[str, str]:
        return dict.fromkeys(self.signals, self._absent) if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def optimizer_began(self) -> None:
        if not self._absent:
            self._last = [kept(rate) for rate in self._rates()]

    def read(self, sample: Sample) -> None:
        rates, self._last = self._last, []
        on_device = [rate for rate in rates if isinstance(rate, Tensor)]

        def fill(values: list[float]) -> None:
            read_back = iter(values)
            known = [next(read_back) if isinstance(one, Tensor) else one for one in rates]
            sample.put(self._first, known[0])
            sample.put(self._first + 1, float(not any(known)))

        if on_device:
            sample.later(torch.cat(on_device), fill)
        elif rates:
            fill([])


def kept(value: Rate) -> Rate:
    """The value as it stands now: on a device a copy, since it may be changed in place."""
    if isinstance(value, Tensor):
        if value.device.type == "cpu":
            return number(value)
        return value.detach().clone().to(torch.float32).reshape(1)
    return float(value)
