"""The processes that a process has started, such as the workers of a data loader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MOST = 4096  # processes that are followed


def lists_children(process: Path) -> bool:
    """Whether the kernel names the children of this process (a folder of /proc)."""
    return next(process.glob("task/*/children"), None) is not None


def descendants(process: Path) -> Iterator[Path]:
    """The folders in /proc of all that this process and its children have started."""
    waiting, found = [process], 0
    while waiting:
        for child in _children(waiting.pop()):
            found += 1
            if found > MOST:
                return
            folder = process.parent / child
            waiting.append(folder)
            yield folder


def _children(process: Path) -> Iterator[str]:
    """Every thread has a list of its own; a process may be gone meanwhile."""
    for file in process.glob("task/*/children"):
        try:
            yield from file.read_text().split()
        except OSError:
            continue


def resident_pages(process: Path) -> int:
    """Pages of the process that are in memory, shared ones included; 0 once it is gone."""
    try:
        return int((process / "statm").read_bytes().split(None, 2)[1])
    except (OSError, IndexError):
        return 0
