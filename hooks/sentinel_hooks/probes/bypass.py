"""Backward passes that the trainer was not asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample


class BypassProbe(Probe):
    """Whether a backward pass through the model's output went past the trainer's own.

    `loss.backward()` instead of `engine.backward(loss)` leaves out whatever that does besides:
    the division by accumulation steps, the loss scale and, at stage 0, the averaging over ranks.
    Whoever watches the model tells of such a pass by `noticed`. Of a step in which no backward
    pass at all was seen nothing is said. `absent` is why it cannot be told here.
    """

    name = "bypassed backward"
    signals = ("backward_bypassed",)

    def __init__(self, absent: str = "") -> None:
        self._absent = absent
        self._first = 0
        self._passes = 0
        self._noticed = False

    def series(self) -> Sequence[Series]:
        return () if self._absent else (Series("backward_bypassed"),)

    def missing(self) -> Mapping[str, str]:
        return {"backward_bypassed": self._absent} if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def backward_began(self) -> None:
        self._passes += 1

    def noticed(self) -> None:
        """A backward pass that nobody announced is over."""
        self._noticed = True

    def read(self, sample: Sample) -> None:
        passes, noticed = self._passes, self._noticed
        self._passes, self._noticed = 0, False
        if passes and not self._absent:
            sample.put(self._first, float(noticed))
