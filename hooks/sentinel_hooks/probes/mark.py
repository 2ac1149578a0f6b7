"""Moments in a step, and the seconds between two of them."""

from __future__ import annotations

from time import perf_counter

import torch

Mark = float | torch.cuda.Event
Span = tuple[Mark, Mark]


class Marker:
    """Marks moments where they count: on the host, or on the current stream of a CUDA device.

    The host runs ahead of such a device, so that a moment there is an event, which says when the
    device has come to it: what the host does meanwhile takes no time unless the device waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_device = device.type == "cuda"

    def now(self) -> Mark:
        """This moment. Waits for nothing."""
        if not self.on_device:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def seconds(span: Span) -> float:
    """From one mark to the next; on a device only once it has passed both."""
    began, ended = span
    if isinstance(began, float) and isinstance(ended, float):
        return ended - began
    if isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
        return float(began.elapsed_time(ended)) / 1000
    return 0.0
