"""Bring values from a device to the host without ever waiting for the device.

On CUDA the values of a step are put side by side on the device, copied into a pinned buffer on a
stream of our own, and read once the event recorded behind the copy has completed, which is asked
(`query`) and never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


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

    def __init__(
        self, buffer: Tensor, event: torch.cuda.Event, sizes: Sequence[int], free: list[Tensor]
    ) -> None:
        self._buffer = buffer
        self._event = event
        self._sizes = sizes
        self._free = free

    def ready(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self._event.synchronize()

    def values(self) -> list[list[float]]:
        everything: list[float] = self._buffer.tolist()
        self._free.append(self._buffer)
        parts, start = [], 0
        for size in self._sizes:
            parts.append(everything[start : start + size])
            start += size
        return parts


class Readback:
    """The `Copier` of one CUDA device; uses its pinned buffers again and again."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._free: list[Tensor] = []

    def submit(self, tensors: Sequence[Tensor]) -> Pinned:
        flat = torch.cat([tensor.detach().to(torch.float32) for tensor in tensors])
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream(self._device))
        buffer = self._take_buffer(flat.numel())
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            buffer.copy_(flat, non_blocking=True)
            flat.record_stream(stream)
            event.record(stream)
        return Pinned(buffer, event, [tensor.numel() for tensor in tensors], self._free)

    def _take_buffer(self, size: int) -> Tensor:
        for index, buffer in enumerate(self._free):
            if buffer.numel() == size:
                return self._free.pop(index)
        return torch.empty(size, dtype=torch.float32, pin_memory=True)
