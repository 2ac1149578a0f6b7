"""Reads the history of a run: what is in memory of it, and the rest from the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sentinel.store.bins import NOBODY, Bins, Bools, Floats, Singles, Steps, joined
from sentinel.store.database import Database, SqlValue
from sentinel.store.history import History, Recent
from sentinel.store.history_row import Row, greatest, with_ranks
from sentinel.store.history_writing import sheets_of
from sentinel.store.reading import text, whole
from sentinel.store.sheet import COARSE, unpack_bins, unpack_rows, unpack_steps


class Extent(NamedTuple):
    """The steps of a run that there are."""

    first: int
    last: int


class Column(NamedTuple):
    """A column of a sheet, and the step at or after which it was first measured."""

    sheet: str
    name: str
    first: int


class HistoryReader:
    """Has a connection of its own, so that nobody who reads waits for one who writes.

    What is asked for in one `look` is of one moment.
    """

    def __init__(self, database: Database, history: History) -> None:
        """On `telemetry.db`, open for reading."""
        self._database = database
        self._history = history

    def look(self, run: str) -> Look | None:
        """A run's history as it is now, None if there is none. Raises `StateError`."""
        recent = self._history.recent(run)  # first: what is written meanwhile is there twice
        found = self._database.rows(
            "SELECT id FROM histories WHERE run = ? ORDER BY id DESC LIMIT 1", (run,)
        )
        id = whole(found[0]["id"]) if found else None
        if recent.anew and not recent.pieces:
            id = None
        look = Look(self._database, id, recent)
        return None if look.is_empty else look

    def close(self) -> None:
        """Close the file."""
        self._database.close()


@dataclass(frozen=True)
class _Block:
    """Where a block is: in the file by its id, or in memory."""

    first: int
    last: int
    id: int | None
    rows: Sequence[Row] = ()


