"""Transitions as rows. All functions write within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import msgspec

from sentinel.engine.transition import (
    SEVERITIES,
    ActionWanted,
    AlertChanged,
    IncidentChanged,
    Severity,
    Transition,
)
from sentinel.store import attention, evidence, journal
from sentinel.store.attention import Acknowledgment, Telling
from sentinel.store.database import rows
from sentinel.store.journal import NO_RUN, Detail, Entry
from sentinel.store.notices import (
    Message,
    message_for_action,
    message_for_incident,
    message_for_reminder,
    message_for_standing,
)
from sentinel.store.reading import action as action_of
from sentinel.store.reading import alerts_json, text
from sentinel.store.saving import know_run, note_reminder, save_hold
from sentinel.store.shapes import ActionState, HoldRow, number_json

UNRECORDED = (
    "Sentinel could not write its record then, and acts on nothing that is not on the record"
)


@dataclass(frozen=True)
class NewAction:
    """An action to be put on the record; `order` says what it asks for in particular.

    `hold`: how the run is held now, if it is.
    """

    run: str
    action: str
    state: ActionState
    step: int
    by: str
    at: float
    incident: str | None = None
    reason: str = ""
    detail: str = ""
    order: Detail = field(default_factory=dict)
    evidence: Detail = field(default_factory=dict)
    hold: HoldRow | None = None


@dataclass(frozen=True)
class ActionChange:
    """What became of an action. `step` None: as before. `hold`: how the run is held now."""

    action_id: int
    state: ActionState
    step: int | None
    detail: str
    at: float
    hold: HoldRow | None = None


@dataclass(frozen=True)
class Refusal:
    """Something that was refused before it could become an action, such as for want of rights.

    `by` is who it was as far as is known, `asked` what was asked for; `run` is the one that was
    named, known or not, or nothing.
    """

    at: float
    by: str
    asked: str
    why: str
    run: str = ""


@dataclass(frozen=True)
class Reminder:
    """A run is still held, `offset` seconds after the hold began. `ending`: not for long."""

    run: str
    offset: float
    at: float
    ending: bool = False


Change = Transition | NewAction | ActionChange | Refusal | Reminder | Acknowledgment | Telling
_Cause = IncidentChanged | ActionChange | Reminder | Acknowledgment | Telling


@dataclass(frozen=True)
class Written:
    """What a transaction has put in: the actions asked for, in order, and the messages caused."""

    actions: list[int]
    messages: list[Message]


def write(
    connection: sqlite3.Connection,
    changes: Sequence[Change],
    *,
    acts: bool = True,
) -> Written:
    """Write changes in their order; `acts` False: what rules ask for now is refused.

    The messages are made when all is written, so that each shows the whole of its incident.
    """
    actions: list[int] = []
    causes: list[_Cause] = []
    escalated: set[str] = set()
    for change in changes:
        if isinstance(change, AlertChanged):
            _write_alert(connection, change)
        elif isinstance(change, IncidentChanged):
            if _write_incident(connection, change):
                escalated.add(change.id)
                attention.escalated(connection, change.id)
            if not change.silent:
                causes.append(change)
        elif isinstance(change, ActionWanted):
            _know_incident(connection, change)
            wanted = _wanted(change, evidence.of_rule(connection, change), acts)
            actions.append(_insert_action(connection, wanted))
        elif isinstance(change, NewAction):
            actions.append(_insert_action(connection, change))
            causes.append(ActionChange(actions[-1], change.state, None, "", change.at))
        elif isinstance(change, ActionChange):
            _change_action(connection, change)
            causes.append(change)
        elif isinstance(change, Refusal):
            _write_refusal(connection, change)
        elif isinstance(change, Acknowledgment):
            if attention.acknowledge(connection, change):
                causes.append(change)
        elif isinstance(change, Telling):
            attention.join(connection, change)
            causes.append(change)
        elif note_reminder(connection, change.run, change.offset):
            causes.append(change)
    messages = [_message(connection, cause, escalated) for cause in _worth_telling(causes)]
    told = [_with_alerts(connection, message) for message in messages if message is not None]
    return Written(actions, told)


def _with_alerts(connection: sqlite3.Connection, message: Message) -> Message:
    return replace(message, alerts=alerts_json(connection, message.incident))


def _message(connection: sqlite3.Connection, cause: _Cause, escalated: set[str]) -> Message | None:
    if isinstance(cause, ActionChange):
        return message_for_action(connection, cause.action_id, cause.at)
    if isinstance(cause, Reminder):
        return message_for_reminder(
            connection, cause.run, cause.offset, cause.at, ending=cause.ending
        )
    if isinstance(cause, Acknowledgment):
        return message_for_standing(connection, cause.incident, "acknowledged", cause.at)
    if isinstance(cause, Telling):
        return message_for_standing(connection, cause.incident, cause.kind, cause.at, cause.to)
    return message_for_incident(connection, cause, escalated=cause.id in escalated)


def _worth_telling(causes: Iterable[_Cause]) -> list[_Cause]:
    """Without what the opening of the same incident in the same transaction tells as well."""
    told: set[tuple[str, str]] = set()
    kept: list[_Cause] = []
    for cause in causes:
        if isinstance(cause, IncidentChanged):
            if cause.change == "updated" and told & {(cause.id, "opened"), (cause.id, "updated")}:
                continue
            told.add((cause.id, cause.change))
        kept.append(cause)
    return kept


def _write_incident(connection: sqlite3.Connection, change: IncidentChanged) -> bool:
    """Insert or update; True when it has become more severe than it was known to be."""
    know_run(connection, change.run, change.at)
    before = rows(connection, "SELECT severity FROM incidents WHERE id = ?", (change.id,))
    cause = change.cause
    connection.execute(
        """
        INSERT INTO incidents (id, run, state, severity, opened_step, rule, signal, step, rank,
                               host, device, module, parameter, micro_batch, batch, samples,
                               evidence, certainty, opened_at, changed_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET
            state = excluded.state, severity = excluded.severity,
            opened_step = excluded.opened_step, rule = excluded.rule,
            signal = excluded.signal, step = excluded.step, rank = excluded.rank,
            host = excluded.host, device = excluded.device, module = excluded.module,
            parameter = excluded.parameter, micro_batch = excluded.micro_batch,
            batch = excluded.batch, samples = excluded.samples, evidence = excluded.evidence,
            certainty = excluded.certainty, changed_at = excluded.changed_at
        """,
        (
            change.id,
            change.run,
            "resolved" if change.change == "resolved" else "open",
            change.severity,
            change.opened_step,
            cause.rule,
            cause.signal,
            cause.step,
            cause.rank,
            cause.host,
            cause.device,
            cause.module,
            cause.parameter,
            cause.micro_batch,
            cause.batch,
            msgspec.json.encode(cause.samples).decode(),
            msgspec.json.encode(change.evidence).decode(),
            change.certainty,
            change.at,
            change.at,
        ),
    )
    return bool(before) and _level(change.severity) > _level(text(before[0]["severity"]))


def _level(severity: str) -> int:
    return {name: level for level, name in enumerate(SEVERITIES)}.get(cast(Severity, severity), -1)


def _write_alert(connection: sqlite3.Connection, change: AlertChanged) -> None:
    """A firing is one row: the same rule and labels firing anew at a later step is another."""
    _know_incident(connection, change)
    connection.execute(
        """
        INSERT INTO alerts (incident, run, rule, signal, state, severity, step, fired_step, labels,
                            value, score, summary, advice, actions, at, fired_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (incident, rule, labels, step) DO UPDATE SET
            state = excluded.state, severity = excluded.severity, at = excluded.at
        """,
        (
            change.incident,
            change.run,
            change.rule,
            change.signal,
            change.state,
            change.severity,
            change.step,
            change.fired_step,
            msgspec.json.encode(dict(sorted(change.labels.items()))).decode(),
            number_json(change.value),
            number_json(change.score),
            change.summary,
            change.advice,
            msgspec.json.encode(change.actions).decode(),
            change.at,
            change.at,
        ),
    )


def _wanted(change: ActionWanted, found: Detail, acts: bool) -> NewAction:
    return NewAction(
        run=change.run,
        action=change.action,
        state="requested" if acts else "refused",
        step=change.step,
        by=f"rule:{change.rule}",
        at=change.at,
        incident=change.incident,
        reason=change.reason,
        detail="" if acts else UNRECORDED,
        order={"unattended": change.unattended, "hold_for": change.hold_for},
        evidence=found,
    )


def _insert_action(connection: sqlite3.Connection, new: NewAction) -> int:
    """Put an action on the record; returns its id."""
    know_run(connection, new.run, new.at)
    cursor = connection.execute(
        """
        INSERT INTO actions (run, incident, action, state, step, asked_by, reason, detail, at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        (
            new.run,
            new.incident,
            new.action,
            new.state,
            new.step,
            new.by,
            new.reason,
            new.detail,
            new.at,
        ),
    )
    action_id = cursor.lastrowid or 0
    found = new.evidence or ({"incident": new.incident} if new.incident else {})
    _chain(connection, action_id, new.order, found)
    if new.hold is not None:
        save_hold(connection, action_id, new.hold)
    return action_id


def _change_action(connection: sqlite3.Connection, change: ActionChange) -> None:
    connection.execute(
        "UPDATE actions SET state = ?, step = coalesce(?, step), detail = ?, at = ? WHERE id = ?",
        (change.state, change.step, change.detail, change.at, change.action_id),
    )
    _chain(connection, change.action_id)
    if change.hold is not None:
        save_hold(connection, change.action_id, change.hold)


_NOTHING: Detail = {}


def _chain(
    connection: sqlite3.Connection,
    action_id: int,
    order: Detail = _NOTHING,
    found: Detail = _NOTHING,
) -> None:
    """Put an action, as it stands now, at the end of its run's chain."""
    for row in rows(connection, "SELECT * FROM actions WHERE id = ?", (action_id,)):
        stands = action_of(row)
        entry = Entry(
            run=stands.run,
            action_id=action_id,
            action=stands.action,
            state=stands.state,
            step=stands.step,
            by=stands.by,
            at=stands.at,
            incident=stands.incident,
            reason=stands.reason,
            detail=stands.detail,
            order=order,
            evidence=found,
        )
        journal.append(connection, entry)


def _write_refusal(connection: sqlite3.Connection, refusal: Refusal) -> None:
    """In the chain of its run if there is such a run, else in the one of no run."""
    known = rows(connection, "SELECT 1 FROM runs WHERE name = ?", (refusal.run,))
    named: Detail = {"run": refusal.run} if refusal.run and not known else {}
    entry = Entry(
        run=refusal.run if known else NO_RUN,
        action_id=None,
        action=refusal.asked,
        state="refused",
        step=0,
        by=refusal.by,
        at=refusal.at,
        detail=refusal.why,
        order=named,
    )
    journal.append(connection, entry)


def _know_incident(connection: sqlite3.Connection, change: AlertChanged | ActionWanted) -> None:
    """What belongs to an incident has one to belong to, also when its opening was never written."""
    know_run(connection, change.run, change.at)
    severity, signal = (
        (change.severity, change.signal) if isinstance(change, AlertChanged) else ("critical", "")
    )
    connection.execute(
        """
        INSERT INTO incidents (id, run, state, severity, opened_step, rule, signal, step,
                               opened_at, changed_at)
        VALUES (?, ?, 'open', ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
        """,
        (
            change.incident,
            change.run,
            severity,
            change.step,
            change.rule,
            signal,
            change.step,
            change.at,
            change.at,
        ),
    )
