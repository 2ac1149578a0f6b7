"""Writes blocks of a history into the file, and keeps it within its bounds."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sentinel.store.bins import MISSING, Bins, Floats, Singles, Steps, is_missing
from sentinel.store.database import Database, rows
from sentinel.store.history_row import ALONE, Part, Row, is_of_ranks, ranks_of
from sentinel.store.reading import text, whole
from sentinel.store.sheet import COARSE, Places, pack_bins, pack_rows, pack_steps

_AT_ONCE = 64  # sheets or blocks that go at once


class Stretch(NamedTuple):
    """Rows of one run, whose steps rise, to be written as one block.

    `anew`: with them a history begins. `whole`: no more comes to this block. `replaces`: blocks
    that hold some of the same, and go.
    """

    run: str
    rows: Sequence[Row]
    anew: bool
    whole: bool
    replaces: Sequence[int]


@dataclass
class _Life:
    """A history, and by sheet the numbers of its columns."""

    id: int
    numbers: dict[str, dict[str, int]]


class Writer:
    """The writing thread's own."""

    def __init__(self, database: Database, limit: int) -> None:
        """`limit` is bytes of all blocks. Raises `StateError`."""
        self._database = database
        self._limit = limit
        self._lives: dict[str, _Life] = {}
        (row,) = database.rows("SELECT coalesce(sum(bytes), 0) AS total FROM history_blocks")
        self._total = whole(row["total"])

    def write(self, stretches: Sequence[Stretch], present: Collection[str]) -> list[int]:
        """Write all or nothing; returns the ids of the blocks. Raises `StateError`.

        `present` are the runs that go on, whose histories are shortened last.
        """
        try:
            with self._database.transaction() as connection:
                ids, total = [], self._total
                for one in stretches:
                    id, size = self._put(connection, one)
                    ids.append(id)
                    total += size
                total -= _trim(connection, total - self._limit, present)
        except BaseException:
            self._lives.clear()  # what they had learned is not in the file
            raise
        self._total = total
        for run in [one for one in self._lives if one not in present]:
            del self._lives[run]
        return ids

    def _put(self, connection: sqlite3.Connection, stretch: Stretch) -> tuple[int, int]:
        """Write a block; returns its id, and by how many bytes the file has grown."""
        life = self._life(connection, stretch)
        steps: Steps = np.array([row.step for row in stretch.rows], np.int64)
        times: Floats = np.array([row.now for row in stretch.rows])
        packed = pack_steps(steps, times)
        cursor = connection.execute(
            'INSERT INTO history_blocks (history, "first", "last", whole, bytes, steps) '
            "VALUES (?, ?, ?, ?, 0, ?)",
            (life.id, int(steps[0]), int(steps[-1]), int(stretch.whole), packed),
        )
        block, size = int(cursor.lastrowid or 0), len(packed)
        for sheet, at, names, values in sheets_of(stretch.rows):
            numbers = self._numbers(connection, life, sheet, names, int(steps[0]))
            coarse = None
            if stretch.whole:
                kept = [n for n, name in enumerate(names) if not is_of_ranks(sheet, name)]
                rank = ranks_of(sheet, [names[n] for n in kept], names, values)
                bins = Bins.of(steps[at], times[at], values[:, kept], rank).merged(COARSE)
                coarse = pack_bins(numbers[kept], bins)
            body = pack_rows(at, numbers, values)
            length = len(body) + len(coarse or b"")
            connection.execute(
                "INSERT INTO history_sheets (block, sheet, bytes, coarse, body) "
                "VALUES (?, ?, ?, ?, ?)",
                (block, sheet, length, coarse, body),
            )
            size += length
        connection.execute("UPDATE history_blocks SET bytes = ? WHERE id = ?", (size, block))
        return block, size - _remove(connection, stretch.replaces)

    def _life(self, connection: sqlite3.Connection, stretch: Stretch) -> _Life:
        """The history that a block belongs to."""
        known = self._lives.get(stretch.run)
        if known is not None and not stretch.anew:
            return known
        found = rows(
            connection,
            "SELECT id FROM histories WHERE run = ? ORDER BY id DESC LIMIT 1",
            (stretch.run,),
        )
        if stretch.anew or not found:
            cursor = connection.execute("INSERT INTO histories (run) VALUES (?)", (stretch.run,))
            life = _Life(int(cursor.lastrowid or 0), {})
        else:
            life = _Life(whole(found[0]["id"]), {})
            for row in rows(
                connection,
                "SELECT sheet, number, name FROM history_columns WHERE history = ?",
                (life.id,),
            ):
                numbers = life.numbers.setdefault(text(row["sheet"]), {})
                numbers[text(row["name"])] = whole(row["number"])
        self._lives[stretch.run] = life
        return life

    def _numbers(
        self,
        connection: sqlite3.Connection,
        life: _Life,
        sheet: str,
        names: Sequence[str],
        step: int,
    ) -> Places:
        """The numbers of columns, in the order in which they were first measured."""
        known = life.numbers.setdefault(sheet, {})
        new = [name for name in names if name not in known]
        for name in new:
            known[name] = len(known)
        connection.executemany(
            'INSERT INTO history_columns (history, sheet, number, name, "first") '
            "VALUES (?, ?, ?, ?, ?)",
            [(life.id, sheet, known[name], name, step) for name in new],
        )
        return np.array([known[name] for name in names], np.int32)


