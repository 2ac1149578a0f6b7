"""An incident in a sentence, for receivers that show little more."""

from __future__ import annotations

from sentinel.notify.message import plain
from sentinel.notify.notice import Action, Notice

_PROSE = 500  # characters of a summary or an advice


def onset(notice: Notice) -> float:
    """When the incident began, in seconds since 1970; where that is not known, now."""
    return notice.opened_at or notice.at


def summary(notice: Notice) -> str:
    """What is wrong, in the words of its rule."""
    return plain(notice.summary, _PROSE) or f"{plain(notice.incident.cause.rule)} is firing"


def advice(notice: Notice) -> str:
    """What its rule advises."""
    return plain(notice.advice, _PROSE)


def where(notice: Notice) -> str:
    """The run and the step, and what else is known of the place."""
    cause = notice.incident.cause
    known = {
        "rank": None if cause.rank is None else str(cause.rank),
        "host": cause.host,
        "device": cause.device,
        "module": cause.module,
        "parameter": cause.parameter,
    }
    parts = [f"run {plain(notice.incident.run)}, step {cause.step}"]
    parts += [f"{name} {plain(value)}" for name, value in known.items() if value]
    return ", ".join(parts)


def done(notice: Notice) -> str:
    """What was done to the run last, and by whom; nothing if nothing was."""
    latest = notice.about or next(reversed(notice.actions), None)
    return "" if latest is None else _action(latest)


def _action(action: Action) -> str:
    detail = f": {plain(action.detail)}" if action.detail else ""
    who = f", by {plain(action.by)}" if action.by else ""
    return f"{plain(action.action)} {plain(action.state)} at step {action.step}{who}{detail}"
