"""How many incidents runs have had, and which of them are open."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from sentinel.engine.transition import SEVERITIES
from sentinel.store.database import rows
from sentinel.store.reading import text


@dataclass
class Tally:
    """Incidents of one run. `worst` is the severity of the worst that is open, `newest` the id of
    the one that opened last of those; None: none is open."""

    open: int = 0
    total: int = 0
    worst: str | None = None
    newest: str | None = None


def tallies(connection: sqlite3.Connection) -> dict[str, Tally]:
    """By run, of all that have had an incident."""
    found: dict[str, Tally] = {}
    for row in rows(connection, "SELECT run, count(*) AS n FROM incidents GROUP BY run"):
        found[text(row["run"])] = Tally(total=int(row["n"] or 0))
    opened = rows(
        connection, "SELECT run, id, severity FROM incidents WHERE state = 'open' ORDER BY rowid"
    )
    for row in opened:
        tally = found[text(row["run"])]
        tally.open += 1
        tally.newest = text(row["id"])
        tally.worst = _worse(tally.worst, text(row["severity"]))
    return found


def _worse(one: str | None, other: str) -> str:
    """Of two severities, the worse; what is no severity is the mildest."""
    order: tuple[str, ...] = SEVERITIES
    return max(
        (severity for severity in (one, other) if severity is not None),
        key=lambda severity: order.index(severity) if severity in order else -1,
    )
