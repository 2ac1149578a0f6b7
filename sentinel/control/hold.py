"""The daemon's half of the hold: what is asked of a run, and what came of it.

Pure: every method is handed the time and returns what is to be sent and recorded. What the
daemon believes follows the ranks' reports of the register; after a restart it converges to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from sentinel.control.outcome import OPEN, UNATTENDED, Outcome
from sentinel.errors import BadWeightsError, ControlError
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, Standing, StopOrder

LEAD = 2  # steps beyond the highest known to have begun, at least
TRAVEL = 0.05  # s that an order may take to reach every rank; one that comes late moves the hold
ATTEMPTS = 5  # holds asked for before a pause is given up
PATIENCE = 120.0  # s without any report before an order is given up

_UNANSWERED = f"no rank answered within {PATIENCE:g} s"

Action = Literal["pause", "resume", "stop", "checkpoint"]
RunState = Literal["running", "pausing", "held", "resuming"]
ActionState = Literal["requested", "done", "failed", "refused", "lapsed"]

_ACTIONS: dict[str, Action] = {"hold": "pause", "stop": "stop", "checkpoint": "checkpoint"}


@dataclass(frozen=True)
class Send:
    """An order for every rank of the run."""

    order: HoldOrder | ResumeOrder | StopOrder


@dataclass(frozen=True)
class Record:
    """One action on the record; a later record with the same `id` replaces its state.

    `id` is unique within the run and the same whoever writes it, so that a restarted daemon
    that hears of an old outcome again adds nothing.
    """

    id: str
    action: Action
    state: ActionState
    step: int
    by: str
    at: float
    reason: str = ""
    incident: str | None = None


Effect = Send | Record


@dataclass(frozen=True)
class Hold:
    """Where a run stands, or is to stand; `since` is when it was held."""

    step: int
    by: str
    since: float


@dataclass
class _Ask:
    """A hold that was ordered and is not decided yet."""

    order: HoldOrder
    at: float
    attempts: int = 1
    incident: str | None = None
    heard: bool = False


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
    _ask: _Ask | None = None
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
        then: Literal["hold", "stop", "checkpoint"] = "hold",
        hold_for: float = 7200.0,
        unattended: Literal["resume", "stop", "hold"] = "resume",
        lease: float = 60.0,
        incident: str | None = None,
    ) -> list[Effect]:
        """Order a hold; `step` is the last one known to be done by any rank.

        `step_seconds` is what a step takes now (0 when unknown). Raises `ControlError` when the
        run is held or about to be.
        """
        if self.state != "running" or self._ask is not None:
            at = f" after step {self.hold.step}" if self.hold else ""
            raise ControlError(f"run {self.run} is already {self.state}{at}")
        if self.latest is not None and self.latest.phase == "stopped":
            raise ControlError(f"run {self.run} is stopping after step {self.latest.step}")
        epoch = (self.latest.epoch if self.latest else 0) + 1
        order = HoldOrder(
            epoch=epoch,
            asked=epoch,
            step=step + 1,
            lead=_lead(TRAVEL, step_seconds),
            lease=lease,
            by=by,
            reason=reason,
            then=then,
            hold_for=hold_for,
            unattended=unattended,
        )
        self._ask = _Ask(order, now, incident=incident)
        self.state = "pausing"
        return [Send(order), self._of_ask(self._ask, "requested", order.step, now, reason)]

    def resume(self, *, by: str, remedies: Remedies, force: bool, now: float) -> list[Effect]:
        """Order the hold to be left. Raises `ControlError` with the reason when it cannot be."""
        held = self._held("resumed")
        lacking = [name for name in remedies.names() if name not in self.offers]
        if lacking:
            raise ControlError(
                f"run {self.run} cannot be resumed with {', '.join(lacking)}: "
                f"its trainer offers {', '.join(sorted(self.offers)) or 'no remedy'}"
            )
        if not (force or remedies.rollback):
            self._check_weights()
        self._resume = ResumeOrder(held.epoch, by, remedies)
        self._resume_at = now
        self.state = "resuming"
        asked = msgspec.structs.replace(held, by=by)
        what = _describe(remedies)
        return [
            Send(self._resume),
            self._of_resume(asked, "requested", held.attempt + 1, now, what),
        ]

    def _check_weights(self) -> None:
        bad = {rank: name for rank, name in self.weights.items() if name}
        if bad:
            rank, name = min(bad.items())
            raise BadWeightsError(
                f"run {self.run} has non-finite weights ({name} on rank {rank}): it would go on "
                "with NaN; stop it and restart from a checkpoint, or use --force"
            )
        if len(self.weights) < self.world_size:
            raise ControlError(
                f"only {len(self.weights)} of {self.world_size} ranks of run {self.run} have "
                "said yet whether their weights are finite; try again, or use --force"
            )

    def checkpoint(
        self,
        *,
        by: str,
        reason: str,
        step: int,
        step_seconds: float,
        now: float,
        lease: float = 60.0,
    ) -> list[Effect]:
        """Order that all ranks save a checkpoint after the same step, and go on.

        Raises `ControlError` when the trainer cannot, and when the run is held or about to be.
        """
        if "save_checkpoint" not in self.offers:
            raise ControlError(f"the trainer of run {self.run} cannot save a checkpoint")
        return self.pause(
            by=by,
            reason=reason,
            step=step,
            step_seconds=step_seconds,
            now=now,
            then="checkpoint",
            lease=lease,
        )

    def stop(
        self, *, by: str, step: int, step_seconds: float, now: float, lease: float = 60.0
    ) -> list[Effect]:
        """Order the run to end: at once when held, else at the next step where all can stand."""
        if self.state == "running":
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
        orders = [self._ask.order if self._ask else None, self._resume]
        return [Send(order) for order in orders if order is not None]

    def standing(self, rank: int, message: Standing) -> None:
        """A rank stands, and has looked at its weights."""
        self.weights[rank] = message.bad_weights

    def report(self, outcome: Outcome, now: float) -> list[Effect]:
        """A rank has read this outcome. What is not news is passed over."""
        if self.latest is not None and outcome.serial <= self.latest.serial:
            return []
        self.latest = outcome
        if outcome.phase in OPEN:
            since = self.hold.since if self.hold and self.state in ("held", "resuming") else now
            self.hold = Hold(outcome.step, outcome.by if not self.hold else self.hold.by, since)
        decide = {
            "hold": self._on_hold,
            "held": self._on_held,
            "accepting": self._on_accepting,
            "resumed": self._on_resumed,
            "released": self._on_released,
            "stopped": self._on_stopped,
        }
        effects = decide[outcome.phase](outcome, now)
        if outcome.phase not in OPEN:
            self.hold = None
            self.weights.clear()
        return effects

    def _on_hold(self, outcome: Outcome, now: float) -> list[Effect]:
        self.state = "pausing"
        if self._ask is not None:
            self._ask.heard = True
        return []

    def _on_held(self, outcome: Outcome, now: float) -> list[Effect]:
        self.state = "held"
        self._resume = None
        if outcome.refused:
            return [self._of_resume(outcome, "failed", outcome.attempt, now, outcome.refused)]
        self._ask = None
        self.hold = Hold(outcome.step, outcome.by, now)
        return [self._of_hold(outcome, "done", now)]

    def _on_accepting(self, outcome: Outcome, now: float) -> list[Effect]:
        self.state = "resuming"
        return []

    def _on_resumed(self, outcome: Outcome, now: float) -> list[Effect]:
        self.state, self._ask, self._resume, self._stop = "running", None, None, None
        number = 0 if outcome.by.startswith(UNATTENDED) else outcome.attempt
        return [self._of_resume(outcome, "done", number, now, _describe(outcome.remedies))]

    def _on_released(self, outcome: Outcome, now: float) -> list[Effect]:
        self.state = "running"
        ask = self._ask
        if ask is None or ask.attempts >= ATTEMPTS or "has left" in outcome.refused:
            self._ask = None
            return [self._of_hold(outcome, "lapsed", now)]
        return [Send(self._again(ask, outcome, now))]

    def _on_stopped(self, outcome: Outcome, now: float) -> list[Effect]:
        self.state, self._ask, self._resume, self._stop = "running", None, None, None
        return [self._of_hold(outcome, "done", now)]

    def tick(self, now: float) -> list[Effect]:
        """Give up what nobody has answered. Call about once a second."""
        ask = self._ask
        if ask is not None and not ask.heard and now - ask.at > PATIENCE:
            self._ask, self.state = None, "running"
            return [self._of_ask(ask, "failed", ask.order.step, now, _UNANSWERED)]
        if self._resume is not None and now - self._resume_at > PATIENCE:
            self._resume = None
            if self.latest is not None and self.latest.phase == "held":
                self.state = "held"
                number = self.latest.attempt + 1
                return [self._of_resume(self.latest, "failed", number, now, _UNANSWERED)]
        return []

    def ended(self, now: float) -> list[Effect]:
        """All ranks are gone: what was asked for cannot happen any more."""
        why = "the run has ended"
        lapsed: list[Effect] = []
        if self._ask is not None:
            lapsed.append(self._of_ask(self._ask, "lapsed", self._ask.order.step, now, why))
        if self.latest is not None and self._resume is not None:
            number = self.latest.attempt + (self.latest.phase == "held")
            lapsed.append(self._of_resume(self.latest, "lapsed", number, now, why))
        if self._stop is not None:
            lapsed.append(replace(self._stop, state="lapsed", at=now, reason=why))
        self._ask = self._resume = self._stop = None
        self.state, self.hold = "running", None
        return lapsed

    # Records.

    def _again(self, ask: _Ask, outcome: Outcome, now: float) -> HoldOrder:
        """The same hold once more, in a new epoch and twice as far ahead."""
        self.state = "pausing"
        ask.attempts += 1
        ask.at, ask.heard = now, False
        ask.order = msgspec.structs.replace(
            ask.order, epoch=outcome.epoch + 1, lead=2 * ask.order.lead, step=outcome.step
        )
        return ask.order

    def _of_ask(self, ask: _Ask, state: ActionState, step: int, now: float, why: str) -> Record:
        action = _ACTIONS[ask.order.then]
        name = f"{ask.order.asked}/{action}"
        return Record(name, action, state, step, ask.order.by, now, why, ask.incident)

    def _of_hold(self, outcome: Outcome, state: ActionState, now: float) -> Record:
        action = "stop" if outcome.phase == "stopped" else _ACTIONS.get(outcome.then, "pause")
        why = outcome.refused or outcome.reason
        name = f"{outcome.asked}/{action}"
        return Record(name, action, state, outcome.step, outcome.by, now, why)

    def _of_resume(
        self, outcome: Outcome, state: ActionState, number: int, now: float, why: str
    ) -> Record:
        name = f"{outcome.asked}/resume/{number}"
        return Record(name, "resume", state, outcome.step, outcome.by, now, why)


def _lead(latency: float, step_seconds: float) -> int:
    """Steps that pass while an order travels for `latency` seconds, and one to spare."""
    if not step_seconds > 0:
        return LEAD
    return max(LEAD, min(1024, math.ceil(latency / step_seconds) + 1))


def _describe(remedies: Remedies) -> str:
    parts = []
    if remedies.lr_scale != 1.0:
        parts.append(f"learning rate times {remedies.lr_scale:g}")
    if remedies.skip_batches:
        parts.append(f"{remedies.skip_batches} batches skipped")
    return ", ".join(parts) or "no remedy"
