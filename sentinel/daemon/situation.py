"""How a run stands at this moment, as far as it decides what a person can be offered to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sentinel.daemon.run import Run
from sentinel.engine.checkpoint import Checkpoint
from sentinel.notify.buttons import Situation
from sentinel.notify.notice import LastGood, Notice
from sentinel.store.shapes import ActionRow


def stands(run: Run) -> str:
    """The job and the hold that it stands in; the same for as long as nothing was decided."""
    control = run.orders.control
    hold = control.latest.asked if control.state == "held" and control.latest else 0
    return f"{run.started:.3f}/{hold}"


def step_of(run: Run) -> int:
    """The step after which it is held, or the last one that any rank has done."""
    hold = run.orders.control.hold
    return hold.step if hold else run.position().step


def situation(run: Run | None, notice: Notice, done: Iterable[str]) -> Situation:
    """For the buttons under a message; `done`: kinds that need no second press."""
    incident, is_open = notice.incident, notice.incident.state == "open"
    state: Literal["running", "held", "other"] = "other"
    if run is None or not run.active:
        return Situation(
            incident.id, incident.run, incident.cause.rule, open=is_open, done=frozenset(done)
        )
    control = run.orders.control
    if control.state == "held" and (is_open or run.incident is None):
        state = "held"
    elif control.state == "running" and is_open:
        state = "running"
    torn = control.latest is not None and control.latest.torn
    return Situation(
        incident.id,
        incident.run,
        incident.cause.rule,
        stands(run),
        state,
        control.offers,
        doubtful=torn or any(control.weights.values()),
        last_good=_last_good(run, run.engine.checkpoints.last_good),
        open=is_open,
        done=frozenset(done),
    )


def _last_good(run: Run, good: Checkpoint | None) -> LastGood | None:
    if good is None or good.step is None:
        return None
    return LastGood(good.tag, good.step, max(0, run.position().step - good.step))


def overtaken(run: Run, offered: str, actions: Iterable[ActionRow]) -> str:
    """Why a button is not for how the run stands now, or nothing where it is.

    `actions`: what is on the record of the run, oldest first.
    """
    state = run.orders.control.state
    if offered == stands(run) and state in ("running", "held"):
        return ""
    job, _, hold = offered.partition("/")
    if job != stands(run).partition("/")[0]:
        return f"run {run.name} was started anew since: this button was for an earlier job"
    ways = ("resume", "stop") if hold != "0" else ("pause", "resume", "stop")
    said = ("requested", "done")
    found = [one for one in actions if one.action in ways and one.state in said]
    if not found:
        return f"run {run.name} is {state}: it stands otherwise than when this was offered"
    last = found[-1]
    what = {"pause": "held", "resume": "resumed", "stop": "stopped"}[last.action]
    if last.state == "requested":
        return f"{last.by} has already asked for run {run.name} to be {what}"
    return f"run {run.name} was already {what} by {last.by}"
