"""Silences: who is to be left alone about what, until when. Each is on the record with its end.

What is written here enters the journal as well: of the run that a silence names, or of no run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import msgspec

from sentinel.clock import isoformat
from sentinel.errors import StateError
from sentinel.matcher import Labels, Matcher, all_match
from sentinel.store import journal
from sentinel.store.database import Database, Row, rows
from sentinel.store.journal import NO_RUN, Entry
from sentinel.store.reading import real, text, whole

MAX_ACTIVE = 1000
_matchers = msgspec.json.Decoder(tuple[Matcher, ...])


class SilenceJSON(TypedDict):
    """A silence as `sentinel silence --list --json` prints it. `state`: active, or expired."""

    id: int
    state: str
    matchers: list[str]
    since: str
    until: str
    by: str
    comment: str
    ended_by: str | None


class MadeSilenceJSON(TypedDict):
    """A silence that was made; `everything`: there is nothing that it does not match."""

    silence: SilenceJSON
    everything: bool


@dataclass(frozen=True)
class Silence:
    """What matches all of `matchers` is not told before `until` (seconds since the epoch).

    `ended_by`: who has ended it before its time, if somebody has; `until` is then when.
    """

    id: int
    matchers: tuple[Matcher, ...]
    since: float
    until: float
    by: str
    comment: str
    ended_by: str | None = None

    def active(self, now: float) -> bool:
        """Whether it is in force."""
        return now < self.until

    def silences(self, labels: Labels, now: float) -> bool:
        """Whether what has these labels is not told now."""
        return self.active(now) and all_match(self.matchers, labels)


def as_json(silence: Silence, now: float) -> SilenceJSON:
    """A silence as it stands now."""
    return {
        "id": silence.id,
        "state": "active" if silence.active(now) else "expired",
        "matchers": [str(matcher) for matcher in silence.matchers],
        "since": isoformat(silence.since),
        "until": isoformat(silence.until),
        "by": silence.by,
        "comment": silence.comment,
        "ended_by": silence.ended_by,
    }


class Silences:
    """The silences of a record. Methods that write raise `StateError` when that failed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self, now: float) -> list[Silence]:
        """Those that are in force, oldest first."""
        return self._read("WHERE until > ?", (now,))

    def all(self) -> list[Silence]:
        """All that ever were, oldest first."""
        return self._read("", ())

    def add(
        self, matchers: Sequence[Matcher], *, until: float, by: str, comment: str, at: float
    ) -> Silence:
        """Put a silence on the record."""
        if len(self.active(at)) >= MAX_ACTIVE:
            raise StateError(f"{MAX_ACTIVE} silences are in force already: end some of them")
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO silences (matchers, since, until, made_by, comment) "
                "VALUES (?, ?, ?, ?, ?)",
                (msgspec.json.encode(matchers).decode(), at, until, by, comment),
            )
            silence = Silence(cursor.lastrowid or 0, (*matchers,), at, until, by, comment)
            _journal(connection, silence, "silence", by, at)
        return silence

    def end(self, silence_id: int, *, by: str, at: float) -> Silence:
        """End a silence now. Raises `LookupError` when none with this id is in force."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "UPDATE silences SET until = ?, ended_by = ? WHERE id = ? AND until > ?",
                (at, by, silence_id, at),
            )
            if not cursor.rowcount:
                raise LookupError(silence_id)
            (row,) = rows(connection, "SELECT * FROM silences WHERE id = ?", (silence_id,))
            silence = _silence(row)
            _journal(connection, silence, "end silence", by, at)
        return silence

    def _read(self, where: str, parameters: tuple[float, ...]) -> list[Silence]:
        found = self._database.rows(f"SELECT * FROM silences {where} ORDER BY id", parameters)
        return [_silence(row) for row in found]


def _silence(row: Row) -> Silence:
    return Silence(
        id=whole(row["id"]),
        matchers=_matchers.decode(text(row["matchers"])),
        since=real(row["since"]),
        until=real(row["until"]),
        by=text(row["made_by"]),
        comment=text(row["comment"]),
        ended_by=None if row["ended_by"] is None else text(row["ended_by"]),
    )


def _journal(
    connection: sqlite3.Connection, silence: Silence, action: str, by: str, at: float
) -> None:
    shown = as_json(silence, at)
    entry = Entry(
        run=_run(connection, silence),
        action_id=None,
        action=action,
        state="done",
        step=0,
        by=by,
        at=at,
        reason=silence.comment,
        order={"silence": silence.id, "matchers": shown["matchers"], "until": shown["until"]},
    )
    journal.append(connection, entry)


def _run(connection: sqlite3.Connection, silence: Silence) -> str:
    """The one run that a silence is about, if it names one that is known."""
    for matcher in silence.matchers:
        named = matcher.name == "run" and not matcher.regex and not matcher.negative
        if named and rows(connection, "SELECT 1 FROM runs WHERE name = ?", (matcher.value,)):
            return matcher.value
    return NO_RUN