class Look:
    """The history of one run at one moment."""

    def __init__(self, database: Database, id: int | None, recent: Recent) -> None:
        self._database = database
        self._id = id
        self._blocks = self._stored(recent.pieces)
        self._blocks += [
            _Block(rows[0].step, rows[-1].step, None, rows) for rows in recent.blocks if rows
        ]
        self._lowest_after = self._find_lowest_after()
        self._names: dict[str, dict[int, str]] | None = None
        self._columns: list[Column] | None = None
        self._heads: dict[int, tuple[Steps, Floats]] = {}

    def _stored(self, apart_from: frozenset[int]) -> list[_Block]:
        found = self._database.rows(
            'SELECT id, "first", "last" FROM history_blocks WHERE history = ? ORDER BY id',
            (self._id,),
        )
        return [
            _Block(whole(row["first"]), whole(row["last"]), whole(row["id"]))
            for row in found
            if row["id"] not in apart_from
        ]

    def _find_lowest_after(self) -> list[float]:
        """For each block, the first step of all those after it."""
        lowest, found = math.inf, []
        for block in reversed(self._blocks):
            found.append(lowest)
            lowest = min(lowest, block.first)
        return found[::-1]

    @property
    def is_empty(self) -> bool:
        """Whether no step is there."""
        return not self._blocks

    @property
    def extent(self) -> Extent:
        """The steps that there are, one at least."""
        return Extent(min(b.first for b in self._blocks), max(b.last for b in self._blocks))

    def columns(self) -> list[Column]:
        """What was measured, in the order in which it was first."""
        if self._columns is None:
            self._columns = self._find_columns()
        return self._columns

    def _find_columns(self) -> list[Column]:
        found = self._database.rows(
            'SELECT sheet, number, name, "first" FROM history_columns WHERE history = ? '
            "ORDER BY sheet, number",
            (self._id,),
        )
        self._names = {}
        known: dict[tuple[str, str], int] = {}
        for row in found:
            sheet, name = text(row["sheet"]), text(row["name"])
            self._names.setdefault(sheet, {})[whole(row["number"])] = name
            known[sheet, name] = whole(row["first"])
        for block in self._blocks:
            for sheet, _, names, _ in sheets_of(block.rows):
                for name in names:
                    known.setdefault((sheet, name), block.first)
        return [Column(sheet, name, first) for (sheet, name), first in known.items()]

    def bins(
        self, sheet: str, names: Sequence[str], first: int, last: int, length: int
    ) -> tuple[Bins, int]:
        """What these columns of a sheet were from step to step, in stretches of `length`.

        The first and the last stretch are whole: they may begin before what is asked for, or end
        behind it. Where nothing more exact is left, stretches are longer: how long, comes with
        them. Raises `StateError`.
        """
        first, last = first // length * length, (last // length + 1) * length - 1
        parts, longest = [], length
        for at, block in enumerate(self._blocks):
            if block.last < first or block.first > last:
                continue
            part, own = self._part(at, sheet, names, length)
            if part is not None:
                within = (part.starts >= first) & (part.starts <= last)
                part = part if within.all() else part.at(within)
                parts.append(part.merged(max(own, length)))
                longest = max(longest, own)
        return joined(parts, len(names)).sorted().merged(longest), longest

    def _part(
        self, at: int, sheet: str, names: Sequence[str], length: int
    ) -> tuple[Bins | None, int]:
        """What a block has of these columns, and in how long stretches it is known at best."""
        block, redone = self._blocks[at], self._redone(at)
        if block.id is None:
            return self._of_rows(block, redone, sheet, names), 1
        exactly = length < COARSE or bool(redone)
        body = "body" if exactly else "CASE WHEN coarse IS NULL THEN body END AS body"
        found = self._database.rows(
            f"SELECT coarse, {body} FROM history_sheets WHERE block = ? AND sheet = ?",
            (block.id, sheet),
        )
        if not found:
            return None, 1
        coarse, exact = _blob(found[0]["coarse"]), _blob(found[0]["body"])
        if exact:
            return self._exact(block.id, exact, redone, sheet, names), 1
        if not coarse:
            return None, 1
        numbers, bins = unpack_bins(coarse)
        return bins.columns(self._places(sheet, numbers.tolist(), names)), COARSE

    def _redone(self, at: int) -> list[_Block]:
        """Later blocks that have some of the same steps."""
        block = self._blocks[at]
        if self._lowest_after[at] > block.last:
            return []
        return [
            one
            for one in self._blocks[at + 1 :]
            if one.first <= block.last and one.last >= block.first
        ]

    def _exact(
        self, id: int, body: bytes, redone: list[_Block], sheet: str, names: Sequence[str]
    ) -> Bins:
        steps, times = self._head(id)
        at, numbers, values = unpack_rows(body)
        called = self._called(sheet)
        known = [called.get(number, "") for number in numbers.tolist()]
        bins = _every_step(steps[at], times[at], known, values, names)
        return bins.at(self._counts(bins.starts, redone)) if redone else bins

    def _of_rows(
        self, block: _Block, redone: list[_Block], sheet: str, names: Sequence[str]
    ) -> Bins | None:
        steps = np.array([row.step for row in block.rows], np.int64)
        times = np.array([row.now for row in block.rows])
        for found, at, known, values in sheets_of(block.rows, only=sheet):
            if found == sheet:
                bins = _every_step(steps[at], times[at], known, values, names)
                return bins.at(self._counts(bins.starts, redone)) if redone else bins
        return None

    def _counts(self, steps: Steps, redone: list[_Block]) -> Bools:
        """Which of the steps were not done again later."""
        later = [
            np.array([row.step for row in one.rows], np.int64)
            if one.id is None
            else self._head(one.id)[0]
            for one in redone
        ]
        return np.asarray(~np.isin(steps, np.concatenate(later)))

    def _head(self, id: int) -> tuple[Steps, Floats]:
        if id not in self._heads:
            found = self._database.rows("SELECT steps FROM history_blocks WHERE id = ?", (id,))
            packed = _blob(found[0]["steps"]) if found else b""
            nothing = np.zeros(0, np.int64), np.zeros(0)
            self._heads[id] = unpack_steps(packed) if packed else nothing
        return self._heads[id]

    def _called(self, sheet: str) -> dict[int, str]:
        self.columns()
        assert self._names is not None
        return self._names.get(sheet, {})

    def _places(
        self, sheet: str, numbers: list[int], names: Sequence[str]
    ) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """For each name the place of its number, -1 if it is not there."""
        called = self._called(sheet)
        place = {called.get(number, ""): at for at, number in enumerate(numbers)}
        return np.array([place.get(name, -1) for name in names], np.intp)


def _every_step(
    steps: Steps, times: Floats, known: list[str], values: Singles, names: Sequence[str]
) -> Bins:
    """Each step by itself, of those columns that are asked for."""
    place = {name: at for at, name in enumerate(known)}
    wanted = [name for name in names if name in place]
    partners = [g for name in wanted if (g := greatest(name)) in place]
    chosen = [*wanted, *partners]
    values = np.ascontiguousarray(values[:, [place[name] for name in chosen]])
    kept, rank = with_ranks(chosen, values, NOBODY)
    bins = Bins.of(steps, times, values[:, kept], rank)
    at = {chosen[one]: n for n, one in enumerate(kept)}
    return bins.columns(np.array([at.get(name, -1) for name in names], np.intp))


def _blob(value: SqlValue) -> bytes:
    return value if isinstance(value, bytes) else b""
