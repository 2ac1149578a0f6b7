"""Rows of the outbox as they are on the disk, and only those that are needed.

After a night without a receiver thousands wait: who looks for one must not hold up who writes.
All functions raise `StateError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sentinel.store import outbox_row
from sentinel.store.database import Database, SqlValue
from sentinel.store.outbox_row import OutboxRow, State
from sentinel.store.reading import real, whole

LIMIT = 10_000  # rows, the oldest
_AT_ONCE = 16  # first rows: if somebody else takes one, there is another
_FIRST = """
    FROM outbox WHERE state = 'pending' AND id IN (
        SELECT min(id) FROM outbox
        WHERE receiver = ? AND state IN ('pending', 'sending') GROUP BY incident
    )
"""


def rows(
    database: Database,
    states: Sequence[State],
    *,
    receiver: str | None = None,
    incident: str | None = None,
    created_before: float = math.inf,
) -> list[OutboxRow]:
    """Rows in these states, in their order."""
    sql = f"SELECT * FROM outbox WHERE state IN ({', '.join('?' * len(states))})"
    parameters: list[SqlValue] = [*states]
    for column, value in (("receiver", receiver), ("incident", incident)):
        if value is not None:
            sql += f" AND {column} = ?"
            parameters.append(value)
    if created_before < math.inf:
        sql += " AND created_at < ?"
        parameters.append(created_before)
    found = database.rows(f"{sql} ORDER BY id LIMIT {LIMIT}", parameters)
    return [outbox_row.load(row) for row in found]


def due(database: Database, receiver: str, now: float) -> list[OutboxRow]:
    """First unfinished rows of incidents that are due, the oldest few."""
    found = database.rows(
        f"SELECT * {_FIRST} AND next_attempt <= ? ORDER BY id LIMIT {_AT_ONCE}", (receiver, now)
    )
    return [outbox_row.load(row) for row in found]


def next_due(database: Database, receiver: str) -> float | None:
    """When the first of such rows is due."""
    (row,) = database.rows(f"SELECT min(next_attempt) AS at {_FIRST}", (receiver,))
    return None if row["at"] is None else real(row["at"])


def waiting(database: Database) -> tuple[int, float | None]:
    """How many rows have not come to an end, and when the oldest was written."""
    (row,) = database.rows(
        "SELECT count(*) AS n, min(created_at) AS at FROM outbox "
        "WHERE state IN ('pending', 'sending')"
    )
    return whole(row["n"]), None if row["at"] is None else real(row["at"])


def first_sent(database: Database, row: OutboxRow) -> list[OutboxRow]:
    """The first message that has told this receiver of the same incident, if there is one."""
    found = database.rows(
        """
        SELECT * FROM outbox WHERE receiver = ?1 AND state = 'sent' AND (
            incident = ?2 OR incident = (SELECT told_with FROM incidents WHERE id = ?2)
        ) ORDER BY (incident = ?2 AND kind = 'opened') DESC, incident = ?2, id LIMIT 1
        """,
        (row.receiver, row.incident),
    )
    return [outbox_row.load(one) for one in found]
