"""Memory of the CUDA device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample


class DeviceMemoryProbe(Probe):
    """What torch's caching allocator holds, and what the device has, in bytes.

    The allocator's counters are the host's own; asking the device for its free memory waits for
    no kernel. Written to the documented interface of `torch.cuda`; it has not run on such a
    device yet.
    """

    name = "device memory"
    signals = (
        "device_memory_allocated_bytes",
        "device_memory_reserved_bytes",
        "device_memory_peak_bytes",
        "device_memory_used_bytes",
        "device_memory_limit_bytes",
    )

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first = 0

    @property
    def _there(self) -> bool:
        return self._device.type == "cuda"

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self.signals] if self._there else ()

    def missing(self) -> Mapping[str, str]:
        reason = f"no CUDA device: the model is on {self._device.type}"
        return {} if self._there else dict.fromkeys(self.signals, reason)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def read(self, sample: Sample) -> None:
        if not self._there:
            return
        stats = torch.cuda.memory_stats_as_nested_dict(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        allocated = stats["allocated_bytes"]["all"]
        reserved = stats["reserved_bytes"]["all"]["current"]
        values = (allocated["current"], reserved, allocated["peak"], total - free, total)
        for index, value in enumerate(values, self._first):
            sample.put(index, float(value))
