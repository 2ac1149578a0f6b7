"""The free blocks that torch's allocator holds on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from sentinel.wire import Series
from sentinel_hooks.probes.allocator import Allocator
from sentinel_hooks.probes.device_memory import NO_DEVICE
from sentinel_hooks.probes.pace import Pace
from sentinel_hooks.probes.probe import Barrier, Probe, Sample


class DeviceBlocksProbe(Probe):
    """The largest free block, and how much of what is free lies elsewhere.

    Both need a list of all blocks, of which there may be many thousands: it is asked for at
    every hundredth step, and may take a thousandth of the time.
    """

    name = "device memory blocks"
    signals = ("device_memory_largest_free_bytes", "device_memory_fragmentation")
    every = 100
    core = False

    def __init__(self, allocator: Allocator | None) -> None:
        self._allocator = allocator
        self._first = 0
        self._pace = Pace(share=1000)

    def series(self) -> Sequence[Series]:
        return () if self._allocator is None else [Series(name) for name in self.signals]

    def missing(self) -> Mapping[str, str]:
        return dict.fromkeys(self.signals, NO_DEVICE) if self._allocator is None else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def read(self, sample: Sample) -> None:
        began = perf_counter()
        if self._allocator is not None and self._pace.due(began):
            self._put(sample, self._allocator)
            self._pace.took(began, perf_counter())

    def ran_out(self, sample: Sample) -> None:
        if self._allocator is not None:
            self._put(sample, self._allocator)

    def _put(self, sample: Sample, allocator: Allocator) -> None:
        free = list(_free_blocks(allocator.segments()))
        largest = max(free, default=0)
        sample.put(self._first, float(largest))
        if free:  # of nothing there is no share
            sample.put(self._first + 1, 1.0 - largest / sum(free))


def _free_blocks(segments: Sequence[Mapping[str, object]]) -> Iterator[int]:
    """The sizes of the blocks that nobody uses."""
    for segment in segments:
        blocks = segment.get("blocks")
        for block in blocks if isinstance(blocks, Sequence) else ():
            if block["state"] == "inactive" and block["size"]:
                yield block["size"]
