"""Memory of the process and of the host or the container it runs in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

_SHARE = 200  # reading may take one part in so many of the time between two readings


class HostMemoryProbe(Probe):
    """Resident memory of this process; memory in use, and its limit, where the process runs.

    Where a control group (v1 or v2) limits memory below what the machine has, its numbers are
    taken, less the file cache that the kernel would give back under pressure; else the
    machine's own, less what it calls available. Linux only. Steps so fast that reading would
    cost more than half a percent of them are left out.
    """

    name = "host memory"
    signals = (
        "host_memory_process_bytes",
        "host_memory_used_bytes",
        "host_memory_limit_bytes",
    )

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._first = 0
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._own: CounterFile | None = None
        self._machine: CounterFile | None = None
        self._group: ControlGroup | None = None
        self._again = 0.0  # when reading is due again

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self.signals] if self._there() else ()

    def missing(self) -> Mapping[str, str]:
        reason = "no /proc file system here"
        return {} if self._there() else dict.fromkeys(self.signals, reason)

    def _there(self) -> bool:
        return (self._root / "proc/self/statm").exists()

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first
        if self._there():
            self._own = CounterFile(self._root / "proc/self/statm")
            self._machine = CounterFile(self._root / "proc/meminfo")
            self._group = find_group(self._root, 1024 * self._machine.field(b"MemTotal:"))

    def read(self, sample: Sample) -> None:
        began = perf_counter()
        if began < self._again or self._own is None or self._machine is None:
            return
        resident = int(self._own.read().split(None, 2)[1]) * self._page
        if self._group is not None:
            limit, used = self._group.limit, self._group.used()
        else:
            limit = 1024 * self._machine.field(b"MemTotal:")
            used = limit - 1024 * self._machine.field(b"MemAvailable:")
        for index, value in enumerate((resident, used, limit), self._first):
            sample.put(index, float(value))
        ended = perf_counter()
        self._again = ended + _SHARE * (ended - began)

    def detach(self) -> None:
        if self._group is not None:
            self._group.close()
        for file in (self._own, self._machine):
            if file is not None:
                file.close()
        self._own = self._machine = self._group = None


class CounterFile:
    """A file of the kernel's that is kept open and read again and again."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """What it says now."""
        return os.pread(self._descriptor, 16_384, 0)

    def field(self, name: bytes) -> int:
        """The number on the line that begins with this name; 0 if there is no such line."""
        text = b"\n" + self.read()
        place = text.find(b"\n" + name + b" ")
        return int(text[place + len(name) + 1 :].split(None, 1)[0]) if place >= 0 else 0

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


class ControlGroup:
    """One control group that limits memory."""

    def __init__(self, folder: Path, limit: int, usage: str, reclaimable: bytes) -> None:
        self.folder = folder
        self.limit = limit
        self._usage = CounterFile(folder / usage)
        self._statistics = CounterFile(folder / "memory.stat")
        self._reclaimable = reclaimable

    def used(self) -> int:
        """Bytes in use, less inactive file cache."""
        return int(self._usage.read()) - self._statistics.field(self._reclaimable)

    def close(self) -> None:
        """Let go of its files."""
        self._usage.close()
        self._statistics.close()


def find_group(root: Path, machine: int) -> ControlGroup | None:
    """The tightest limit on this process's memory below the `machine`'s bytes, or None."""
    found: list[tuple[int, Path, str, bytes]] = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", b"inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file")
        else:
            continue
        limit_file, usage, reclaimable = names
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            limit = _limit(place / limit_file)
            if limit is not None and limit < machine:
                found.append((limit, place, usage, reclaimable))
            if place == base:
                break
    if not found:
        return None
    limit, place, usage, reclaimable = min(found)
    return ControlGroup(place, limit, usage, reclaimable)


def _limit(file: Path) -> int | None:
    """What a limit file says in bytes; None if there is none or it says `max`."""
    try:
        return int(file.read_bytes())
    except (OSError, ValueError):
        return None
