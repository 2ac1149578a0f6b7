"""What one run is asked to do, by rules and by people, and what became of it.

The intention is on the record before an order leaves; the outcome follows when the ranks tell.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from sentinel import clock, wire
from sentinel.control.hold import Effect, Record, RunControl, Send
from sentinel.control.outcome import UNATTENDED, decode
from sentinel.control.record import Action
from sentinel.daemon.archive import Archive
from sentinel.daemon.counts import Counts
from sentinel.daemon.holding import Standstill, due, terms, unanswered
from sentinel.daemon.ledger import Ledger
from sentinel.daemon.news import ActionNews, Listener
from sentinel.engine.rule import Unattended
from sentinel.engine.transition import ActionWanted
from sentinel.errors import ControlError, WireError
from sentinel.store.shapes import ActionState, HoldRow
from sentinel.store.writing import NewAction, Reminder

log = logging.getLogger("sentinel.daemon")

OBSERVING = "the daemon was started with --observe and acts on no rule"
TELL_WITHIN = 3.0  # s that ranks may take to tell it once all of them are there
LAPSE_AFTER = 30.0  # s after a restart, for ranks to tell what became of older orders

NOTHING = wire.Remedies()


@dataclass(frozen=True)
class Position:
    """Where a run is: the last step any rank has done, and what a step takes in seconds (or 0).

    `lease` is what every rank can stand for in seconds while others have not come to stand.
    """

    step: int
    step_seconds: float
    lease: float
    still: Standstill


@dataclass(frozen=True)
class Request:
    """What a person asks of a run. A pause holds for `hold_for` seconds; then `unattended`.

    `reason` is what is to be on the record about it.
    """

    action: Action
    by: str
    remedies: wire.Remedies = NOTHING
    force: bool = False
    reason: str = ""
    hold_for: float = wire.HOLD_FOR
    unattended: Unattended = "resume"

    def order(self) -> dict[str, object]:
        """What is asked for in particular, for the record."""
        if self.action == "pause":
            return {"unattended": self.unattended, "hold_for": self.hold_for}
        given = msgspec.structs.asdict(self.remedies)
        default = msgspec.structs.asdict(NOTHING)
        asked = {name: value for name, value in given.items() if value != default[name]}
        return {**asked, "force": True} if self.force else asked


@dataclass(frozen=True)
class Desk:
    """What the runs of one daemon share.

    `tell` passes news on to who looks on, `record` keeps a message of a rank as it came (None:
    its connection ended), or with `chunk.DAEMON` what the daemon did. `observe`: rules may not
    act.
    """

    ledger: Ledger
    counts: Counts
    tell: Listener
    record: Callable[[str, int, float, bytes | None], None]
    observe: bool = False
    archive: Archive | None = None


class Orders:
    """One run's control, joined to the record and to its ranks."""

    def __init__(
        self,
        run: str,
        started: float,
        desk: Desk,
        position: Callable[[], Position],
        broadcast: Callable[[wire.FromDaemon], None],
        resumed: Callable[[], None],
    ) -> None:
        """`resumed` is told when the run was held and goes on."""
        self.run = run
        self.started = started
        self.control = RunControl(run)
        self._desk = desk
        self._position = position
        self._broadcast = broadcast
        self._resumed = resumed
        self._before: HoldRow | None = None  # where the run was held before this daemon started
        self._lapse_at: float | None = None
        self._lapse_before = 0.0
        self._reminded = 0.0

    def restart(self, now: float) -> None:
        """The run is another job from now on: what the old one was asked for has lapsed."""
        self.ended(now)
        self.control = RunControl(self.run)
        self.started = now
        self._before = self._lapse_at = None

    def forget(self) -> None:
        """Ranks that were given up have come back: believe only what they tell."""
        self.control = RunControl(self.run)

    def adopt(self, hold: HoldRow | None, now: float) -> None:
        """An earlier daemon has given orders to this job; its ranks will tell what came of them."""
        self._before = hold
        self._lapse_before, self._lapse_at = now, now + LAPSE_AFTER

    def hold(self) -> HoldRow | None:
        """Where the run stands or is to stand, if anywhere."""
        hold = self.control.hold
        if hold is None:
            return None
        before = self._before
        since = before.since if before and before.step == hold.step else hold.since
        latest = self.control.latest
        agreed = terms(latest, self._position().still) if latest is not None else None
        return HoldRow(hold.step, hold.by, since, agreed)

    # What rules ask for.

    def wanted(self, wanted: ActionWanted, action_id: int, *, over: bool) -> None:
        """A rule asks for an action, which is on the record as `action_id`.

        `over`: the run has ended while this was being recorded.
        """
        try:
            if self._desk.observe:
                raise ControlError(OBSERVING)
            if over:
                raise ControlError(f"run {self.run} has ended")
            effects = self._of_rule(wanted, clock.steady())
        except ControlError as error:
            self._refuse(action_id, wanted, str(error))
            return
        self._carry_out(effects, action_id)
        self._desk.counts.order.observe(max(0.0, clock.steady() - wanted.at))

    def _of_rule(self, wanted: ActionWanted, now: float) -> list[Effect]:
        at, by = self._position(), f"rule:{wanted.rule}"
        if wanted.action == "stop":
            return self.control.stop(
                by=by, step=at.step, step_seconds=at.step_seconds, now=now, lease=at.lease
            )
        if wanted.action == "checkpoint":
            return self.control.checkpoint(
                by=by,
                reason=wanted.reason,
                step=at.step,
                step_seconds=at.step_seconds,
                now=now,
                lease=at.lease,
                incident=wanted.incident,
            )
        return self.control.pause(
            by=by,
            reason=wanted.reason,
            step=at.step,
            step_seconds=at.step_seconds,
            now=now,
            hold_for=wanted.hold_for,
            unattended=wanted.unattended,
            lease=at.lease,
            incident=wanted.incident,
        )

    def _refuse(self, action_id: int, wanted: ActionWanted, why: str) -> None:
        now = clock.steady()
        self._desk.ledger.change(action_id, "refused", now, why)
        by = f"rule:{wanted.rule}"
        record = Record("", wanted.action, "refused", wanted.step, by, now, why)
        self._desk.tell(ActionNews(self.run, record))

    # What people ask for.

    async def ask(self, request: Request, incident: str | None) -> int:
        """Give a person's order; returns the id of its row.

        Raises `ControlError` when it cannot be carried out now, which is recorded too, and
        `StateError` when it could not be recorded, in which case nothing was sent.
        """
        step = self.control.hold.step if self.control.hold else self._position().step
        try:
            self._of_person(copy.deepcopy(self.control), request)
        except ControlError as error:
            await self.refuse(request, step, str(error), incident)
            raise
        action_id = await self._add(request, "requested", step, "", incident)
        try:
            effects = self._of_person(self.control, request)
        except ControlError as error:  # something came between while it was being recorded
            self._desk.ledger.change(action_id, "refused", clock.steady(), str(error))
            raise
        self._carry_out(effects, action_id)
        return action_id

    async def refuse(self, request: Request, step: int, reason: str, incident: str | None) -> None:
        """Record that an order was refused. Raises `StateError`."""
        await self._add(request, "refused", step, reason, incident)
        now = clock.steady()
        record = Record("", request.action, "refused", step, request.by, now, reason)
        self._desk.tell(ActionNews(self.run, record))

    def _of_person(self, control: RunControl, request: Request) -> list[Effect]:
        now, at = clock.steady(), self._position()
        if request.action == "resume":
            return control.resume(
                by=request.by, remedies=request.remedies, force=request.force, now=now
            )
        if request.action == "stop":
            return control.stop(
                by=request.by,
                step=at.step,
                step_seconds=at.step_seconds,
                now=now,
                lease=at.lease,
            )
        if request.action == "checkpoint":
            return control.checkpoint(
                by=request.by,
                reason=f"asked for by {request.by}",
                step=at.step,
                step_seconds=at.step_seconds,
                now=now,
                lease=at.lease,
            )
        return control.pause(
            by=request.by,
            reason=f"asked for by {request.by}",
            step=at.step,
            step_seconds=at.step_seconds,
            now=now,
            hold_for=request.hold_for,
            unattended=request.unattended,
            lease=at.lease,
        )

    async def _add(
        self,
        request: Request,
        state: ActionState,
        step: int,
        detail: str,
        incident: str | None,
    ) -> int:
        new = NewAction(
            self.run,
            request.action,
            state,
            step,
            request.by,
            clock.steady(),
            incident=incident,
            reason=request.reason,
            detail=detail,
            order=request.order(),
        )
        return await self._desk.ledger.add_action(new)

    # What the ranks say.

    def standing(self, rank: int, message: wire.Standing) -> None:
        """A rank stands."""
        self.control.standing(rank, message)

    def heard(self, outcome: bytes, now: float) -> None:
        """A rank has read this value of the job's register. Raises `WireError` if it is none."""
        try:
            decoded = decode(outcome)
        except msgspec.MsgspecError as error:
            raise WireError(f"malformed outcome: {error}") from error
        if decoded is not None:
            held = self.hold() or self._before
            self._carry_out([_told(effect, held) for effect in self.control.report(decoded, now)])
            if self.control.hold is None:
                self._before = None

    def tick(self, now: float) -> None:
        """Once a second."""
        self._carry_out(self.control.tick(now))
        self._remind(now)
        settled = self.control.state in ("running", "held")  # else it may come true yet
        if settled and self._lapse_at is not None and now >= self._lapse_at:
            self._lapse(now)

    def complete(self, now: float) -> None:
        """All ranks are connected, and tell in a moment all that they know."""
        if self._lapse_at is not None:
            self._lapse_at = min(self._lapse_at, now + TELL_WITHIN)

    def _remind(self, now: float) -> None:
        """Have people reminded that the run is held, when that is due."""
        hold = self.hold()
        if self.control.state != "held" or hold is None:
            self._reminded = 0.0
        elif (reminder := due(hold, now)) and reminder.offset > self._reminded:
            self._reminded = reminder.offset
            self._desk.ledger.remind(
                Reminder(self.run, reminder.offset, now, ending=reminder.ending)
            )

    def ended(self, now: float) -> None:
        """All ranks are gone; should they come back, they stand since when they stood."""
        self._before = self.hold() or self._before
        self._carry_out(self.control.ended(now))
        if self._lapse_at is not None:
            self._lapse(now)

    def _lapse(self, now: float) -> None:
        self._lapse_at = None
        self._desk.ledger.lapse(self.run, self.started, self._lapse_before, now)

    # What follows.

    def _carry_out(self, effects: Sequence[Effect], action_id: int | None = None) -> None:
        """Send and record. `action_id`: the row in which the intention is recorded already."""
        for effect in effects:
            if isinstance(effect, Send):
                self._broadcast(effect.order)
                continue
            if action_id is None:
                stands = effect.action == "pause" and effect.state == "done"
                hold = self.hold() if stands else None
                self._desk.ledger.record(self.run, self.started, effect, hold)
            else:
                self._desk.ledger.know(self.run, self.started, effect.id, action_id)
            if effect.action == "resume" and effect.state == "done":
                self._resumed()
            self._desk.tell(ActionNews(self.run, effect))


def _told(effect: Effect, held: HoldRow | None) -> Effect:
    """An end that nobody asked for says since when it was waited, however late it is heard of."""
    if held is None or isinstance(effect, Send) or effect.step != held.step:
        return effect
    if not effect.by.startswith(UNATTENDED):
        return effect
    return replace(effect, reason=unanswered(held, effect.reason))
