"""The run that a test of rules makes up: what its ranks would have said, and the clock."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import NamedTuple

from sentinel.replay.rule_test.case import Case, End
from sentinel.replay.rule_test.notation import Value
from sentinel.signals import CATALOG, Reduction
from sentinel.wire import VERSION, Checkpoint, Frame, FromRank, Goodbye, Heartbeat, Hello, Series

RUN = "test"
HEARTBEAT = 2000  # ms, as the daemon asks for by default
TICK = 1000  # ms, as the daemon does
_GROUP = "world"


class Said(NamedTuple):
    """What a rank says, in seconds; None: its connection ends."""

    now: float
    rank: int
    message: FromRank | None


class Tick(NamedTuple):
    """Time has passed."""

    now: float


@dataclass
class _Rank:
    """One rank: what it measures, and how far it gets."""

    rank: int
    series: tuple[Series, ...]
    columns: Sequence[tuple[Value, ...]]
    steps: int
    end: End | None
    done: int = field(default=0)

    @property
    def is_gone(self) -> bool:
        """Whether nothing more is heard of it."""
        return self.end is not None and self.done >= self.steps and self.end.how != "stuck"

    def hello(self, world_size: int) -> Hello:
        return Hello(
            version=VERSION,
            run=RUN,
            rank=self.rank,
            world_size=world_size,
            incarnation="test",
            host=f"host{self.rank}",
            pid=1 + self.rank,
            device=f"cuda:{self.rank}",
            trainer="test",
            step=0,
            series=self.series,
        )

    def frame(self, step: int, now: float) -> Frame:
        values = [column[step - 1] if step <= len(column) else None for column in self.columns]
        bits = sum(1 << at for at, value in enumerate(values) if value is None)
        return Frame(
            step,
            step,
            now,
            struct.pack(f"<{len(values)}d", *(value or 0.0 for value in values)),
            bits.to_bytes((len(values) + 7) // 8, "little") if bits else b"",
        )

    def heartbeat(self, now: float) -> Heartbeat:
        """As if each step had one collective, which a rank that is stuck does not enter."""
        is_stuck = self.end is not None and self.done >= self.steps
        entered = self.done + (not is_stuck)
        return Heartbeat(self.done, "forward", now, collectives={_GROUP: (entered, self.done)})

    def farewell(self, now: float) -> Iterator[Said]:
        """What is heard of its end."""
        if self.end is None or self.end.how in ("stuck", "silent"):
            return
        if self.end.how == "failed":
            yield Said(now, self.rank, Goodbye("exception", "an error of this test"))
        elif self.end.how == "finished":
            yield Said(now, self.rank, Goodbye("finished"))
        yield Said(now, self.rank, None)


def happenings(case: Case) -> Iterator[Said | Tick]:
    """All that happens, in the order of time.

    Step n is over at n times the interval, for all ranks at once.
    """
    ranks = [_rank(case, rank) for rank in range(case.ranks)]
    for one in ranks:
        yield Said(0.0, one.rank, one.hello(case.ranks))
        if not one.steps:
            yield from one.farewell(0.0)
    ticks = ((time, 0, 0) for time in range(TICK, case.length + 1, TICK))
    steps = ((step * case.interval, 1, step) for step in range(1, case.steps + 1))
    beats = ((time, 2, 0) for time in range(HEARTBEAT, case.length + 1, HEARTBEAT))
    for time, kind, step in merge(ticks, steps, beats):
        now = time / 1000
        if not kind:
            yield Tick(now)
            continue
        for one in ranks:
            if not step and not one.is_gone:
                yield Said(now, one.rank, one.heartbeat(now))
            elif 0 < step <= one.steps:
                yield from _step(one, case, step, now)


def _step(one: _Rank, case: Case, step: int, now: float) -> Iterator[Said]:
    one.done = step
    yield Said(now, one.rank, one.frame(step, now))
    if case.saving and step % case.saving.every == 0:
        yield Said(now, one.rank, _saved(case.saving.every, case.saving.keep, step))
    if step == one.steps:
        yield from one.farewell(now)


def _saved(every: int, keep: int, step: int) -> Checkpoint:
    first = max(every, step - (keep - 1) * every)
    present = tuple(f"step{at}" for at in range(first, step + 1, every))
    return Checkpoint(step, f"step{step}", "checkpoints", 1.0, present=present)


def _rank(case: Case, rank: int) -> _Rank:
    """A series that is the rank's own goes before one that is of all ranks."""
    shared = {key.series: values for key, values in case.series.items() if key.rank is None}
    own = {key.series: values for key, values in case.series.items() if key.rank == rank}
    found = {**shared, **own}
    end = case.ends.get(rank)
    return _Rank(
        rank=rank,
        series=tuple(found),
        columns=[_sent(case, series, values) for series, values in found.items()],
        steps=min(case.steps, end.step) if end else case.steps,
        end=end,
    )


def _sent(case: Case, series: Series, values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Of a 2-norm a rank sends the square of its part: all send equal ones of a shared series."""
    if CATALOG[series.signal].reduction is not Reduction.ROOT_SUM:
        return values
    own = any(key.series == series and key.rank is not None for key in case.series)
    parts = 1 if own else case.ranks
    return tuple(None if value is None else value * value / parts for value in values)
