"""Memory as Linux control groups limit and count it, in both of their versions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class CounterFile:
    """A file of the kernel's that is kept open and read again and again."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """What it says now."""
        return os.pread(self._descriptor, 32_768, 0)

    def field(self, name: bytes) -> int:
        """The number on the line that begins with this name; 0 if there is no such line."""
        return field(self.read(), name)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def field(text: bytes, name: bytes) -> int:
    """The number on the line that begins with this name; 0 if there is no such line."""
    lines = b"\n" + text.replace(b"\t", b" ")
    place = lines.find(b"\n" + name + b" ")
    return int(lines[place + len(name) + 1 :].split(None, 1)[0]) if place >= 0 else 0


@dataclass(frozen=True)
class Version:
    """What one version of control groups calls things, under the root of the file system."""

    base: str
    limit: str
    usage: str
    reclaimable: bytes  # the line of memory.stat with the file cache that goes first
    swap: str
    swap_has_usage: bool  # whether the swap file counts memory, too
    kills: str  # the file with a line `oom_kill`


V2 = Version(
    "sys/fs/cgroup",
    "memory.max",
    "memory.current",
    b"inactive_file",
    "memory.swap.current",
    False,
    "memory.events",
)
V1 = Version(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    b"total_inactive_file",
    "memory.memsw.usage_in_bytes",
    True,
    "memory.oom_control",
)


class ControlGroup:
    """One control group that limits memory to `limit` bytes."""

    def __init__(self, folder: Path, limit: int, version: Version) -> None:
        self.folder = folder
        self.limit = limit
        self._version = version
        self._usage = CounterFile(folder / version.usage)
        self._statistics = CounterFile(folder / "memory.stat")
        swap = folder / version.swap
        self._swap = CounterFile(swap) if swap.exists() else None

    def used(self) -> int:
        """Bytes in use, less inactive file cache."""
        return int(self._usage.read()) - self._statistics.field(self._version.reclaimable)

    def swapped(self) -> int | None:
        """Bytes of the group that are swapped out; None where the kernel does not count them."""
        if self._swap is None:
            return None
        memory = int(self._usage.read()) if self._version.swap_has_usage else 0
        return max(0, int(self._swap.read()) - memory)

    def close(self) -> None:
        """Let go of its files."""
        for file in (self._usage, self._statistics, self._swap):
            if file is not None:
                file.close()


def find_group(root: Path, machine: int) -> ControlGroup | None:
    """The tightest limit on this process's memory below the `machine`'s bytes, or None."""
    limit, folder, version = tightest(root, machine)
    return None if version is None else ControlGroup(folder, limit, version)


def tightest(root: Path, machine: int) -> tuple[int, Path, Version | None]:
    """The tightest limit in bytes and the group that sets it; the machine's if none is tighter."""
    best: tuple[int, Path, Version | None] = (machine, root, None)
    for folder, version in _groups(root):
        limit = _limit(folder / version.limit)
        if limit is not None and limit < best[0]:
            best = (limit, folder, version)
    return best


def find_kills(root: Path) -> Path | None:
    """The file with a line `oom_kill` that counts kills in this process's own control group.

    Where the process is in none, it is the one that counts those of the whole machine.
    """
    for folder, version in _groups(root):
        file = folder / version.kills
        # The root group of version 1 has the file, but counts itself alone.
        limit = _limit(folder / version.limit)
        is_root = folder == root / version.base and (limit is None or limit > 1 << 62)
        if not is_root and _has_kills(file):
            return file
    machine = root / "proc/vmstat"
    return machine if _has_kills(machine) else None


def _groups(root: Path) -> Iterator[tuple[Path, Version]]:
    """The groups of this process that may count memory, its own first, then their parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version = V2
        elif "memory" in controllers.split(","):
            version = V1
        else:
            continue
        base = root / version.base
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            yield place, version
            if place == base:
                break


def _limit(file: Path) -> int | None:
    """What a limit file says in bytes; None if there is none or it says `max`."""
    try:
        return int(file.read_bytes())
    except (OSError, ValueError):
        return None


def _has_kills(file: Path) -> bool:
    try:
        return b"oom_kill " in file.read_bytes()
    except OSError:
        return False
