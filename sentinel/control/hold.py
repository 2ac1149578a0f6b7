"""The daemon's half of the hold: what is asked of a run, and what came of it.

Pure: every method is handed the time and returns what is to be sent and recorded. What the
daemon believes follows the ranks' reports of the register; after a restart it converges to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from sentinel.control.ask import ATTEMPTS, Ask, lead_for
from sentinel.control.outcome import OPEN, UNATTENDED, Outcome
from sentinel.control.record import (
    Effect,
    Record,
    Send,
    describe,
    of_end,
    of_pause,
    of_resume,
)
from sentinel.errors import BadWeightsError, ControlError
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, Standing, StopOrder

MEMORY = 64  # holds whose end is remembered
PATIENCE = 120.0  # s without any report before an order is given up

__all__ = ["Effect", "Hold", "Record", "RunControl", "Send"]

_UNANSWERED = f"no rank answered within {PATIENCE:g} s"

Then = Literal["hold", "stop", "checkpoint"]
RunState = Literal["running", "pausing", "held", "resuming"]


@dataclass(frozen=True)
class Hold:
    """Where a run stands, or is to stand; `since` is when it was held."""

    step: int
    by: str
    since: float


@dataclass
class RunControl:
    """What one run was asked to do and where it stands.

    `offers` are the remedies that every rank's trainer can carry out; `weights` says for each
    rank that stands which of its parameters it found non-finite, or nothing.
    """

    run: str
    world_size: int = 1
    state: RunState = "running"
    hold: Hold | None = None
    latest: Outcome | None = None
    offers: frozenset[str] = frozenset()
    weights: dict[int, str] = field(default_factory=dict)
    _ask: Ask | None = None
    _next: Ask | None = None  # to be ordered when the checkpoint that is under way is over
    _numbered: int = 0  # the last epoch ordered: what was given up may come true yet
    _ended: dict[int, int] = field(default_factory=dict)  # by `asked`: the serial of its end
    _stood: int = 0  # the latest hold, by `asked`, that is known to have come to stand
    _resume: ResumeOrder | None = None
    _resume_at: float = 0.0
    _stop: Record | None = None  # of a held run, not confirmed yet

    # What is asked for: by rules and by people.

    def pause(
        self,
        *,
        by: str,
        reason: str,
        step: int,
        step_seconds: float,
        now: float,
        then: Then = "hold",
        hold_for: float = 7200.0,
        unattended: Literal["resume", "stop", "hold"] = "resume",
        lease: float = 60.0,
        incident: str | None = None,
    ) -> list[Effect]:
        """Order a hold; `step` is the last one known to be done by any rank.

        `step_seconds` is what a step takes now (0 when unknown). During a checkpoint it is ordered
        when that is over. Raises `ControlError` when the run is held or about to be.
        """
        before = self._checkpoint_under_way() if then != "checkpoint" and not self._next else 0
        if not before and (self.state != "running" or self._ask is not None):
            at = f" after step {self.hold.step}" if self.hold else ""
            raise ControlError(f"run {self.run} is already {self.state}{at}")
        if self.latest is not None and self.latest.phase == "stopped":
            raise ControlError(f"run {self.run} is stopping after step {self.latest.step}")
        known = self.latest.epoch if self.latest else 0
        epoch = self._numbered = max(before, known, self._numbered) + 1
        order = HoldOrder(
            epoch=epoch,
            asked=epoch,
            step=step + 1,
            lead=lead_for(step_seconds),
            lease=lease,
            by=by,
            reason=reason,
            then=then,
            hold_for=hold_for,
            unattended=unattended,
        )
        ask = Ask(order, now, incident=incident)
        asked = ask.record("requested", now, reason)
        if before:
            self._next = ask
            return [asked]
        self._ask = ask
        self.state = "pausing"
        return [Send(order), asked]

    def checkpoint(
        self,
        *,
        by: str,
        reason: str,
        step: int,
        step_seconds: float,
        now: float,
        lease: float = 60.0,
        incident: str | None = None,
    ) -> list[Effect]:
        """Order that all ranks save a checkpoint after the same step, and go on.

        Raises `ControlError` when the trainer cannot, and when the run is held or about to be.
        """
        if "save_checkpoint" not in self.offers:
            raise ControlError(f"run {self.run} cannot save a checkpoint: {self._offered()}")
        return self.pause(
            by=by,
            reason=reason,
            step=step,
            step_seconds=step_seconds,
            now=now,
            then="checkpoint",
            lease=lease,
            incident=incident,
        )

    def _checkpoint_under_way(self) -> int:
        """The number of the checkpoint that was asked for and is not over, or 0."""
        if self._ask is not None:
            return self._ask.order.asked if self._ask.order.then == "checkpoint" else 0
        latest = self.latest
        if latest is not None and latest.phase in OPEN and latest.then == "checkpoint":
            return latest.asked
        return 0

    def resume(self, *, by: str, remedies: Remedies, force: bool, now: float) -> list[Effect]:
        """Order the hold to be left. Raises `ControlError` with the reason when it cannot be.

        Weights that are not finite, and a rollback that has failed, do not stand in the way of a
        rollback, nor of anything that is forced.
        """
        held = self._held("resumed")
        lacking = [name for name in remedies.names() if name not in self.offers]
        if lacking:
            raise ControlError(
                f"run {self.run} cannot be resumed with {', '.join(lacking)}: {self._offered()}"
            )
        if not (force or remedies.rollback):
            self._check_weights(held)
        self._resume = ResumeOrder(held.epoch, by, remedies, held.attempt + 1)
        self._resume_at = now
        self.state = "resuming"
        what = describe(remedies)
        return [
            Send(self._resume),
            of_resume(held, "requested", held.attempt + 1, by, now, what),
        ]

    def _offered(self) -> str:
        return f"its trainer offers {', '.join(sorted(self.offers)) or 'no remedy'}"

    def _check_weights(self, held: Outcome) -> None:
        if held.torn:
            raise ControlError(
                f"a rollback of run {self.run} has failed ({held.refused}), so that its ranks may "
                "have different weights; roll back to a checkpoint, stop it, or use --force"
            )
        bad = {rank: name for rank, name in self.weights.items() if name}
        if bad:
            rank, name = min(bad.items())
            raise BadWeightsError(
                f"run {self.run} has non-finite weights ({name} on rank {rank}): it would go on "
                "with NaN; roll back to a checkpoint, stop it, or use --force"
            )
        if len(self.weights) < self.world_size:
            raise ControlError(
                f"only {len(self.weights)} of {self.world_size} ranks of run {self.run} have "
                "said yet whether their weights are finite; try again, or use --force"
            )

    def stop(
        self, *, by: str, step: int, step_seconds: float, now: float, lease: float = 60.0
    ) -> list[Effect]:
        """Order the run to end: at once when held, else at the next step where all can stand."""
        if self.state == "running" or self._checkpoint_under_way():
            return self.pause(
                by=by,
                reason="stop",
                step=step,
                step_seconds=step_seconds,
                now=now,
                then="stop",
                lease=lease,
            )
        held = self._held("stopped")
        name = f"{held.asked}/stop"
        self._stop = Record(name, "stop", "requested", held.step, by, now)
        return [Send(StopOrder(held.epoch, by)), self._stop]

    def _held(self, done: str) -> Outcome:
        if self.latest is None or self.latest.phase != "held" or self.state != "held":
            raise ControlError(f"run {self.run} is {self.state}, not held: it cannot be {done}")
        return self.latest

    # What the ranks say.

    def pending(self) -> list[Send]:
        """The orders that a rank which connects now has to be told."""
        orders: list[HoldOrder | ResumeOrder | StopOrder | None]
        orders = [self._ask.order if self._ask else None, self._resume]
        if self._stop is not None and self.latest is not None:
            orders.append(StopOrder(self.latest.epoch, self._stop.by))
        return [Send(order) for order in orders if order is not None]

    def standing(self, rank: int, message: Standing) -> None:
        """A rank stands, and has looked at its weights."""
        self.weights[rank] = message.bad_weights

    def report(self, outcome: Outcome, now: float) -> list[Effect]:
        """A rank has read this outcome. What is not news is passed over."""
        if self.latest is not None and outcome.serial <= self.latest.serial:
            return self._late(outcome, now)
        self.latest = outcome
        effects = self._superseded(outcome, now)
        if outcome.phase in OPEN:
            return [*effects, *self._on_open(outcome, now)]
        effects += self._on_end(outcome, now)
        self.hold = None
        self.weights.clear()
        self.state = "pausing" if self._ask else "running"
        return effects if self._ask else [*effects, *self._order_next(now)]

    def _late(self, outcome: Outcome, now: float) -> list[Effect]:
        """News of an earlier hold, of whose end only those know that did not sleep through it."""
        latest = self.latest
        if latest is None or outcome.asked >= latest.asked or outcome.phase in OPEN:
            return []
        return self._end(outcome, now)

    def _end(self, outcome: Outcome, now: float) -> list[Effect]:
        if outcome.serial <= self._ended.get(outcome.asked, 0):
            return []
        self._ended[outcome.asked] = outcome.serial
        while len(self._ended) > MEMORY:
            del self._ended[min(self._ended)]
        known = outcome.asked == self._stood
        return [one for one in of_end(outcome, now) if not (known and one.action == "pause")]

    def _superseded(self, outcome: Outcome, now: float) -> list[Effect]:
        """An order of this daemon's came to nothing, for an earlier one of which it did not know.

        That one's number is taken: ask again when it is over, and not at all while it goes on.
        """
        ask = self._ask
        if ask is None or ask.heard or outcome.asked == ask.order.asked:
            return []
        if outcome.phase in OPEN or outcome.phase == "stopped":
            self._ask = None
            if outcome.then == "checkpoint" and self._next is None:
                self._next = ask
                return []
            why = f"the run was to stand after step {outcome.step} already"
            return [ask.record("failed", now, why)]
        if outcome.epoch >= ask.order.epoch:
            return [self._again(ask, outcome, now)]
        return []

    def _on_open(self, outcome: Outcome, now: float) -> list[Effect]:
        phase, since = outcome.phase, now
        if self.hold is not None and self.state in ("held", "resuming"):
            since = self.hold.since
        self.hold = Hold(outcome.step, outcome.asked_by or outcome.by, since)
        if phase == "hold":
            self.state = "pausing"
            if self._ask is not None:  # this one: see `_superseded`
                self._ask.heard = True
            return []
        effects = self._stands(outcome, now)
        self.state = "held" if phase == "held" else "resuming"
        if phase == "held" and outcome.attempt:
            self._resume = None
            why, by = outcome.refused, outcome.by
            effects.append(of_resume(outcome, "failed", outcome.attempt, by, now, why))
        return effects

    def _stands(self, outcome: Outcome, now: float) -> list[Effect]:
        """Note that the run stands, also when that itself was not heard of."""
        if outcome.then == "checkpoint" or outcome.asked == self._stood:
            return []
        self._stood, self._ask = outcome.asked, None
        return [of_pause(outcome, now)]

    def _on_end(self, outcome: Outcome, now: float) -> list[Effect]:
        ask = self._ask
        mine = ask is not None and ask.order.asked == outcome.asked
        if ask is not None and mine and outcome.phase == "released":
            final = ask.attempts >= ATTEMPTS or self._next is not None
            if not (final or "has left" in outcome.refused):
                return [self._again(ask, outcome, now)]
        if mine:
            self._ask = None
        late = self._unconfirmed(outcome, now)
        self._resume = self._stop = None
        return [*late, *self._end(outcome, now)]

    def _unconfirmed(self, outcome: Outcome, now: float) -> list[Effect]:
        """What was ordered of a held run that has ended its hold otherwise."""
        late: list[Effect] = []
        order, why = self._resume, f"{outcome.by} was faster"
        other = outcome.by.startswith(UNATTENDED) or outcome.phase == "stopped"
        if order is not None and (other or order.attempt > outcome.attempt):
            late.append(of_resume(outcome, "failed", order.attempt, order.by, now, why))
        if self._stop is not None and outcome.phase != "stopped":
            late.append(replace(self._stop, state="failed", at=now, reason=why))
        return late

    def _order_next(self, now: float) -> list[Effect]:
        ask, self._next = self._next, None
        if ask is None:
            return []
        known = self.latest.epoch if self.latest else 0
        self._numbered = max(known, self._numbered) + 1
        ask.at, ask.order = now, msgspec.structs.replace(ask.order, epoch=self._numbered)
        self._ask, self.state = ask, "pausing"
        return [Send(ask.order)]

    def _again(self, ask: Ask, outcome: Outcome, now: float) -> Send:
        self._numbered = max(outcome.epoch, self._numbered) + 1
        return Send(ask.again(self._numbered, now))

    def tick(self, now: float) -> list[Effect]:
        """Give up what nobody has answered. Call about once a second.

        Should it come true after all, the ranks will tell, and so will the record.
        """
        effects: list[Effect] = []
        ask, order, held = self._ask, self._resume, self.latest
        if ask is not None and not ask.heard and now - ask.at > PATIENCE:
            self._ask, self.state = None, "running"
            effects.append(ask.record("failed", now, _UNANSWERED))
            effects += self._order_next(now)
        is_held = held is not None and held.phase == "held"
        if is_held and held and order and now - self._resume_at > PATIENCE:
            self._resume, self.state = None, "held"
            number, why = order.attempt, _UNANSWERED
            effects.append(of_resume(held, "failed", number, order.by, now, why))
        if self._stop is not None and now - self._stop.at > PATIENCE:
            effects.append(replace(self._stop, state="failed", at=now, reason=_UNANSWERED))
            self._stop = None
        return effects

    def ended(self, now: float) -> list[Effect]:
        """All ranks are gone: what was asked for cannot happen any more."""
        why, order = "the run has ended", self._resume
        lapsed: list[Effect] = [
            ask.record("lapsed", now, why) for ask in (self._ask, self._next) if ask is not None
        ]
        if self.latest is not None and order is not None:
            lapsed.append(of_resume(self.latest, "lapsed", order.attempt, order.by, now, why))
        if self._stop is not None:
            lapsed.append(replace(self._stop, state="lapsed", at=now, reason=why))
        self._ask = self._next = self._resume = self._stop = None
        self.state, self.hold = "running", None
        return lapsed
