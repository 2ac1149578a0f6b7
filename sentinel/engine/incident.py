"""Incidents: alerts of one run that a person handles as one thing, and which of them came first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2s
from typing import Literal

from sentinel.engine.open_incident import OpenIncident
from sentinel.engine.rule import Key, Unattended
from sentinel.engine.transition import (
    SEVERITIES,
    ActionWanted,
    AlertChanged,
    Asked,
    Cause,
    Evidence,
    IncidentChanged,
    Severity,
    Transition,
)
from sentinel.signals import CATALOG, Stage

MAX_EVIDENCE = 16  # pieces of an incident; the first are kept
QUIET_STEPS = 10  # judged steps without a firing alert before an incident is over

Change = Literal["opened", "updated", "resolved"]
Identity = tuple[str, Key]  # rule, labels


@dataclass(frozen=True)
class Fired:
    """An alert that has just begun to fire, and what it says of the cause.

    `alert.incident` is still empty: the incident is known only when all that fired at this moment
    has been looked at.
    """

    key: Key
    alert: AlertChanged
    cause: Cause
    unattended: Unattended
    hold_for: float


@dataclass(frozen=True)
class _Open:
    """The open incident."""

    id: str
    severity: Severity
    step: int
    cause: Cause
    evidence: tuple[Evidence, ...] = ()


class Incidents:
    """The incidents of one run, of which at most one is open."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._open: _Open | None = None
        self._count = 0
        self._firing: dict[Identity, AlertChanged] = {}
        self._quiet = 0  # judged steps since an alert last fired

    def take(
        self, fired: Sequence[Fired], resolved: Iterable[Identity], now: float
    ) -> list[Transition]:
        """What follows from the alerts that changed at this moment, in the order to be told."""
        transitions: list[Transition] = []
        if fired:
            transitions += self._learn(fired, now)
            assert self._open is not None
        for one in fired:
            alert = replace(one.alert, incident=self._open.id if self._open else "")
            first = all(rule != alert.rule for rule, _ in self._firing)
            self._firing[alert.rule, one.key] = alert
            transitions.append(alert)
            if first:  # what a rule asks for, it asks for once, however many ranks it fires for
                transitions += [_wish(alert, action, one) for action in alert.actions]
        for identity in resolved:
            if alert_before := self._firing.pop(identity, None):
                transitions.append(replace(alert_before, state="resolved", at=now))
        if fired or self._firing:
            self._quiet = 0
        return transitions

    def _learn(self, fired: Sequence[Fired], now: float) -> list[Transition]:
        """Open the incident, or bring what is known of it up to date."""
        cause = min((one.cause for one in fired), key=precedence)
        severity = max((one.alert.severity for one in fired), key=SEVERITIES.index)
        before = self._open
        if before is None:
            step = min(one.alert.fired_step for one in fired)
            self._open = _Open(self._new_id(step, now), severity, step, cause)
            return [self._changed(self._open, "opened", now)]
        self._open = replace(
            before,
            cause=min(before.cause, cause, key=precedence),
            severity=max(before.severity, severity, key=SEVERITIES.index),
        )
        return [] if self._open == before else [self._changed(self._open, "updated", now)]

    def found(self, evidence: Sequence[Evidence], now: float) -> list[Transition]:
        """Something more is known of the open incident, if there is one."""
        before = self._open
        if before is None:
            return []
        new = tuple(one for one in evidence if one not in before.evidence)
        known = (before.evidence + new)[:MAX_EVIDENCE]
        if known == before.evidence:
            return []
        self._open = replace(before, evidence=known)
        return [self._changed(self._open, "updated", now)]

    def step_judged(self, now: float) -> list[Transition]:
        """A step has been judged: after some quiet ones the incident is over."""
        if self._open is None or self._firing:
            return []
        self._quiet += 1
        return self.close(now) if self._quiet >= QUIET_STEPS else []

    def close(self, now: float) -> list[Transition]:
        """End the open incident, unless an alert of it is still firing."""
        if self._open is None or self._firing:
            return []
        over, self._open = self._open, None
        return [self._changed(over, "resolved", now)]

    def adopt(self, incident: OpenIncident, alerts: Iterable[tuple[Key, AlertChanged]]) -> None:
        """Go on with an incident that an earlier daemon opened; `alerts` are those of it."""
        self._open = _Open(
            incident.id,
            incident.severity,
            incident.opened_step,
            incident.cause,
            incident.evidence,
        )
        self._firing = {(alert.rule, key): alert for key, alert in alerts}

    def _new_id(self, step: int, now: float) -> str:
        """Short, unique, and the same whenever the same messages come at the same times."""
        self._count += 1
        seed = f"{self._run}\0{step}\0{now!r}\0{self._count}"
        return blake2s(seed.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()

    def _changed(self, incident: _Open, change: Change, now: float) -> IncidentChanged:
        return IncidentChanged(
            run=self._run,
            id=incident.id,
            change=change,
            severity=incident.severity,
            opened_step=incident.step,
            cause=incident.cause,
            at=now,
            evidence=incident.evidence,
        )


def precedence(cause: Cause) -> tuple[int, int, float]:
    """What can have caused what: the earlier step, in it the earlier stage, then the lower rank.

    Ranks leave or fall silent after the step that they did last. Of several it is not the lower
    one that counts but the first to do so: what is equal here is in the order in which it came.
    """
    signal = CATALOG.get(cause.signal)  # of an adopted incident, it may be one no longer known
    stage = signal.stage if signal else Stage.AROUND
    if signal is not None and signal.made_by == "engine":
        return (cause.step + 1, stage.value, math.inf)
    return (cause.step, stage.value, math.inf if cause.rank is None else cause.rank)


def _wish(alert: AlertChanged, action: Asked, fired: Fired) -> ActionWanted:
    return ActionWanted(
        run=alert.run,
        incident=alert.incident,
        action=action,
        rule=alert.rule,
        step=alert.fired_step,
        reason=alert.summary,
        unattended=fired.unattended,
        at=alert.at,
        labels=alert.labels,
        hold_for=fired.hold_for,
    )
