"""An incident that outlives the engine that opened it, as when the daemon is started anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sentinel.engine.transition import (
    AlertChanged,
    Cause,
    Evidence,
    IncidentChanged,
    Severity,
    Transition,
)


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


def closing(incident: OpenIncident, now: float) -> list[Transition]:
    """What resolves an incident of a job that is gone, now that another has its name."""
    return [
        *(replace(alert, state="resolved", at=now) for alert in incident.alerts),
        IncidentChanged(
            incident.run,
            incident.id,
            "resolved",
            incident.severity,
            incident.opened_step,
            incident.cause,
            now,
            incident.evidence,
        ),
    ]


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
