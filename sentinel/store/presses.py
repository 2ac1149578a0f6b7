"""Presses on buttons: each on the record once, before the one who brought it is told so.

`taken` comes to be `done` or `refused`, or `lost` when the daemon ended before it was carried out.
The journal has a row of every press, and another where it came to nothing.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal, cast

from sentinel.store import journal
from sentinel.store.database import Row, rows
from sentinel.store.journal import NO_RUN, Entry
from sentinel.store.reading import real, text, whole

PressState = Literal["taken", "done", "refused", "lost"]

_IN_JOURNAL = {"taken": "requested", "done": "done", "refused": "refused", "lost": "lapsed"}


@dataclass(frozen=True)
class PressRow:
    """One press. `button` is its kind, `receiver`, `channel` and `ts` say under which message.

    `step`: where the run was. `at`: seconds on the daemon's clock. `answer`: what the person was
    told.
    """

    id: str
    run: str
    incident: str
    button: str
    by: str
    receiver: str
    channel: str
    ts: str
    step: int
    at: float
    state: PressState = "taken"
    answer: str = ""


def take(connection: sqlite3.Connection, press: PressRow) -> bool:
    """Put a press on the record; False when it is there already, in whatever state."""
    cursor = connection.execute(
        """
        INSERT INTO presses (id, run, incident, button, pressed_by, receiver, channel, ts, step,
                             at, state, answer)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
        """,
        (
            press.id,
            press.run,
            press.incident,
            press.button,
            press.by,
            press.receiver,
            press.channel,
            press.ts,
            press.step,
            press.at,
            press.state,
            press.answer,
        ),
    )
    if cursor.rowcount:
        _chain(connection, press)
    return bool(cursor.rowcount)


def settle(
    connection: sqlite3.Connection, press_id: str, state: PressState, answer: str, at: float
) -> None:
    """What came of a press that was taken; once."""
    cursor = connection.execute(
        "UPDATE presses SET state = ?, answer = ? WHERE id = ? AND state = 'taken'",
        (state, answer, press_id),
    )
    if cursor.rowcount and state != "done":  # what was done is on the record by itself
        (row,) = rows(connection, "SELECT * FROM presses WHERE id = ?", (press_id,))
        _chain(connection, _load(row), at)


def unsettled(connection: sqlite3.Connection) -> list[PressRow]:
    """Presses that were taken and came to nothing yet, oldest first."""
    found = rows(connection, "SELECT * FROM presses WHERE state = 'taken' ORDER BY at, id")
    return [_load(row) for row in found]


def _load(row: Row) -> PressRow:
    return PressRow(
        id=text(row["id"]),
        run=text(row["run"]),
        incident=text(row["incident"]),
        button=text(row["button"]),
        by=text(row["pressed_by"]),
        receiver=text(row["receiver"]),
        channel=text(row["channel"]),
        ts=text(row["ts"]),
        step=whole(row["step"]),
        at=real(row["at"]),
        state=cast(PressState, text(row["state"])),
        answer=text(row["answer"]),
    )


def _chain(connection: sqlite3.Connection, press: PressRow, at: float | None = None) -> None:
    known = rows(connection, "SELECT 1 FROM runs WHERE name = ?", (press.run,))
    under = {"button": press.button, "channel": press.channel, "message": press.ts}
    entry = Entry(
        run=press.run if known else NO_RUN,
        action_id=None,
        action=f"press {press.button}",
        state=_IN_JOURNAL[press.state],
        step=press.step,
        by=press.by,
        at=press.at if at is None else at,
        incident=press.incident,
        detail=press.answer,
        order=under if at is None else {},
    )
    journal.append(connection, entry)