def sheets_of(
    taken: Sequence[Row], only: str | None = None
) -> Iterator[tuple[str, Places, list[str], Singles]]:
    """For each sheet that has any value: the rows that have, its columns that have, the values."""
    parts: dict[str, list[tuple[Part, Places, Singles]]] = {}
    begin = 0
    while begin < len(taken):
        form, end = taken[begin].form, begin + 1
        while end < len(taken) and taken[end].form is form:
            end += 1
        values = np.stack([row.values for row in taken[begin:end]])
        at = np.arange(begin, end, dtype=np.int32)
        for part in form.parts:
            if only not in (None, part.sheet):
                continue
            parts.setdefault(part.sheet, []).append((part, at, values[:, part.places]))
        begin = end
    for sheet, found in parts.items():
        at, names, values = _together(found)
        measured = ~is_missing(values)
        in_row, in_column = np.asarray(measured.any(axis=1)), np.asarray(measured.any(axis=0))
        if in_row.any():
            kept = [name for name, has in zip(names, in_column, strict=True) if has]
            yield sheet, at[in_row], kept, values[np.ix_(in_row, in_column)]


def _together(
    found: Sequence[tuple[Part, Places, Singles]],
) -> tuple[Places, list[str], Singles]:
    """One matrix of those one after the other, whose columns may differ."""
    if len({part.columns for part, _, _ in found}) == 1:
        values = np.concatenate([values for _, _, values in found])
        return np.concatenate([at for _, at, _ in found]), [*found[0][0].columns], values
    place: dict[str, int] = {}
    for part, _, _ in found:
        for name in part.columns:
            place.setdefault(name, len(place))
    lines = []
    for part, _, values in found:
        line = np.full((len(values), len(place)), MISSING, np.float32)
        line[:, [place[name] for name in part.columns]] = values
        lines.append(line)
    return np.concatenate([at for _, at, _ in found]), [*place], np.concatenate(lines)


def _remove(connection: sqlite3.Connection, blocks: Sequence[int]) -> int:
    """Delete blocks; returns how many bytes they had."""
    gone = 0
    for id in blocks:
        found = rows(connection, "SELECT bytes FROM history_blocks WHERE id = ?", (id,))
        gone += sum(whole(row["bytes"]) for row in found)
        connection.execute("DELETE FROM history_sheets WHERE block = ?", (id,))
        connection.execute("DELETE FROM history_blocks WHERE id = ?", (id,))
    return gone


def _trim(connection: sqlite3.Connection, excess: int, present: Collection[str]) -> int:
    """Let go of what is wanted least until `excess` bytes are gone; returns how many went.

    1. Histories of runs that do not go on, and of earlier runs by the same name, oldest first.
    2. Of the others, oldest first, the exact values of labels and ranks, of which stretches stay;
    3. then those of all other signals; 4. then blocks, stretches and all.
    """
    gone = 0
    for shorten in (_drop_past, _thin_labels, _thin_all, _drop_oldest):
        while gone < excess:
            went = shorten(connection, present)
            if not went:
                break
            gone += went
    return gone


def _drop_past(connection: sqlite3.Connection, present: Collection[str]) -> int:
    """The oldest blocks of the oldest history that does not go on."""
    found = rows(
        connection,
        "SELECT id, run, id = (SELECT max(id) FROM histories h WHERE h.run = histories.run) "
        "AS newest FROM histories ORDER BY id",
    )
    past = (row for row in found if not (row["newest"] and row["run"] in present))
    for row in past:
        blocks = rows(
            connection,
            "SELECT id FROM history_blocks WHERE history = ? ORDER BY id LIMIT ?",
            (row["id"], _AT_ONCE),
        )
        gone = _remove(connection, [whole(block["id"]) for block in blocks])
        if len(blocks) < _AT_ONCE:
            connection.execute("DELETE FROM history_columns WHERE history = ?", (row["id"],))
            connection.execute("DELETE FROM histories WHERE id = ?", (row["id"],))
        if gone:
            return gone
    return 0


def _thin_labels(connection: sqlite3.Connection, _: Collection[str]) -> int:
    return _thin(connection, "sheet != ?")


def _thin_all(connection: sqlite3.Connection, _: Collection[str]) -> int:
    return _thin(connection, "sheet = ?")


def _thin(connection: sqlite3.Connection, which: str) -> int:
    found = rows(
        connection,
        "SELECT id, block, length(body) AS size FROM history_sheets WHERE body IS NOT NULL "
        f"AND coarse IS NOT NULL AND {which} ORDER BY id LIMIT ?",
        (ALONE, _AT_ONCE),
    )
    for row in found:
        connection.execute(
            "UPDATE history_sheets SET body = NULL, bytes = bytes - ? WHERE id = ?",
            (row["size"], row["id"]),
        )
        connection.execute(
            "UPDATE history_blocks SET bytes = bytes - ? WHERE id = ?", (row["size"], row["block"])
        )
    return sum(whole(row["size"]) for row in found)


def _drop_oldest(connection: sqlite3.Connection, _: Collection[str]) -> int:
    found = rows(connection, "SELECT id FROM history_blocks ORDER BY id LIMIT ?", (_AT_ONCE,))
    return _remove(connection, [whole(row["id"]) for row in found])
