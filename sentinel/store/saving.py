"""Runs, their ranks, holds and coverage, as rows. All within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from sentinel.engine.coverage import RunCoverage
from sentinel.store.shapes import HoldRow, RankRow, RunRow


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
    connection.execute(
        """
        INSERT INTO runs (name, state, step, world_size, started, ended, command,
                          hold_step, hold_by, hold_since, hold_terms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (name) DO UPDATE SET
            state = excluded.state, step = excluded.step, world_size = excluded.world_size,
            started = excluded.started, ended = excluded.ended, command = excluded.command,
            hold_step = excluded.hold_step, hold_by = excluded.hold_by,
            hold_since = excluded.hold_since, hold_terms = excluded.hold_terms
        """,
        (
            row.name,
            row.state,
            row.step,
            row.world_size,
            row.started,
            row.ended,
            row.command,
            *_hold_values(row.hold),
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


def save_hold(connection: sqlite3.Connection, action_id: int, hold: HoldRow) -> None:
    """A hold has begun, of which nobody has been reminded yet."""
    connection.execute(
        """
        UPDATE runs SET hold_step = ?, hold_by = ?, hold_since = ?, hold_terms = ?,
                        hold_reminded = 0.0
        WHERE name = (SELECT run FROM actions WHERE id = ?)
        """,
        (*_hold_values(hold), action_id),
    )


def _hold_values(hold: HoldRow | None) -> tuple[str | int | float | None, ...]:
    """The columns of a run that say how it is held."""
    if hold is None:
        return (None, None, None, None)
    terms = None if hold.terms is None else msgspec.json.encode(hold.terms).decode()
    return (hold.step, hold.by, hold.since, terms)


def note_reminder(connection: sqlite3.Connection, run: str, offset: float) -> bool:
    """Note that people are reminded this far into a hold; False when they have been already."""
    cursor = connection.execute(
        "UPDATE runs SET hold_reminded = ? WHERE name = ? AND hold_step IS NOT NULL "
        "AND coalesce(hold_reminded, 0.0) < ?",
        (offset, run, offset),
    )
    return cursor.rowcount == 1


def know_run(connection: sqlite3.Connection, name: str, at: float) -> None:
    """A run that something is written about has a row, also when nobody has described it yet."""
    connection.execute(
        """
        INSERT INTO runs (name, state, step, world_size, started, command)
        VALUES (?, 'running', 0, 1, ?, '') ON CONFLICT (name) DO NOTHING
        """,
        (name, at),
    )
