"""The ranks of one run: which of them to look at first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

from rich.table import Table

from sentinel.cli.top.letters import Letters, number, seconds, size
from sentinel.cli.top.snapshot import Snapshot

if TYPE_CHECKING:
    from sentinel.store.shapes import RankJSON

Order = Literal["worst", "rank", "wait", "memory"]
ORDERS: tuple[Order, ...] = get_args(Order)

QUIET = 10.0  # s without a word, after which a rank stands out; a heartbeat comes every few
_STYLES = {"held": "yellow", "": "dim"}


def culprits(snapshot: Snapshot) -> frozenset[int]:
    """The ranks that open incidents name."""
    named = (one["cause"]["rank"] for one in snapshot.incidents)
    return frozenset(rank for rank in named if rank is not None)


def first(snapshot: Snapshot, order: Order, count: int) -> list[RankJSON]:
    """So many ranks, those first that this order puts first.

    `worst`: those that an incident names; those who are behind; those who have gone silent; who
    waits least for the others, since they all wait for that one. `wait` and `memory`: the most.
    """
    guilty = culprits(snapshot)
    waits, memory = snapshot.by_rank.get("wait", {}), snapshot.by_rank.get("memory", {})

    def key(one: RankJSON) -> tuple[float, ...]:
        rank = one["rank"]
        if order == "worst":
            silent = one["last_seen_s"] if one["last_seen_s"] > QUIET else 0.0
            return (rank not in guilty, one["step"], -silent, waits.get(rank, math.inf), rank)
        if order == "wait":
            return (-waits.get(rank, -math.inf), rank)
        return (-memory.get(rank, -math.inf), rank) if order == "memory" else (rank,)

    return heapq.nsmallest(max(0, count), snapshot.ranks, key)


def table(snapshot: Snapshot, shown: Iterable[RankJSON], letters: Letters) -> Table:
    """These ranks, one a line, under a heading."""
    measured = [name for name in ("wait", "memory") if snapshot.by_rank.get(name)]
    grid = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    grid.add_column("rank", justify="right", no_wrap=True, min_width=5)
    grid.add_column("host", ratio=2, no_wrap=True, min_width=8)
    grid.add_column("step", justify="right", no_wrap=True, min_width=6)
    grid.add_column("phase", ratio=1, no_wrap=True, min_width=10)
    grid.add_column("last seen", justify="right", no_wrap=True)
    for name in measured:
        grid.add_column(name, justify="right", no_wrap=True, min_width=8)
    guilty = culprits(snapshot)
    newest = max((one["step"] for one in snapshot.ranks), default=0)
    for one in shown:
        seen = one["last_seen_s"]
        grid.add_row(
            letters.text(str(one["rank"]), "bold red" if one["rank"] in guilty else ""),
            letters.text(one["host"]),
            letters.text(number(one["step"], 12), "yellow" if one["step"] < newest else ""),
            letters.text(one["phase"] or "not begun", _STYLES.get(one["phase"], "")),
            letters.text(seconds(seen), "bold red" if seen > QUIET else "dim"),
            *(_measured(snapshot, name, one["rank"]) for name in measured),
        )
    return grid


def _measured(snapshot: Snapshot, name: str, rank: int) -> str:
    value = snapshot.by_rank[name].get(rank)
    return seconds(value) if name == "wait" else size(value)
