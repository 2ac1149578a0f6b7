"""Who looks after an incident, and what else people are told of how it stands.

All functions work in the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal, TypedDict

from sentinel.store import journal
from sentinel.store.database import rows
from sentinel.store.journal import Entry
from sentinel.store.reading import text, whole


@dataclass(frozen=True)
class Acknowledgment:
    """Somebody looks after an incident: it is not repeated until it becomes more severe."""

    incident: str
    by: str
    at: float


@dataclass(frozen=True)
class Telling:
    """How an incident stands is to be told to the receivers in `to`, once more or late.

    `others` have opened together with it: its message tells of them too, and their later ones
    belong to its thread.
    """

    incident: str
    kind: Literal["opened", "updated", "resolved", "repeated"]
    to: tuple[str, ...]
    at: float
    others: tuple[str, ...] = ()


class OtherNote(TypedDict):
    """Another incident that the first message of one tells of too, as it stands."""

    id: str
    run: str
    state: str
    severity: str
    rule: str
    step: int
    rank: int | None
    host: str | None


def acknowledge(connection: sqlite3.Connection, change: Acknowledgment) -> bool:
    """Note who has acknowledged an open incident; False where somebody has, or it is over."""
    taken = connection.execute(
        "UPDATE incidents SET acknowledged_by = ?, acknowledged_at = ? "
        "WHERE id = ? AND state = 'open' AND acknowledged_by IS NULL",
        (change.by, change.at, change.incident),
    )
    if not taken.rowcount:
        return False
    (row,) = rows(connection, "SELECT run, step FROM incidents WHERE id = ?", (change.incident,))
    entry = Entry(
        run=text(row["run"]),
        action_id=None,
        action="acknowledge",
        state="done",
        step=whole(row["step"]),
        by=change.by,
        at=change.at,
        incident=change.incident,
    )
    journal.append(connection, entry)
    return True


def escalated(connection: sqlite3.Connection, incident: str) -> None:
    """It is more severe than what was acknowledged."""
    connection.execute(
        "UPDATE incidents SET acknowledged_by = NULL, acknowledged_at = NULL WHERE id = ?",
        (incident,),
    )


def join(connection: sqlite3.Connection, change: Telling) -> None:
    """The others are told of in the first message of this incident."""
    connection.executemany(
        "UPDATE incidents SET told_with = ? WHERE id = ? AND told_with IS NULL AND id != ?",
        [(change.incident, other, change.incident) for other in change.others],
    )


def leader(connection: sqlite3.Connection, incident: str) -> str | None:
    """The incident whose first message has told of this one, if it was not its own."""
    found = rows(connection, "SELECT told_with FROM incidents WHERE id = ?", (incident,))
    return text(found[0]["told_with"]) or None if found else None


def others(connection: sqlite3.Connection, incident: str) -> list[OtherNote]:
    """Those that the first message of this incident tells of too."""
    found = rows(
        connection, "SELECT * FROM incidents WHERE told_with = ? ORDER BY rowid", (incident,)
    )
    return [
        {
            "id": text(row["id"]),
            "run": text(row["run"]),
            "state": text(row["state"]),
            "severity": text(row["severity"]),
            "rule": text(row["rule"]),
            "step": whole(row["step"]),
            "rank": None if row["rank"] is None else whole(row["rank"]),
            "host": None if row["host"] is None else text(row["host"]),
        }
        for row in found
    ]
