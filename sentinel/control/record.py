"""What a run's control gives out: orders for the ranks, and rows for the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sentinel.control.outcome import UNATTENDED, Outcome
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, StopOrder

Action = Literal["pause", "resume", "stop", "checkpoint"]
ActionState = Literal["requested", "done", "failed", "refused", "lapsed"]

_ACTION: dict[str, Action] = {"hold": "pause", "stop": "stop", "checkpoint": "checkpoint"}


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


def of_order(
    order: HoldOrder, state: ActionState, step: int, now: float, why: str, incident: str | None
) -> Record:
    """What became of a hold that was ordered, before a rank has told of it."""
    action = _ACTION[order.then]
    return Record(f"{order.asked}/{action}", action, state, step, order.by, now, why, incident)


def of_hold(outcome: Outcome, state: ActionState, now: float) -> Record:
    """What became of a hold, or of the stop or checkpoint that it was for."""
    action = "stop" if outcome.phase == "stopped" else _ACTION.get(outcome.then, "pause")
    why = outcome.refused or outcome.reason
    by = outcome.by if outcome.phase == "stopped" else outcome.asked_by or outcome.by
    return Record(f"{outcome.asked}/{action}", action, state, outcome.step, by, now, why)


def of_pause(outcome: Outcome, now: float) -> Record:
    """The run came to stand, as any later outcome of the same hold shows too."""
    by, name = outcome.asked_by or outcome.by, f"{outcome.asked}/pause"
    return Record(name, "pause", "done", outcome.step, by, now, outcome.reason)


def of_resume(
    outcome: Outcome, state: ActionState, attempt: int, by: str, now: float, why: str
) -> Record:
    """What became of an attempt to resume; number 0 is when nobody answered."""
    name = f"{outcome.asked}/resume/{attempt}"
    return Record(name, "resume", state, outcome.step, by, now, why)


def of_end(outcome: Outcome, now: float) -> list[Record]:
    """Everything that follows from how a hold has ended, also when nothing else was heard of it."""
    if outcome.phase == "released":
        return [of_hold(outcome, "lapsed", now)]
    if outcome.then == "checkpoint":
        return [of_hold(outcome, "failed" if outcome.refused else "done", now)]
    stood = [of_pause(outcome, now)] if outcome.then == "hold" else []
    if outcome.phase == "stopped":
        return [*stood, of_hold(outcome, "done", now)]
    attempt = 0 if outcome.by.startswith(UNATTENDED) else outcome.attempt
    what = describe(outcome.remedies)
    return [*stood, of_resume(outcome, "done", attempt, outcome.by, now, what)]


def describe(remedies: Remedies) -> str:
    """For a person: what is to be done before training goes on."""
    parts = []
    if remedies.checkpoint:
        parts.append("a checkpoint saved")
    if remedies.rollback:
        parts.append(f"rolled back to {remedies.rollback}")
    if remedies.rewind:
        parts.append("data taken up again where the checkpoint left them")
    if remedies.skip_batches:
        parts.append(f"{remedies.skip_batches} batches skipped")
    if remedies.lr_scale != 1.0:
        parts.append(f"learning rate times {remedies.lr_scale:g}")
    return ", ".join(parts) or "no remedy"
