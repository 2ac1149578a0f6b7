"""Tell an engine again what once happened to a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sentinel.engine import event
from sentinel.engine.event import Began, OfDaemon
from sentinel.engine.history import restarted
from sentinel.engine.open_incident import Pending, closing, continuing
from sentinel.engine.rule import Rule
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import AlertChanged, Transition
from sentinel.wire import FromRank

TICK = 1.0  # s, as the daemon does
_MAX_TICKS = 3600  # between two messages; what a silence can bring about has happened by then


class Moment(NamedTuple):
    """What happened at one time: to the whole run, or to a rank.

    A message of its, or None where its connection ended.
    """

    now: float
    rank: int
    message: FromRank | OfDaemon | None


class Replay:
    """One run that happens once more, under these rules. `engine` says how it stands.

    Where it is not recorded how the daemon told its engine of the passing of time, and there is a
    `clock`, that is done here about once a second. Without, rules of silence and loss are never
    judged, as befits a log without heartbeats.
    """

    def __init__(self, run: str, rules: Sequence[Rule], *, clock: bool = True) -> None:
        self.engine = RunEngine(run, rules)
        self._rules = rules
        self._clock = clock
        self._ticked: float | None = None
        self._pending = Pending()

    def take(self, moment: Moment) -> list[Transition]:
        """What the engine makes of this."""
        now, rank, message = moment
        if isinstance(message, Began):
            told = self._begin(message, now)
        else:
            told = self._tick(now) if self._clock else []
            if self._clock and isinstance(message, OfDaemon):
                self._clock = False
            told += event.take(self.engine, rank, message, now)
        if told:
            self._pending.note(told)
        return told

    def _tick(self, now: float) -> list[Transition]:
        last = self._ticked
        if last is None:
            self._ticked = now
            return []
        told: list[Transition] = []
        for count in range(1, min(int((now - last) / TICK), _MAX_TICKS) + 1):
            self._ticked = last + count * TICK
            told += self.engine.tick(self._ticked)
        return told

    def _begin(self, began: Began, now: float) -> list[Transition]:
        """Another engine goes on. What was open is handed over by what happened here: these may be
        other rules than those that the daemon had."""
        self._clock = False
        before, incident = self.engine, self._pending.incident
        self.engine = RunEngine(before.run, self._rules, clean_steps=began.clean_steps)
        if began.step is not None:
            self.engine.checkpoints.adopt(before.checkpoints.all(), began.step)
        if incident is None:
            return []
        if began.continues:
            self.engine.adopt(incident)
            return []
        if began.returns is None:
            return closing(incident, now)
        told, kept = continuing(incident, restarted(began.returns, began.step or 0), now)
        self.engine.adopt(kept)
        return told


def replay_messages(
    run: str, moments: Iterable[Moment], rules: Sequence[Rule], *, clock: bool = True
) -> Iterator[Transition]:
    """What the engine makes of what happened to a run, in its order. See `Replay`."""
    replay = Replay(run, rules, clock=clock)
    for moment in moments:
        yield from replay.take(moment)


def begins_to_fire(transitions: Iterable[Transition]) -> Iterator[AlertChanged]:
    """The alerts among them that begin to fire."""
    for transition in transitions:
        if isinstance(transition, AlertChanged) and transition.state == "firing":
            yield transition
