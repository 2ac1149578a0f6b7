"""Memory of the CUDA device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from time import perf_counter

from sentinel.wire import Series
from sentinel_hooks.probes.allocator import Allocator
from sentinel_hooks.probes.pace import Pace
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

SELDOM = 1.0  # s between two questions to the driver
NO_DEVICE = "no CUDA device: the model is on the host"

_OF_ALLOCATOR = {
    "device_memory_allocated_bytes": ("allocated_bytes", "all", "current"),
    "device_memory_reserved_bytes": ("reserved_bytes", "all", "current"),
    "device_memory_peak_bytes": ("allocated_bytes", "all", "peak"),
    "device_memory_inactive_split_bytes": ("inactive_split_bytes", "all", "current"),
    "device_memory_retries": ("num_alloc_retries",),
    "device_memory_ooms": ("num_ooms",),
}
_OF_DRIVER = (
    "device_memory_used_bytes",
    "device_memory_others_bytes",
    "device_memory_limit_bytes",
)


class DeviceMemoryProbe(Probe):
    """What torch's caching allocator holds at each step, and once a second what the driver says.

    The limit is the most that the allocator can come to hold: what it holds and what is free on
    the device, or the share of the device that the process may take if that is less. The peak is
    the allocator's own, since it was last reset; it is never reset here, where others may read it.
    """

    name = "device memory"
    signals = (*_OF_ALLOCATOR, *_OF_DRIVER)

    def __init__(self, allocator: Allocator | None, *, seldom: float = SELDOM) -> None:
        self._allocator = allocator
        self._index: dict[str, int] = {}
        self._pace = Pace(least=seldom)
        self.ooms = 0  # out-of-memory errors that the allocator has counted so far

    @cached_property
    def _absent(self) -> Mapping[str, str]:
        if self._allocator is None:
            return dict.fromkeys(self.signals, NO_DEVICE)
        try:
            self._allocator.others()
        except LookupError as error:
            return {"device_memory_others_bytes": str(error)}
        return {}

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self.signals if name not in self._absent]

    def missing(self) -> Mapping[str, str]:
        return self._absent

    def start(self, first: int, barrier: Barrier) -> None:
        self._index = {one.signal: at for at, one in enumerate(self.series(), first)}
        if self._allocator is not None:
            self.ooms = _look_up(self._allocator.statistics(), ("num_ooms",)) or 0

    def read(self, sample: Sample) -> None:
        if self._allocator is None:
            return
        statistics = self._put_statistics(sample, self._allocator)
        began = perf_counter()
        if self._pace.due(began):
            self._put_driver(sample, self._allocator, statistics)
            self._pace.took(began, perf_counter())

    def ran_out(self, sample: Sample) -> None:
        if self._allocator is not None:
            self._put_driver(sample, self._allocator, self._put_statistics(sample, self._allocator))

    def _put_statistics(self, sample: Sample, allocator: Allocator) -> Mapping[str, object]:
        statistics = allocator.statistics()
        for signal, path in _OF_ALLOCATOR.items():
            value = _look_up(statistics, path)
            if value is not None:
                sample.put(self._index[signal], float(value))
        self.ooms = _look_up(statistics, ("num_ooms",)) or 0
        return statistics

    def _put_driver(
        self, sample: Sample, allocator: Allocator, statistics: Mapping[str, object]
    ) -> None:
        free, total = allocator.free_and_total()
        held = _look_up(statistics, ("reserved_bytes", "all", "current")) or 0
        limit = min(total * allocator.fraction(), held + free)
        sample.put(self._index["device_memory_used_bytes"], float(total - free))
        sample.put(self._index["device_memory_limit_bytes"], limit)
        if "device_memory_others_bytes" in self._index:
            try:
                others = allocator.others()
            except LookupError:
                return  # for once, as when a process has just ended
            sample.put(self._index["device_memory_others_bytes"], float(others))


def _look_up(statistics: Mapping[str, object], path: Sequence[str]) -> int | None:
    """A number in nested statistics; None where this version of torch does not have it."""
    place: object = statistics
    for name in path:
        place = place.get(name) if isinstance(place, Mapping) else None
    return place if isinstance(place, int) else None
