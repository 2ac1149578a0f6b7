"""One run as the daemon serves it: its ranks, its engine, its orders."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, Protocol

from sentinel import clock, wire
from sentinel.daemon.course import Course
from sentinel.daemon.holding import standstill
from sentinel.daemon.news import StateNews
from sentinel.daemon.orders import Desk, Orders, Position
from sentinel.daemon.shelf import Shelf
from sentinel.engine import event
from sentinel.engine.checkpoint import Checkpoint
from sentinel.engine.coverage import RunCoverage
from sentinel.engine.open_incident import OpenIncident
from sentinel.engine.roster import RankState
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import (
    ActionWanted,
    AlertChanged,
    IncidentChanged,
    Severity,
    Transition,
)
from sentinel.errors import WireError
from sentinel.store.chunk import DAEMON
from sentinel.store.shapes import HoldRow, RunState

log = logging.getLogger("sentinel.daemon")

GRACE = 15.0  # s without any rank connected after which a run counts as lost
TOGETHER = 0.02  # s within which ranks are gone at the same time, as with their host
WELL = frozenset({"finished", "detached", "stopped"})  # goodbyes of ranks that have ended as meant

Ended = Literal["finished", "lost"]


class Line(Protocol):
    """A connection to one rank."""

    def send(self, message: wire.FromDaemon) -> None:
        """Queue a message. Never waits."""

    def refuse(self, reason: str, *, final: bool = False) -> None:
        """Say why, and close."""


class Run:
    """One run. Ranks come in *generations*: a new process of any rank means that the job has been
    started anew, so that all ranks of the generation before are out."""

    def __init__(self, name: str, engine: RunEngine, desk: Desk, now: float) -> None:
        self.name = name
        self.engine = engine
        self.course = Course(engine, desk.counts, desk.record)
        self.orders = Orders(name, now, desk, self.position, self._broadcast, resumed=self._resumed)
        self.shelf = Shelf(name, engine.checkpoints, desk.ledger)
        self.command = ""
        self.ended: float | None = None
        self.saved = False  # whether its end is on record
        self.seen: RunCoverage | None = None  # what could be seen of it, at the last look
        self.incident: str | None = None
        self.opened: IncidentChanged | OpenIncident | None = None  # the same, as it was last told
        self.firing: dict[tuple[str, tuple[tuple[str, str], ...]], Severity] = {}
        self.incidents: dict[Severity, int] = {}
        self._desk = desk
        self._hellos: dict[int, wire.Hello] = {}
        self._lines: dict[int, Line] = {}
        self._retired: set[str] = set()
        self._empty_since: float | None = now
        self._end: Ended | None = None
        self._told: RunState | None = None

    # What it is like.

    @property
    def state(self) -> RunState:
        """As `status` shows it."""
        return self._end or self.orders.control.state

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self._end is None

    @property
    def started(self) -> float:
        """When the present job of this run began."""
        return self.orders.started

    @property
    def world_size(self) -> int:
        """How many ranks there are to be."""
        return next((hello.world_size for hello in self._hellos.values()), self.engine.world_size)

    @property
    def ranks(self) -> Mapping[int, RankState]:
        """The ranks of the present job."""
        return {rank: self.engine.ranks[rank] for rank in self._hellos if rank in self.engine.ranks}

    @property
    def connected(self) -> frozenset[int]:
        """Ranks that are connected now."""
        return frozenset(self._lines)

    def hold(self) -> HoldRow | None:
        """Where it stands, if it does."""
        return self.orders.hold()

    def position(self) -> Position:
        """Where it is now."""
        done = max((rank.step for rank in self.ranks.values()), default=self.engine.step)
        seconds = self.engine.latest.get(wire.Series("step_seconds"), 0.0)
        lease = min((hello.lease_limit for hello in self._hellos.values()), default=60.0)
        still = standstill(self._hellos.values())
        return Position(done, seconds if math.isfinite(seconds) else 0.0, lease, still)

    # Ranks come and go.

    def admit(self, hello: wire.Hello, line: Line, now: float, body: bytes | None = None) -> None:
        """Take in a rank. Raises `WireError` with the reason when it cannot be.

        `body` is the message as it came, if it came from outside.
        """
        self.check(hello)
        known = self._hellos.get(hello.rank)
        if known is not None and known.incarnation != hello.incarnation:
            self._restart(now)
        elif self._end is not None:
            self.orders.forget()
        before = self._lines.pop(hello.rank, None)
        if before is not None:
            before.refuse("this rank has opened another connection")
        self._hellos[hello.rank] = hello
        self._lines[hello.rank] = line
        self._empty_since = self._end = self.ended = None
        self.saved = False
        offers = [frozenset(other.offers) for other in self._hellos.values()]
        self.orders.control.offers = frozenset.intersection(*offers)
        self.orders.control.world_size = hello.world_size
        if len(self._lines) == hello.world_size:
            self.orders.complete(now)
        self._happened(hello.rank, hello, now, body)
        self.tell_state()

    def greet(self, line: Line) -> None:
        """Tell a rank that has just been taken in what is pending."""
        for order in self.orders.control.pending():
            line.send(order.order)

    def check(self, hello: wire.Hello) -> None:
        """Raises `WireError` with the reason when a rank cannot be taken in."""
        if hello.rank >= hello.world_size:
            raise WireError(f"there is no rank {hello.rank} among {hello.world_size}")
        if not (math.isfinite(hello.lease_limit) and hello.lease_limit > 0):
            raise WireError(f"a lease limit of {hello.lease_limit} s")
        if hello.incarnation in self._retired:
            raise BarredError(f"a newer process is rank {hello.rank} of run {self.name}")
        if self._lines and hello.world_size != self.world_size:
            known = self._hellos.get(hello.rank)
            if known is None or known.incarnation == hello.incarnation:
                raise WireError(
                    f"run {self.name} has {self.world_size} ranks, this one says {hello.world_size}"
                )
        if why := self.engine.refusal(hello):
            raise BarredError(why)

    def _restart(self, now: float) -> None:
        """Another job goes by this name from now on."""
        log.info("run %s: a new job of %s", self.name, self.name)
        old, self._lines = self._lines, {}
        self._retired = {hello.incarnation for hello in self._hellos.values()}
        self._hellos = {}
        for rank, line in old.items():
            line.refuse("a newer job of this run has started", final=True)
            self._disconnected(rank, now)
        self.orders.restart(now)

    def left(self, rank: int, line: Line, now: float) -> None:
        """A connection has ended; passed over unless it is the rank's current one."""
        if self._lines.get(rank) is not line:
            return
        del self._lines[rank]
        if not self._lines:
            self._empty_since = now
        self._disconnected(rank, now)
        self._settle(now)

    def _disconnected(self, rank: int, now: float) -> None:
        self._happened(rank, None, now)

    def adopt(
        self, incident: OpenIncident | None, hold: HoldRow | None, started: float, now: float
    ) -> None:
        """Go on with what an earlier daemon has left of this same job."""
        self.orders.started = started
        self.orders.adopt(hold, now)
        self.adopt_incident(incident)

    def adopt_checkpoints(self, known: Sequence[Checkpoint], step: int) -> None:
        """Go on with what is on record of this run's checkpoints, whichever job saved them."""
        self.engine.checkpoints.adopt(known, step)

    def adopt_incident(self, incident: OpenIncident | None) -> None:
        """Go on with an incident that was open when this run was last seen."""
        if incident is None:
            return
        self.incident, self.opened = incident.id, incident
        for alert in incident.alerts:
            self.firing[_identity(alert)] = alert.severity
        self.engine.adopt(incident)

    # What ranks say.

    def hear(
        self, rank: int, message: wire.FromRank, now: float, body: bytes | None = None
    ) -> None:
        """A message of a rank that was taken in. Raises `WireError` when it makes no sense.

        `body` is the message as it came, if it came from outside.
        """
        if isinstance(message, wire.Hello):
            raise WireError("a second hello on one connection")
        if isinstance(message, wire.BlackBoxPart):  # has a place of its own
            if self._desk.archive is not None:
                self._desk.archive.take(rank, message)
        elif isinstance(message, wire.Standing):
            self.course.keep(rank, message, now, body)
            self.orders.standing(rank, message)
        elif isinstance(message, wire.Report):
            self.course.keep(rank, message, now, body)
            self.orders.heard(message.outcome, now)
        else:
            self._happened(rank, message, now, body)
            if isinstance(message, wire.Heartbeat) and message.outcome:
                self.orders.heard(message.outcome, now)
            elif isinstance(message, wire.Checkpoint):
                self.shelf.heard(now)
        if isinstance(message, wire.Goodbye):
            self._settle(now)
        self.tell_state()

    def tick(self, now: float) -> None:
        """Once a second."""
        if self.active:
            self._happened(DAEMON, event.Ticked(), now)
            for rank, request in self.engine.inquiry.questions():
                self._ask(rank, request)
            self.orders.tick(now)
        self.shelf.keep(now)
        self._settle(now)

    def end(self, now: float, *, well: bool) -> None:
        """The launcher has ended: no rank lives any more. `well`: with exit status 0."""
        if not self.active:
            return
        for rank, reason, why in self._unsaid(now, well=well):
            self._happened(rank, wire.Goodbye(reason, why), now)
        for line in [*self._lines.values()]:
            line.refuse("the launcher of this run has ended", final=True)
        self._lines.clear()
        self._finish("finished" if self._all_well() or well else "lost", now)

    def _unsaid(self, now: float, *, well: bool) -> list[tuple[int, str, str]]:
        """The farewells of ranks that left without one and did not die by themselves.

        After status 0 that is all of them, as scripts that end by os._exit. Otherwise it is those
        that were gone later than the first: a launcher takes down the rest when one has died or
        failed.
        """
        silent = {rank: state for rank, state in self.ranks.items() if state.goodbye is None}
        if well:
            return [(rank, "finished", "its launcher ended with status 0") for rank in silent]
        gone = {r: now if s.connected else s.disconnected_at for r, s in silent.items()}
        failed = {r: state.last_seen for r, state in self.ranks.items() if state.failed}
        ends = {**gone, **failed}
        first = min(ends, key=lambda rank: ends[rank], default=0)
        return [
            (rank, "taken down", f"ended after rank {first} was gone")
            for rank, at in gone.items()
            if at - ends[first] > TOGETHER
        ]

    def _settle(self, now: float) -> None:
        """Notice that all ranks are gone."""
        if self.active and self._all_well():
            self._finish("finished", now)
        elif self.active and self._empty_since is not None and now - self._empty_since > GRACE:
            self._finish("lost", now, for_good=False)
        self.tell_state()

    def _all_well(self) -> bool:
        ranks = self.ranks
        return len(ranks) >= self.world_size and all(
            rank.goodbye in WELL for rank in ranks.values()
        )

    def _finish(self, end: Ended, now: float, *, for_good: bool = True) -> None:
        """It has ended. Unless `for_good`, its incident stays open for when ranks come back."""
        if for_good:
            self._happened(DAEMON, event.Ended(), now)
        self.orders.ended(now)
        self._end, self.ended = end, now
        self.tell_state()

    def tell_state(self) -> None:
        """Tell those who look on when the state is another."""
        if (state := self.state) != self._told:
            before, self._told = self._told, state
            step = self.orders.control.hold.step if self.orders.control.hold else self.engine.step
            self._desk.tell(StateNews(self.name, before, state, step))

    def _resumed(self) -> None:
        self._happened(DAEMON, event.Resumed(), clock.steady())

    # What the engine says.

    def _happened(
        self, rank: int, what: event.Happening, now: float, body: bytes | None = None
    ) -> None:
        transitions = self.course.judge(rank, what, now, body)
        if transitions:
            self._note(transitions)
            self._desk.ledger.commit(transitions, partial(self._committed, transitions))

    def _note(self, transitions: Sequence[Transition]) -> None:
        for change in transitions:
            if isinstance(change, AlertChanged):
                if change.state == "firing":
                    self.firing[_identity(change)] = change.severity
                else:
                    self.firing.pop(_identity(change), None)
            elif isinstance(change, IncidentChanged):
                self.incident = None if change.change == "resolved" else change.id
                self.opened = None if change.change == "resolved" else change
                if change.change == "opened":
                    self.incidents[change.severity] = self.incidents.get(change.severity, 0) + 1

    def _committed(self, transitions: Sequence[Transition], ids: list[int] | None) -> None:
        """All is on the record, or `ids` is None: then nothing is acted on."""
        wanted = []
        for change in transitions:
            self._desk.tell(change)
            if isinstance(change, ActionWanted):
                wanted.append(change)
            else:
                self._capture(change)
        for change, action_id in zip(wanted, ids or [], strict=False):
            self.orders.wanted(change, action_id, over=not self.active)
        self.tell_state()

    def _capture(self, change: AlertChanged | IncidentChanged) -> None:
        """Have the black boxes of those that an incident speaks of."""
        archive = self._desk.archive
        if archive is None:
            return
        if isinstance(change, AlertChanged):
            if change.state == "firing" and change.incident:
                rank = change.labels.get("rank")
                archive.want(
                    change.incident, None if rank is None else int(rank), self._hellos, self._ask
                )
        elif change.change == "resolved":
            archive.closed(change.id)

    def _ask(self, rank: int, question: wire.Capture | wire.StackRequest) -> bool:
        line = self._lines.get(rank)
        if line is not None:
            line.send(question)
        return line is not None

    def _broadcast(self, order: wire.FromDaemon) -> None:
        for line in [*self._lines.values()]:
            line.send(order)


class BarredError(WireError):
    """A rank that is not taken in, and that coming back will not help."""


def _identity(alert: AlertChanged) -> tuple[str, tuple[tuple[str, str], ...]]:
    return alert.rule, tuple(sorted(alert.labels.items()))
