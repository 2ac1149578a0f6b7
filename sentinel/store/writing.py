"""Transitions as rows. All functions write within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from sentinel.engine.coverage import RunCoverage
from sentinel.engine.transition import (
    SEVERITIES,
    ActionWanted,
    AlertChanged,
    IncidentChanged,
    Severity,
    Transition,
)
from sentinel.store.database import rows
from sentinel.store.notices import Message, message_for_action, message_for_incident
from sentinel.store.reading import text
from sentinel.store.shapes import ActionState, RankRow, RunRow, number_json

UNRECORDED = (
    "Sentinel could not write its record then, and acts on nothing that is not on the record"
)


@dataclass(frozen=True)
class NewAction:
    """An action to be put on the record."""

    run: str
    action: str
    state: ActionState
    step: int
    by: str
    at: float
    incident: str | None = None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class ActionChange:
    """What became of an action. `step` None: as before."""

    action_id: int
    state: ActionState
    step: int | None
    detail: str
    at: float


Change = Transition | NewAction | ActionChange


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
    causes: list[IncidentChanged | ActionChange] = []
    escalated: set[str] = set()
    for change in changes:
        if isinstance(change, AlertChanged):
            _write_alert(connection, change)
        elif isinstance(change, IncidentChanged):
            if _write_incident(connection, change):
                escalated.add(change.id)
            causes.append(change)
        elif isinstance(change, ActionWanted):
            _know_incident(connection, change)
            actions.append(_insert_action(connection, _wanted(change, acts)))
        elif isinstance(change, NewAction):
            actions.append(_insert_action(connection, change))
            causes.append(ActionChange(actions[-1], change.state, None, "", change.at))
        else:
            _change_action(connection, change)
            causes.append(change)
    messages = [
        message_for_action(connection, cause.action_id, cause.at)
        if isinstance(cause, ActionChange)
        else message_for_incident(connection, cause, escalated=cause.id in escalated)
        for cause in _worth_telling(causes)
    ]
    return Written(actions, [message for message in messages if message is not None])


def _worth_telling(
    causes: Iterable[IncidentChanged | ActionChange],
) -> list[IncidentChanged | ActionChange]:
    """Without what the opening of the same incident in the same transaction tells as well."""
    told: set[tuple[str, str]] = set()
    kept: list[IncidentChanged | ActionChange] = []
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
                               opened_at, changed_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET
            state = excluded.state, severity = excluded.severity,
            opened_step = excluded.opened_step, rule = excluded.rule,
            signal = excluded.signal, step = excluded.step, rank = excluded.rank,
            host = excluded.host, device = excluded.device, module = excluded.module,
            parameter = excluded.parameter, micro_batch = excluded.micro_batch,
            batch = excluded.batch, samples = excluded.samples,
            changed_at = excluded.changed_at
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
                            value, score, summary, advice, actions, at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
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
        ),
    )


def _wanted(change: ActionWanted, acts: bool) -> NewAction:
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
    _log_change(connection, ActionChange(action_id, new.state, new.step, new.detail, new.at))
    return action_id


def _change_action(connection: sqlite3.Connection, change: ActionChange) -> None:
    connection.execute(
        "UPDATE actions SET state = ?, step = coalesce(?, step), detail = ?, at = ? WHERE id = ?",
        (change.state, change.step, change.detail, change.at, change.action_id),
    )
    _log_change(connection, change)


def _log_change(connection: sqlite3.Connection, change: ActionChange) -> None:
    connection.execute(
        """
        INSERT INTO action_changes (action, state, step, detail, at)
        SELECT id, ?, step, ?, ? FROM actions WHERE id = ?
        """,
        (change.state, change.detail, change.at, change.action_id),
    )


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


def know_run(connection: sqlite3.Connection, name: str, at: float) -> None:
    """A run that something is written about has a row, also when nobody has described it yet."""
    connection.execute(
        """
        INSERT INTO runs (name, state, step, world_size, started, command)
        VALUES (?, 'running', 0, 1, ?, '') ON CONFLICT (name) DO NOTHING
        """,
        (name, at),
    )


def save_coverage(connection: sqlite3.Connection, report: RunCoverage) -> None:
    """What can be seen of a run that has a row."""
    connection.execute(
        """
        INSERT INTO coverage (run, report) VALUES (?, ?)
        ON CONFLICT (run) DO UPDATE SET report = excluded.report
        """,
        (report.run, msgspec.json.encode(report).decode()),
    )


def _rank_values(run: str, rank: RankRow) -> tuple[str | int | float, ...]:
    return (
        run,
        rank.rank,
        rank.host,
        rank.pid,
        rank.device,
        rank.step,
        rank.phase,
        rank.last_seen,
        msgspec.json.encode(rank.collectives).decode(),
    )


def save_run(connection: sqlite3.Connection, row: RunRow, ranks: Iterable[RankRow]) -> None:
    """Insert or update a run and these of its ranks."""
    hold = row.hold
    connection.execute(
        """
        INSERT INTO runs (name, state, step, world_size, started, ended, command,
                          hold_step, hold_by, hold_since)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (name) DO UPDATE SET
            state = excluded.state, step = excluded.step, world_size = excluded.world_size,
            started = excluded.started, ended = excluded.ended, command = excluded.command,
            hold_step = excluded.hold_step, hold_by = excluded.hold_by,
            hold_since = excluded.hold_since
        """,
        (
            row.name,
            row.state,
            row.step,
            row.world_size,
            row.started,
            row.ended,
            row.command,
            *((hold.step, hold.by, hold.since) if hold else (None, None, None)),
        ),
    )
    connection.executemany(
        """
        INSERT INTO ranks (run, rank, host, pid, device, step, phase, last_seen,
                           collectives)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (run, rank) DO UPDATE SET
            host = excluded.host, pid = excluded.pid, device = excluded.device,
            step = excluded.step, phase = excluded.phase, last_seen = excluded.last_seen,
            collectives = excluded.collectives
        """,
        [_rank_values(row.name, rank) for rank in ranks],
    )
    # A run that was started again with fewer ranks has no others.
    connection.execute("DELETE FROM ranks WHERE run = ? AND rank >= ?", (row.name, row.world_size))
