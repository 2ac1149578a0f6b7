"""How open incidents stand with the people who are told of them, as the record has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sentinel.store import attention, notices, reading
from sentinel.store.database import rows
from sentinel.store.notices import Message
from sentinel.store.reading import real, text

MAX_STANDING = 1000  # incidents


@dataclass(frozen=True)
class Standing:
    """One incident. `message` says how it stands; `told`: when (s) each receiver was last owed word
    of it; `withheld`: there is news that nobody has been owed. `leader`: see `attention.leader`.
    """

    message: Message
    opened_at: float
    told: Mapping[str, float]
    withheld: bool
    leader: str | None


def standing(connection: sqlite3.Connection, only: Collection[str] | None = None) -> list[Standing]:
    """Incidents that are open or have news that was withheld, oldest first; or `only` these."""
    found = rows(
        connection,
        """
        SELECT rowid, * FROM incidents WHERE state = 'open' OR id IN (
            SELECT incident FROM outbox WHERE receiver = '' AND error != ''
        ) ORDER BY rowid DESC LIMIT ?
        """,
        (MAX_STANDING,),
    )
    chosen = [row for row in reversed(found) if only is None or row["id"] in only]
    return [_standing(connection, text(row["id"]), real(row["opened_at"])) for row in chosen]


def _standing(connection: sqlite3.Connection, incident: str, opened_at: float) -> Standing:
    leader = attention.leader(connection, incident)
    told, addressed = _told(connection, incident)
    if leader:
        told = _told(connection, leader)[0] | told
    (row,) = rows(
        connection,
        "SELECT max(id) n FROM outbox WHERE incident = ? AND receiver = '' AND error != ''",
        (incident,),
    )
    withheld = reading.whole(row["n"])
    message = notices.message_for_standing(connection, incident, "updated", opened_at)
    alerts = reading.alerts_json(connection, incident)
    return Standing(replace(message, alerts=alerts), opened_at, told, withheld > addressed, leader)


def _told(connection: sqlite3.Connection, incident: str) -> tuple[dict[str, float], int]:
    """When each receiver was last owed word of an incident, and the newest such row."""
    found = rows(
        connection,
        "SELECT receiver, max(created_at) at, max(id) n FROM outbox "
        "WHERE incident = ? AND receiver != '' GROUP BY receiver",
        (incident,),
    )
    told = {text(row["receiver"]): real(row["at"]) for row in found}
    return told, max((reading.whole(row["n"]) for row in found), default=0)
