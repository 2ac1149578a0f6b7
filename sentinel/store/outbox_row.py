"""One row of the outbox, and how it is written. All functions work in the caller's transaction."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, cast

import msgspec

from sentinel.store.database import Row, rows
from sentinel.store.notices import Message
from sentinel.store.reading import real, text, whole

SETTLE = 1.0  # s that a new incident waits, so that its first message has all ranks' word for it

# "folded": a later state of affairs was told together with the message before it.
State = Literal["pending", "sending", "sent", "folded", "failed", "unaddressed"]


@dataclass(frozen=True)
class OutboxRow:
    """One message for one receiver. `order` is its id, 0 while it has none.

    `due_at` is when it was first to be sent, `claimed_at` the time of the first attempt; `channel`
    and `ts` say where it ended up.
    """

    order: int
    event_id: str
    receiver: str
    kind: str
    run: str
    incident: str
    payload: str
    state: State
    attempts: int = 0
    doubtful: bool = False
    created_at: float = 0.0
    due_at: float = 0.0
    claimed_at: float | None = None
    next_attempt: float = 0.0
    error: str = ""
    channel: str = ""
    ts: str = ""


def address(
    message: Message, receiver: str, after: float, store_id: str, note: str = ""
) -> OutboxRow:
    """A message as a row for this receiver, not before `after` seconds; "" is for nobody, and
    `note` says why."""
    seed = f"{store_id}/{receiver}/{message.seed}"
    wait = max(after, SETTLE if message.kind == "opened" else 0.0)
    return OutboxRow(
        order=0,
        event_id=hashlib.sha256(seed.encode()).hexdigest()[:32],
        receiver=receiver,
        kind=message.kind,
        run=message.run,
        incident=message.incident,
        payload=message.payload,
        state="pending" if receiver else "unaddressed",
        created_at=message.at,
        due_at=message.at + wait,
        next_attempt=message.at + wait if wait else 0.0,
        error=note,
    )


def load(row: Row) -> OutboxRow:
    """A row as it was read."""
    return OutboxRow(
        order=whole(row["id"]),
        event_id=text(row["event_id"]),
        receiver=text(row["receiver"]),
        kind=text(row["kind"]),
        run=text(row["run"]),
        incident=text(row["incident"]),
        payload=text(row["payload"]),
        state=cast(State, row["state"]),
        attempts=whole(row["attempts"]),
        doubtful=bool(row["doubtful"]),
        created_at=real(row["created_at"]),
        due_at=real(row["created_at"] if row["due_at"] is None else row["due_at"]),
        claimed_at=None if row["claimed_at"] is None else real(row["claimed_at"]),
        next_attempt=real(row["next_attempt"]),
        error=text(row["error"]),
        channel=text(row["channel"]),
        ts=text(row["ts"]),
    )


def insert(connection: sqlite3.Connection, row: OutboxRow, *, untouched: Collection[str]) -> None:
    """Insert a row, or let the one before it tell this news as well, if nobody has tried it yet.

    `untouched`: event ids of rows that must stay as they are.
    """
    if not row.error and _absorb(connection, row, untouched):
        return
    connection.execute(
        """
        INSERT INTO outbox (event_id, receiver, kind, run, incident, payload, state, attempts,
                            doubtful, created_at, due_at, next_attempt, error, channel, ts)
        VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?, '', '')
        ON CONFLICT (event_id) DO NOTHING
        """,
        (
            row.event_id,
            row.receiver,
            row.kind,
            row.run,
            row.incident,
            row.payload,
            row.state,
            row.created_at,
            row.due_at,
            row.next_attempt,
            row.error,
        ),
    )


def _absorb(connection: sqlite3.Connection, row: OutboxRow, untouched: Collection[str]) -> bool:
    found = rows(
        connection,
        "SELECT * FROM outbox WHERE incident = ? AND receiver = ? ORDER BY id DESC LIMIT 1",
        (row.incident, row.receiver),
    )
    if not found:
        return False
    last = load(found[0])
    same_news = last.kind == row.kind or (last.kind, row.kind) == ("opened", "updated")
    waiting = last.state in ("pending", "unaddressed") and last.attempts == 0
    if not (same_news and waiting) or last.event_id in untouched:
        return False
    payload = msgspec.json.decode(row.payload, type=dict[str, msgspec.Raw])
    before = msgspec.json.decode(last.payload, type=dict[str, msgspec.Raw])
    if bytes(before["escalated"]) == b"true":
        payload["escalated"] = before["escalated"]
    connection.execute(
        "UPDATE outbox SET payload = ? WHERE id = ?",
        (msgspec.json.encode(payload).decode(), last.order),
    )
    return True


def update(connection: sqlite3.Connection, row: OutboxRow) -> bool:
    """Bring a row to its newest version; False when it is not there."""
    cursor = connection.execute(
        """
        UPDATE outbox SET kind = ?, payload = ?, state = ?, attempts = ?, doubtful = ?,
                          claimed_at = ?, next_attempt = ?, error = ?, channel = ?, ts = ?
        WHERE event_id = ?
        """,
        (
            row.kind,
            row.payload,
            row.state,
            row.attempts,
            int(row.doubtful),
            row.claimed_at,
            row.next_attempt,
            row.error,
            row.channel,
            row.ts,
            row.event_id,
        ),
    )
    return cursor.rowcount == 1


def claim(connection: sqlite3.Connection, row: OutboxRow) -> bool:
    """Take a row that is pending; False when somebody else has it."""
    cursor = connection.execute(
        "UPDATE outbox SET state = 'sending', attempts = ?, claimed_at = ? "
        "WHERE event_id = ? AND state = 'pending'",
        (row.attempts, row.claimed_at, row.event_id),
    )
    return cursor.rowcount == 1
