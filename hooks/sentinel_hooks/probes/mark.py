"""Moments in a step, and the seconds between two of them."""

from __future__ import annotations

from time import perf_counter

import torch


class Passing:
    """When a device comes to this point, as an event. Nobody asking any more, that is used again:
    to make one takes the driver longer than to record it."""

    __slots__ = ("_free", "event")

    def __init__(self, free: list[torch.cuda.Event]) -> None:
        self._free = free
        made = free.pop() if free else None
        self.event = made or torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self.event.record()

    def __del__(self) -> None:
        self._free.append(self.event)


Mark = float | Passing
Span = tuple[Mark, Mark]


class Marker:
    """Marks moments where they count: on the host, or on the current stream of a CUDA device.

    The host runs ahead of such a device, so that a moment there is an event, which says when the
    device has come to it: what the host does meanwhile takes no time unless the device waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_device = device.type == "cuda"
        self._free: list[torch.cuda.Event] = []

    def now(self) -> Mark:
        """This moment. Waits for nothing."""
        return Passing(self._free) if self.on_device else perf_counter()


def seconds(span: Span) -> float:
    """From one mark to the next; on a device only once it has passed both."""
    began, ended = span
    if isinstance(began, float) and isinstance(ended, float):
        return ended - began
    if isinstance(began, Passing) and isinstance(ended, Passing):
        return float(began.event.elapsed_time(ended.event)) / 1000
    return 0.0
