"""The tables of `sentinel.db`, and how they came to be."""

from __future__ import annotations

import uuid

from sqlite_utils import Database as Tables

from sentinel.store import journal
from sentinel.store.database import Row, Schema, rows

FILE_NAME = "sentinel.db"


def _first(tables: Tables) -> None:
    """Runs, ranks, incidents, alerts, actions with their changes, the outbox."""
    _runs_and_ranks(tables)
    _incidents_and_alerts(tables)
    _actions(tables)
    _outbox(tables)
    tables.create_table("meta", {"key": str, "value": str}, pk="key")
    # Part of every event's id, so that two directories never call two messages the same.
    tables.execute("INSERT INTO meta VALUES ('store', ?)", [uuid.uuid4().hex])


def _runs_and_ranks(tables: Tables) -> None:
    tables.create_table(
        "runs",
        {
            "name": str,
            "state": str,
            "step": int,
            "world_size": int,
            "started": float,
            "ended": float,
            "command": str,
            "hold_step": int,
            "hold_by": str,
            "hold_since": float,
        },
        pk="name",
        not_null=["state", "step", "world_size", "started", "command"],
    )
    tables.create_table(
        "ranks",
        {
            "run": str,
            "rank": int,
            "host": str,
            "pid": int,
            "device": str,
            "step": int,
            "phase": str,
            "last_seen": float,
        },
        pk=("run", "rank"),
        foreign_keys=[("run", "runs", "name")],
    )


def _incidents_and_alerts(tables: Tables) -> None:
    incidents = tables.create_table(
        "incidents",
        {
            "id": str,
            "run": str,
            "state": str,
            "severity": str,
            "opened_step": int,
            "rule": str,
            "signal": str,
            "step": int,
            "rank": int,
            "host": str,
            "device": str,
            "module": str,
            "opened_at": float,
            "changed_at": float,
        },
        pk="id",
        foreign_keys=[("run", "runs", "name")],
        not_null=["run", "state", "severity", "opened_step", "rule", "signal", "step"],
    )
    incidents.create_index(["run"])
    # A value that is not finite is kept as its name: SQLite would make NULL of a NaN.
    alerts = tables.create_table(
        "alerts",
        {
            "id": int,
            "incident": str,
            "run": str,
            "rule": str,
            "signal": str,
            "state": str,
            "severity": str,
            "step": int,
            "fired_step": int,
            "labels": str,
            "value": float,
            "score": float,
            "summary": str,
            "advice": str,
            "actions": str,
            "at": float,
        },
        pk="id",
        foreign_keys=[("incident", "incidents", "id"), ("run", "runs", "name")],
        not_null=["incident", "run", "rule", "state", "severity", "step", "labels"],
    )
    alerts.create_index(["incident", "rule", "labels", "step"], unique=True)


def _actions(tables: Tables) -> None:
    actions = tables.create_table(
        "actions",
        {
            "id": int,
            "run": str,
            "incident": str,
            "action": str,
            "state": str,
            "step": int,
            "asked_by": str,
            "reason": str,
            "detail": str,
            "at": float,
        },
        pk="id",
        foreign_keys=[("run", "runs", "name"), ("incident", "incidents", "id")],
        not_null=["run", "action", "state", "step", "asked_by", "at"],
    )
    actions.create_index(["run"])
    actions.create_index(["incident"])
    changes = tables.create_table(
        "action_changes",
        {"id": int, "action": int, "state": str, "step": int, "detail": str, "at": float},
        pk="id",
        foreign_keys=[("action", "actions", "id")],
        not_null=["action", "state", "step", "at"],
    )
    changes.create_index(["action"])


def _outbox(tables: Tables) -> None:
    outbox = tables.create_table(
        "outbox",
        {
            "id": int,
            "event_id": str,
            "receiver": str,
            "kind": str,
            "run": str,
            "incident": str,
            "payload": str,
            "state": str,
            "attempts": int,
            "doubtful": int,
            "created_at": float,
            "claimed_at": float,
            "next_attempt": float,
            "error": str,
            "channel": str,
            "ts": str,
        },
        pk="id",
        foreign_keys=[("run", "runs", "name"), ("incident", "incidents", "id")],
        not_null=["event_id", "receiver", "kind", "run", "incident", "payload", "state"],
    )
    outbox.create_index(["event_id"], unique=True)
    outbox.create_index(["receiver", "state"])
    outbox.create_index(["incident"])


def _coverage(tables: Tables) -> None:
    """What can be seen of each run, as JSON: see `engine.coverage.RunCoverage`."""
    tables.create_table(
        "coverage",
        {"run": str, "report": str},
        pk="run",
        foreign_keys=[("run", "runs", "name")],
        not_null=["report"],
    )


def _culprits(tables: Tables) -> None:
    """Incidents name the parameter, the micro-batch and its batch. `samples` is a JSON array."""
    incidents = tables.table("incidents")
    for name, kind in (("parameter", str), ("micro_batch", int), ("batch", str), ("samples", str)):
        incidents.add_column(name, kind)


