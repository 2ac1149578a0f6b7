"""Memory of the process and of the host or the container it runs in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from sentinel.wire import Series
from sentinel_hooks.probes.control_group import (
    ControlGroup,
    CounterFile,
    field,
    find_group,
    find_kills,
    tightest,
)
from sentinel_hooks.probes.offspring import descendants, lists_children, resident_pages
from sentinel_hooks.probes.pace import Pace
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

RARELY = 10.0  # s between two readings of what changes slowly or is dear to read


class HostMemoryProbe(Probe):
    """Memory of this process and of what it has started, and of where it runs. Linux only.

    Where a control group (v1 or v2) limits memory below what the machine has, its numbers are
    taken, less the file cache that the kernel would give back under pressure; else the
    machine's own, less what it calls available. Steps so fast that reading would cost more than
    half a percent of them are left out. Child processes, pinned memory, swap and kills are read
    every ten seconds at most. `pinned` says what torch has pinned besides, in bytes.
    """

    name = "host memory"
    core = False
    signals = (
        "host_memory_process_bytes",
        "host_memory_children_bytes",
        "host_memory_pinned_bytes",
        "host_memory_used_bytes",
        "host_memory_limit_bytes",
        "host_swap_used_bytes",
        "host_oom_kills",
    )

    def __init__(self, root: Path = Path("/"), pinned: Callable[[], int] = lambda: 0) -> None:
        self._root = root
        self._pinned = pinned
        self._process = root / "proc" / _own_name(root)
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._index: dict[str, int] = {}
        self._files: list[CounterFile] = []
        self._total = 0
        self._group: ControlGroup | None = None
        self._often = Pace()
        self._rarely = Pace(least=RARELY)

    def series(self) -> Sequence[Series]:
        absent = self.missing()
        return [Series(name) for name in self.signals if name not in absent]

    def missing(self) -> Mapping[str, str]:
        if not (self._root / "proc/self/statm").exists():
            return dict.fromkeys(self.signals, "no /proc file system here")
        absent = {}
        if not lists_children(self._process):
            absent["host_memory_children_bytes"] = (
                "this kernel does not name the children of a process (CONFIG_PROC_CHILDREN)"
            )
        if find_kills(self._root) is None:
            absent["host_oom_kills"] = "this kernel does not count them"
        group = find_group(self._root, self._machine_bytes())
        if group is not None:
            if group.swapped() is None:
                absent["host_swap_used_bytes"] = "swap is not counted by control group"
            group.close()
        return absent

    def _machine_bytes(self) -> int:
        return 1024 * field((self._root / "proc/meminfo").read_bytes(), b"MemTotal:")

    def start(self, first: int, barrier: Barrier) -> None:
        self._index = {one.signal: at for at, one in enumerate(self.series(), first)}
        if self._index:
            proc = self._root / "proc"
            own, machine = CounterFile(proc / "self/statm"), CounterFile(proc / "meminfo")
            self._files = [own, machine]
            self._total = 1024 * machine.field(b"MemTotal:")
            self._group = find_group(self._root, self._total)

    def read(self, sample: Sample) -> None:
        began = perf_counter()
        if not self._files or not self._often.due(began):
            return
        self._put_often(sample)
        if self._rarely.due(began):
            self._put_rarely(sample)
            self._rarely.took(began, perf_counter())
        self._often.took(began, perf_counter())

    def ran_out(self, sample: Sample) -> None:
        if self._files:
            self._put_often(sample)
            self._put_rarely(sample)

    def _put_often(self, sample: Sample) -> None:
        own, machine = self._files
        resident = int(own.read().split(None, 2)[1]) * self._page
        self._put(sample, "host_memory_process_bytes", resident)
        limit = self._total if self._group is None else self._group.limit
        if self._group is not None:
            used = self._group.used()
        else:
            used = limit - 1024 * machine.field(b"MemAvailable:")
        self._put(sample, "host_memory_used_bytes", used)
        self._put(sample, "host_memory_limit_bytes", limit)

    def _put_rarely(self, sample: Sample) -> None:
        self._follow_group()
        if "host_memory_children_bytes" in self._index:
            pages = sum(map(resident_pages, descendants(self._process)))
            self._put(sample, "host_memory_children_bytes", pages * self._page)
        status = (self._root / "proc/self/status").read_bytes()
        locked = 1024 * (field(status, b"VmLck:") + field(status, b"VmPin:"))
        self._put(sample, "host_memory_pinned_bytes", locked + self._pinned())
        self._put(sample, "host_swap_used_bytes", self._swapped())
        kills = find_kills(self._root)
        if kills is not None:
            self._put(sample, "host_oom_kills", field(kills.read_bytes(), b"oom_kill"))

    def _swapped(self) -> int | None:
        if self._group is not None:
            return self._group.swapped()
        machine = self._files[1].read()
        return 1024 * (field(machine, b"SwapTotal:") - field(machine, b"SwapFree:"))

    def _put(self, sample: Sample, signal: str, value: int | None) -> None:
        index = self._index.get(signal)
        if index is not None and value is not None:
            sample.put(index, float(value))

    def _follow_group(self) -> None:
        """A limit may be changed while we run, and a process may be moved to another group."""
        limit, folder, version = tightest(self._root, self._total)
        group = self._group
        if (None if group is None else (group.limit, group.folder)) != (
            None if version is None else (limit, folder)
        ):
            self._group = None if version is None else ControlGroup(folder, limit, version)
            if group is not None:
                group.close()

    def detach(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
        for file in self._files:
            file.close()
        self._files = []


def _own_name(root: Path) -> str:
    """What this process is called in /proc, which a trial tree may show as a folder `self`."""
    own = root / "proc/self"
    return own.readlink().name if own.is_symlink() else "self"
