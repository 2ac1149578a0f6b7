"""Counts the collectives that this process starts, however they are started.

Every group numbers its own, also those that C++ starts; the sum over groups is what a monitor
must not change.
"""

from __future__ import annotations

import torch.distributed as dist


def collectives() -> dict[str, int]:
    """How many collectives this process has started so far, by the name of the group."""
    groups = list(dist.distributed_c10d._world.pg_map)
    return {
        group.group_name: group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        for group in groups
    }


class Counter:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._before = collectives()

    @property
    def count(self) -> int:
        """Collectives since then, over all groups of this process."""
        now = collectives()
        return sum(number - self._before.get(name, 0) for name, number in now.items())