def _collectives(tables: Tables) -> None:
    """How far each rank has come in the collectives of its groups, as JSON."""
    tables.execute("ALTER TABLE ranks ADD COLUMN collectives TEXT")


def _journal(tables: Tables) -> None:
    """A chained journal in the place of the changes of actions, which enter it as they stand."""
    tables.create_table(
        "journal",
        {"id": int, "run": str, "number": int, "action": int, "content": str, "hash": str},
        pk="id",
        not_null=["run", "number", "content", "hash"],
    ).create_index(["run", "number"], unique=True)
    before = rows(
        tables.conn,
        "SELECT c.action, c.state, c.step, c.detail, c.at, a.run, a.action AS name, a.asked_by, "
        "a.incident, a.reason FROM action_changes c JOIN actions a ON a.id = c.action "
        "ORDER BY c.id",
    )
    for row in before:
        journal.append(tables.conn, _imported(row))
    tables.execute("DROP TABLE action_changes")
    for event in ("UPDATE", "DELETE"):
        tables.execute(
            f"CREATE TRIGGER journal_no_{event.lower()} BEFORE {event} ON journal "
            "BEGIN SELECT raise(ABORT, 'the journal is only added to'); END"
        )


def _imported(row: Row) -> journal.Entry:
    return journal.Entry(
        run=str(row["run"]),
        action_id=int(row["action"] or 0),
        action=str(row["name"]),
        state=str(row["state"]),
        step=int(row["step"] or 0),
        by=str(row["asked_by"]),
        at=float(row["at"] or 0.0),
        incident=None if row["incident"] is None else str(row["incident"]),
        reason=str(row["reason"] or ""),
        detail=str(row["detail"] or ""),
        imported=True,
    )


def _holds(tables: Tables) -> None:
    """On what terms a run is held, as JSON, and how far people were reminded of it (s)."""
    tables.execute("ALTER TABLE runs ADD COLUMN hold_terms TEXT")
    tables.execute("ALTER TABLE runs ADD COLUMN hold_reminded REAL")


def _checkpoints(tables: Tables) -> None:
    """Checkpoints of runs, and how each stands; `lacking` is a JSON array of ranks."""
    tables.create_table(
        "checkpoints",
        {
            "run": str,
            "folder": str,
            "tag": str,
            "step": int,
            "saved_at": float,
            "seconds": float,
            "state": str,
            "why": str,
            "clean_steps": int,
            "lacking": str,
            "taint": str,
            "abandoned": int,
            "gone": int,
        },
        pk=("run", "folder", "tag"),
        foreign_keys=[("run", "runs", "name")],
        not_null=["seconds", "state", "why", "clean_steps", "lacking", "taint", "gone"],
    )


def _evidence(tables: Tables) -> None:
    """What speaks for the cause of an incident, as a JSON array, and how sure it is.

    See `engine.transition`.
    """
    for name in ("evidence", "certainty"):
        tables.execute(f"ALTER TABLE incidents ADD COLUMN {name} TEXT")


def _due(tables: Tables) -> None:
    """Messages know when they were first due, so that what comes late can say so."""
    outbox = tables.table("outbox")
    outbox.add_column("due_at", float)
    outbox.create_index(["created_at"])


def _presses(tables: Tables) -> None:
    """Presses on buttons: see `store.presses`."""
    columns = ("run", "incident", "button", "pressed_by", "receiver", "channel", "ts", "state")
    tables.create_table(
        "presses",
        {"id": str, **dict.fromkeys(columns, str), "step": int, "at": float, "answer": str},
        pk="id",
        not_null=[*columns, "step", "at", "answer"],
    ).create_index(["state"])


def _quiet(tables: Tables) -> None:
    """Silences; who has acknowledged an incident; which one's first message told of others too.

    The matchers of a silence are a JSON array, see `sentinel.matcher`.
    """
    tables.create_table(
        "silences",
        {
            "id": int,
            "matchers": str,
            "since": float,
            "until": float,
            "made_by": str,
            "comment": str,
            "ended_by": str,
        },
        pk="id",
        not_null=["matchers", "since", "until", "made_by", "comment"],
    ).create_index(["until"])
    tables.execute("ALTER TABLE incidents ADD COLUMN acknowledged_by TEXT")
    tables.execute("ALTER TABLE incidents ADD COLUMN acknowledged_at REAL")
    tables.execute("ALTER TABLE incidents ADD COLUMN told_with TEXT REFERENCES incidents(id)")


def _firings(tables: Tables) -> None:
    """Alerts know when they began to fire, also once they have resolved."""
    tables.execute("ALTER TABLE alerts ADD COLUMN fired_at REAL")


SCHEMA = Schema(
    application_id=0x53656E74,
    migrations=(
        _first,
        _coverage,
        _culprits,
        _collectives,
        _journal,
        _holds,
        _checkpoints,
        _evidence,
        _due,
        _presses,
        _quiet,
        _firings,
    ),
)
