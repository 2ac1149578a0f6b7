"""Samples on their way: those whose values are still on the device, and those that are complete."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentinel_hooks.probes.probe import Fill, Probe, Sample
from sentinel_hooks.probes.readback import Arrival, Copier, Readback

MAX_UNSETTLED = 64  # samples; beyond these the oldest is given up rather than kept for a device

Deferred = tuple[Probe, Tensor, Fill]


@dataclass
class _Waiting:
    """A sample whose values are still on the device."""

    sample: Sample
    pending: Arrival | None
    fills: Sequence[tuple[Probe, Fill]]


class Settlement:
    """Hands samples out in order, each once and only when all of its values have arrived.

    `call` calls a probe's function with the values it waited for and says whether that went well;
    `blank` takes back what a probe put into a sample where it did not.
    """

    def __init__(
        self,
        device: torch.device,
        readback: Copier | None,
        call: Callable[[Probe, Fill, list[float]], bool],
        blank: Callable[[Sample, Probe], None],
    ) -> None:
        self._readback = readback or (Readback(device) if device.type == "cuda" else None)
        self._call = call
        self._blank = blank
        self._settled: deque[Sample] = deque(maxlen=MAX_UNSETTLED)
        self._waiting: deque[_Waiting] = deque()

    @property
    def defers(self) -> bool:
        """Whether values come later than they are asked for."""
        return self._readback is not None

    def add(self, sample: Sample) -> None:
        """This sample is complete, whatever others wait for."""
        self._settled.append(sample)

    def wait_for(self, sample: Sample, deferred: Sequence[Deferred]) -> None:
        """Bring what was deferred over; the sample comes after those before it."""
        if not deferred and not self._waiting:
            self._settled.append(sample)
            return
        pending = None
        if deferred and self._readback is not None:
            pending = self._readback.submit([tensor for _, tensor, _ in deferred])
        fills = [(probe, fill) for probe, _, fill in deferred]
        self._waiting.append(_Waiting(sample, pending, fills))
        if len(self._waiting) > MAX_UNSETTLED:
            self._waiting.popleft()

    def take(self, *, wait: bool = False) -> list[Sample]:
        """The samples that are complete, in order. `wait`: wait for the device."""
        while self._waiting:
            head = self._waiting[0]
            if head.pending is not None:
                if wait:
                    head.pending.wait()
                elif not head.pending.ready():
                    break
            self._settle(self._waiting.popleft())
        samples = list(self._settled)
        self._settled.clear()
        return samples

    def _settle(self, waiting: _Waiting) -> None:
        if waiting.pending is not None:
            for (probe, fill), values in zip(waiting.fills, waiting.pending.values(), strict=True):
                if not self._call(probe, fill, values):
                    self._blank(waiting.sample, probe)
        self._settled.append(waiting.sample)
