"""Bring values from a device to the host without ever waiting for the device.

On CUDA the values of a step are put side by side on the device, copied into a pinned buffer behind
the step's own kernels, and read once the event recorded behind the copy has completed, which is
asked (`query`) and never waited for. A few KB are copied in microseconds: to have a stream of our
own do it would take the host longer than the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Place = tuple[Tensor, torch.cuda.Event]  # pinned, and what is recorded behind a copy to it


def number(tensor: Tensor) -> float:
    """The one element of a tensor on the CPU.

    Not by `item`, an operator that would wait for the device of any other tensor.
    """
    value: object = tensor.detach().reshape(()).tolist()
    return float(value)  # type: ignore[arg-type]


class Arrival(Protocol):
    """Values on their way to the host."""

    def ready(self) -> bool:
        """Whether they have arrived. Does not wait."""
        ...

    def wait(self) -> None:
        """Wait for the device: only at the end, when nobody trains any more."""
        ...

    def values(self) -> list[list[float]]:
        """The elements of each tensor that was submitted; asked for once, when `ready`."""
        ...


class Copier(Protocol):
    """Starts to bring values to the host."""

    def submit(self, tensors: Sequence[Tensor]) -> Arrival:
        """Begin to bring these 1-d float tensors over."""
        ...


class Pinned:
    """Values that a CUDA device copies into a pinned buffer."""

    def __init__(self, place: Place, sizes: Sequence[int], free: list[Place]) -> None:
        self._place = place
        self._buffer, self._event = place
        self._sizes = sizes
        self._free = free

    def ready(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self._event.synchronize()

    def values(self) -> list[list[float]]:
        everything: list[float] = self._buffer.tolist()
        self._free.append(self._place)
        parts, start = [], 0
        for size in self._sizes:
            parts.append(everything[start : start + size])
            start += size
        return parts


class Readback:
    """The `Copier` of one CUDA device; uses its pinned buffers again and again."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[Place] = []

    @torch.inference_mode()
    def submit(self, tensors: Sequence[Tensor]) -> Pinned:
        flat = torch.cat([one.to(torch.float32) for one in tensors])
        buffer, event = self._take_place(flat.numel())
        buffer.copy_(flat, non_blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return Pinned((buffer, event), [one.numel() for one in tensors], self._free)

    def _take_place(self, size: int) -> Place:
        for index, (buffer, _) in enumerate(self._free):
            if buffer.numel() == size:
                return self._free.pop(index)
        buffer = torch.empty(size, dtype=torch.float32, pin_memory=True)
        return buffer, torch.cuda.Event()  # type: ignore[no-untyped-call]
