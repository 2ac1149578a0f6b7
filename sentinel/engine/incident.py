"""Incidents: alerts of one run that a person handles as one thing, and which of them came first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2s
from typing import Literal

from sentinel.engine import history
from sentinel.engine.certainty import NO_MAJORITY, with_others
from sentinel.engine.hardware import WITHIN, HardwareLog
from sentinel.engine.open_incident import MAX_EVIDENCE, OpenIncident
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

QUIET_STEPS = 10  # judged steps without a firing alert before an incident is over

Change = Literal["opened", "updated", "resolved"]
Identity = tuple[str, Key]  # rule, labels


@dataclass(frozen=True)
class Fired:
    """An alert that has just begun to fire, and what it says of the cause.

    `alert.incident` is still empty: the incident is known only when all that fired at this moment
    has been looked at. `since` is when the condition came to hold (s). `certainty` and `evidence`
    are of the cause. `of_agreement`: the rule asks who does not say what most say, so that where
    it is true of most nobody is to blame.
    """

    key: Key
    alert: AlertChanged
    cause: Cause
    unattended: Unattended
    hold_for: float
    since: float = 0.0
    certainty: str = ""
    evidence: tuple[Evidence, ...] = ()
    of_agreement: bool = False


@dataclass(frozen=True)
class _Open:
    """The open incident; `onset` is when its cause came to hold (s)."""

    id: str
    severity: Severity
    step: int
    cause: Cause
    onset: float
    certainty: str = ""
    evidence: tuple[Evidence, ...] = ()

    def known(self, evidence: Iterable[Evidence]) -> _Open:
        """The same with more evidence, as much as there is room for."""
        more = dict.fromkeys((*self.evidence, *evidence))
        return replace(self, evidence=tuple(more)[:MAX_EVIDENCE])


class Incidents:
    """The incidents of one run, of which at most one is open."""

    def __init__(self, run: str, hardware: HardwareLog) -> None:
        self._run = run
        self._hardware = hardware
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
        """Open the incident, or bring what is known of it up to date.

        More of the same is no news: what is told is another cause, or that it has become worse.
        """
        first = _first(fired)
        severity = max((one.alert.severity for one in fired), key=SEVERITIES.index)
        before = self._open
        if before is None:
            step = min(one.alert.fired_step for one in fired)
            opened = _Open(self._new_id(step, now), severity, step, first.cause, first.since)
            self._open = self._inquire(self._caused(opened, first, fired))
            return [self._changed(self._open, "opened", now)]
        self._open = replace(before, severity=max(before.severity, severity, key=SEVERITIES.index))
        if precedence(first.cause) < precedence(before.cause):
            self._open = self._inquire(self._caused(self._open, first, fired))
        return [] if self._open == before else [self._changed(self._open, "updated", now)]

    def _caused(self, incident: _Open, first: Fired, fired: Sequence[Fired]) -> _Open:
        """The incident, with what fired first for its cause."""
        cause, said = first.cause, first.certainty
        alike = [one for one in fired if one.cause.rule == cause.rule]
        if first.of_agreement and not first.evidence and len(alike) > 1:
            cause = replace(cause, rank=None, host=None, device=None)
            said = NO_MAJORITY
        alerts = [*self._firing.values(), *(one.alert for one in fired)]
        others = sum((one.rule, one.step) == (cause.rule, cause.step) for one in alerts) - 1
        said = with_others(said, others)
        incident = replace(incident, cause=cause, onset=first.since, certainty=said)
        return incident.known(first.evidence)

    def _inquire(self, incident: _Open) -> _Open:
        """The incident, with what the GPUs have to do with it: one alone may be to blame."""
        cause = incident.cause
        culprit = self._hardware.culprit(incident.onset) if cause.rank is None else None
        if culprit is not None:
            state = culprit.state
            cause = replace(cause, rank=state.rank, host=state.host, device=state.device)
            said = f"inferred: the GPU of this rank alone failed within {WITHIN:.0f} s of it"
            incident = replace(incident, cause=cause, certainty=said)
        found = self._hardware.evidence(incident.onset, cause.rank, cause.signal)
        return incident.known(found)

    def hardware_told(self, now: float) -> list[Transition]:
        """Something has befallen a GPU, perhaps within a minute of the open incident's onset."""
        before = self._open
        if before is None or now > before.onset + WITHIN:
            return []
        self._open = self._inquire(before)
        return [] if self._open == before else [self._changed(self._open, "updated", now)]

    def found(
        self, evidence: Sequence[Evidence], now: float, *, silent: bool = False
    ) -> list[Transition]:
        """Something more is known of the open incident, if there is one.

        `silent`: people are told of it by what caused it.
        """
        before = self._open
        if before is None:
            return []
        self._open = before.known(evidence)
        changed = self._changed(self._open, "updated", now)
        return [] if self._open == before else [replace(changed, silent=silent)]

    def restarted(self, step: int, front: int, now: float) -> list[Transition]:
        """The processes of the run are new; what was open is gone on with."""
        self._quiet = 0
        return self.found([history.restarted(step, front)], now)

    def went_back(self, step: int, front: int, now: float) -> list[Transition]:
        """The same processes are back after an earlier step, as whoever ordered it knows."""
        return self.found([history.went_back(step, front)], now, silent=True)

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
            incident.opened_at,
            incident.certainty,
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
            certainty=incident.certainty,
        )


def precedence(cause: Cause) -> tuple[int, int, bool]:
    """What can have caused what: the earlier step, and in it the earlier stage.

    Of what is equal in this the first that is heard of stays the cause, whichever rank it is, but
    one that names a rank comes before one that does not. Ranks leave or fall silent after the
    step that they did last.
    """
    signal = CATALOG.get(cause.signal)  # of an adopted incident, it may be one no longer known
    stage = signal.stage if signal else Stage.AROUND
    if signal is not None and signal.made_by == "engine":
        return (cause.step + 1, stage.value, True)
    return (cause.step, stage.value, cause.rank is None)


def _first(fired: Sequence[Fired]) -> Fired:
    """Of what fired at one moment, the cause: of equal ones that of the lowest rank.

    But for what the engine finds itself, which is in the order in which it found it.
    """

    def order(one: Fired) -> tuple[tuple[int, int, bool], float]:
        signal = CATALOG.get(one.cause.signal)
        found = signal is not None and signal.made_by == "engine"
        rank = math.inf if found or one.cause.rank is None else one.cause.rank
        return precedence(one.cause), rank

    return min(fired, key=order)


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
