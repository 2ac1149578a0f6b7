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


class Replay:
    """One run that happens once more, under these rules. `engine` says how it stands.

    With `clock` the engine is told of the passing of time as the daemon tells it, about once a
    second; without, rules of silence and loss are never judged, as befits a log without
    heartbeats.
    """

    def __init__(self, run: str, rules: Sequence[Rule], *, clock: bool = True) -> None:
        self.engine = RunEngine(run, rules)
        self._clock = clock
        self._ticked: float | None = None

    def take(self, moment: tuple[float, int, FromRank | None]) -> list[Transition]:
        """What the engine makes of this."""
        now, rank, message = moment
        told = self._tick(now) if self._clock else []
        if message is None:
            return told + self.engine.disconnected(rank, now)
        return told + self.engine.feed(rank, message, now)

    def _tick(self, now: float) -> list[Transition]:
        told: list[Transition] = []
        for tick in [] if self._ticked is None else _ticks(self._ticked, now):
            told += self.engine.tick(tick)
            self._ticked = tick
        self._ticked = now if self._ticked is None else self._ticked
        return told


def replay_messages(
    run: str,
    moments: Iterable[tuple[float, int, FromRank | None]],
    rules: Sequence[Rule],
    *,
    clock: bool = True,
) -> Iterator[Transition]:
    """What the engine makes of what happened to a run, in its order. See `Replay`."""
    replay = Replay(run, rules, clock=clock)
    for moment in moments:
        yield from replay.take(moment)


def _ticks(last: float, now: float) -> Iterator[float]:
    """The ticks after the last one, up to now."""
    for count in range(1, min(int((now - last) / TICK), _MAX_TICKS) + 1):
        yield last + count * TICK


def begins_to_fire(transitions: Iterable[Transition]) -> Iterator[AlertChanged]:
    """The alerts among them that begin to fire."""
    for transition in transitions:
        if isinstance(transition, AlertChanged) and transition.state == "firing":
            yield transition
