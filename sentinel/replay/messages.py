"""Feed what ranks once said to the engine again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sentinel.engine.rule import Rule
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import AlertChanged, Transition
from sentinel.wire import FromRank

TICK = 1.0  # s, as the daemon does
_MAX_TICKS = 3600  # between two messages; what a silence can bring about has happened by then


class Moment(NamedTuple):
    """What happened at one time: a message of a rank, or None where its connection ended."""

    now: float
    rank: int
    message: FromRank | None


def replay_messages(
    run: str,
    moments: Iterable[tuple[float, int, FromRank | None]],
    rules: Sequence[Rule],
    *,
    clock: bool = True,
) -> Iterator[Transition]:
    """What the engine makes of a recorded run, in its order.

    With `clock` the engine is told of the passing of time as the daemon tells it, about once a
    second; without, rules of silence and loss are never judged, as befits a log without
    heartbeats.
    """
    engine = RunEngine(run, rules)
    ticked: float | None = None
    for now, rank, message in moments:
        for tick in _ticks(ticked, now) if clock and ticked is not None else ():
            yield from engine.tick(tick)
            ticked = tick
        ticked = now if ticked is None else ticked
        if message is None:
            yield from engine.disconnected(rank, now)
        else:
            yield from engine.feed(rank, message, now)


def _ticks(last: float, now: float) -> Iterator[float]:
    """The ticks after the last one, up to now."""
    for count in range(1, min(int((now - last) / TICK), _MAX_TICKS) + 1):
        yield last + count * TICK


def begins_to_fire(transitions: Iterable[Transition]) -> Iterator[AlertChanged]:
    """The alerts among them that begin to fire."""
    for transition in transitions:
        if isinstance(transition, AlertChanged) and transition.state == "firing":
            yield transition
