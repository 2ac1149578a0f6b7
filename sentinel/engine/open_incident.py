"""An incident that outlives the engine that opened it, as when the daemon is started anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sentinel.engine.transition import (
    AlertChanged,
    Cause,
    Evidence,
    IncidentChanged,
    Severity,
    Transition,
)

MAX_EVIDENCE = 16  # pieces of an incident; the first are kept
RETURN = 3600.0  # s after a job that did not end well within which another continues its incident


@dataclass(frozen=True)
class OpenIncident:
    """An incident that is not resolved, as the next engine needs it to go on with it.

    `alerts` are those that still fire.
    """

    id: str
    run: str
    severity: Severity
    opened_step: int
    cause: Cause
    opened_at: float
    alerts: tuple[AlertChanged, ...]
    evidence: tuple[Evidence, ...] = ()
    certainty: str = ""


def closing(incident: OpenIncident, now: float) -> list[Transition]:
    """What resolves an incident of a job that is gone, now that another has its name."""
    return [
        *(replace(alert, state="resolved", at=now) for alert in incident.alerts),
        _changed(incident, "resolved", now),
    ]


def continuing(
    incident: OpenIncident, history: Evidence, now: float
) -> tuple[list[Transition], OpenIncident]:
    """What is to be told when another job goes on with an incident, and what it gets.

    The alerts of the first are over.
    """
    kept = replace(incident, alerts=(), evidence=(*incident.evidence, history)[:MAX_EVIDENCE])
    over = [replace(alert, state="resolved", at=now) for alert in incident.alerts]
    return [*over, _changed(kept, "updated", now)], kept


def _changed(
    incident: OpenIncident, change: Literal["updated", "resolved"], now: float
) -> IncidentChanged:
    return IncidentChanged(
        incident.run,
        incident.id,
        change,
        incident.severity,
        incident.opened_step,
        incident.cause,
        now,
        incident.evidence,
        incident.certainty,
    )


class Pending:
    """Which incident of one run is open by what has been told of it."""

    def __init__(self) -> None:
        self._open: IncidentChanged | None = None
        self._since = 0.0
        self._firing: dict[tuple[str, tuple[tuple[str, str], ...]], AlertChanged] = {}

    @property
    def incident(self) -> OpenIncident | None:
        """The open one."""
        one = self._open
        if one is None:
            return None
        firing = tuple(self._firing.values())
        return OpenIncident(
            one.id,
            one.run,
            one.severity,
            one.opened_step,
            one.cause,
            self._since,
            firing,
            one.evidence,
            one.certainty,
        )

    def note(self, transitions: Iterable[Transition]) -> None:
        """Something has changed."""
        for change in transitions:
            if isinstance(change, IncidentChanged):
                self._since = change.at if change.change == "opened" else self._since
                self._open = None if change.change == "resolved" else change
            elif isinstance(change, AlertChanged):
                identity = (change.rule, tuple(change.labels.items()))
                self._firing.pop(identity, None)
                if change.state == "firing":
                    self._firing[identity] = change
