"""Checkpoints of runs, as rows. All functions work within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TypedDict, cast

import msgspec

from sentinel.clock import isoformat
from sentinel.engine.checkpoint import MOST, Checkpoint, State, newest_healthy
from sentinel.store.database import Row, rows
from sentinel.store.reading import real, text, whole

_lacking = msgspec.json.Decoder(tuple[int, ...])


class CheckpointJSON(TypedDict):
    """One checkpoint, as `sentinel checkpoints --json` prints it: its keys may grow, never change.

    `step` and `saved_at` are null where nobody saw it being saved; `seconds` is what saving took
    the slowest rank. `last_good`: it is the one that `--rollback last-good` would load now.
    """

    run: str
    tag: str
    folder: str
    step: int | None
    saved_at: str | None
    seconds: float
    state: State
    why: str
    clean_steps: int
    last_good: bool


def write(connection: sqlite3.Connection, run: str, checkpoints: Iterable[Checkpoint]) -> None:
    """Insert or update these of a run that has a row; the oldest go when there are too many."""
    connection.executemany(
        """
        INSERT INTO checkpoints (run, folder, tag, step, saved_at, seconds, state, why,
                                 clean_steps, lacking, taint, abandoned, gone)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (run, folder, tag) DO UPDATE SET
            step = excluded.step, saved_at = excluded.saved_at, seconds = excluded.seconds,
            state = excluded.state, why = excluded.why, clean_steps = excluded.clean_steps,
            lacking = excluded.lacking, taint = excluded.taint, abandoned = excluded.abandoned,
            gone = excluded.gone
        """,
        [_values(run, one) for one in checkpoints],
    )
    connection.execute(
        """
        DELETE FROM checkpoints WHERE run = ? AND rowid NOT IN (
            SELECT rowid FROM checkpoints WHERE run = ? ORDER BY gone, saved_at DESC LIMIT ?
        )
        """,
        (run, run, MOST),
    )


def _values(run: str, one: Checkpoint) -> tuple[str | int | float | None, ...]:
    return (
        run,
        one.folder,
        one.tag,
        one.step,
        one.saved_at,
        one.seconds,
        one.state,
        one.why,
        one.clean_steps,
        msgspec.json.encode(one.lacking).decode(),
        one.taint,
        one.abandoned,
        int(one.gone),
    )


def read(connection: sqlite3.Connection, run: str) -> list[Checkpoint]:
    """Those of a run, in the order in which they were saved; first what nobody saw being saved."""
    found = rows(
        connection, "SELECT * FROM checkpoints WHERE run = ? ORDER BY saved_at, rowid", (run,)
    )
    return [_checkpoint(row) for row in found]


def _checkpoint(row: Row) -> Checkpoint:
    return Checkpoint(
        folder=text(row["folder"]),
        tag=text(row["tag"]),
        step=None if row["step"] is None else whole(row["step"]),
        saved_at=None if row["saved_at"] is None else real(row["saved_at"]),
        seconds=real(row["seconds"]),
        state=cast(State, row["state"]),
        why=text(row["why"]),
        clean_steps=whole(row["clean_steps"]),
        lacking=_lacking.decode(text(row["lacking"])),
        taint=text(row["taint"]),
        abandoned=None if row["abandoned"] is None else whole(row["abandoned"]),
        gone=bool(row["gone"]),
    )


def as_json(run: str, checkpoints: Iterable[Checkpoint]) -> list[CheckpointJSON]:
    """The checkpoints of a run for people and programs."""
    known = sorted(checkpoints, key=lambda one: one.saved_at or 0.0)
    good = newest_healthy(known)
    return [
        CheckpointJSON(
            run=run,
            tag=one.tag,
            folder=one.folder,
            step=one.step,
            saved_at=None if one.saved_at is None else isoformat(one.saved_at),
            seconds=round(one.seconds, 3),
            state=one.state,
            why=one.why,
            clean_steps=one.clean_steps,
            last_good=one is good,
        )
        for one in known
    ]
