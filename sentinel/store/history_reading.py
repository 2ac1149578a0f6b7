"""Reads the history of a run: what is in memory of it, and the rest from the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sentinel.store.bins import MISSING, Bins, Floats, Singles, Steps, joined
from sentinel.store.database import Database, SqlValue
from sentinel.store.history import History, Recent
from sentinel.store.history_row import Row, greatest, ranks_of
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

    def reopen(self) -> None:
        """Read the file that is there by now. Raises `StateError`."""
        self._database.reopen()

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


class _Exact(NamedTuple):
    """Values of steps by columns, which are called as in `known`."""

    sheet: str
    steps: Steps
    times: Floats
    known: list[str]
    values: Singles

    def columns(self, names: Sequence[str]) -> Singles:
        """Some columns, those that are not known as `MISSING`."""
        place = {name: at for at, name in enumerate(self.known)}
        at = np.array([place.get(name, -1) for name in names], np.intp)
        found = np.full((len(self.steps), len(names)), MISSING, np.float32)
        found[:, at >= 0] = self.values[:, at[at >= 0]]
        return found

    def every_step(self, names: Sequence[str]) -> Bins:
        """Each step by itself."""
        rank = ranks_of(self.sheet, names, self.known, self.values)
        return Bins.of(self.steps, self.times, self.columns(names), rank)


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
        low, high = first // length * length, (last // length + 1) * length - 1
        parts: list[Bins] = []
        coarse: dict[tuple[int, ...], list[Bins]] = {}  # by the columns that they have
        for at in self._within(low, high):
            exact, packed = self._part(at, sheet, names, length)
            if exact is not None:
                parts.append(_between(exact.every_step(names), low, high).merged(length))
            elif packed and length < COARSE:
                return self.bins(sheet, names, first, last, COARSE)
            elif packed:
                numbers, bins = unpack_bins(packed)
                coarse.setdefault(tuple(numbers.tolist()), []).append(bins)
        for columns, found in coarse.items():  # all at once: there are many, and they are short
            whole = _between(joined(found, len(columns)), low, high)
            parts.append(whole.columns(self._places(sheet, columns, names)))
        return joined(parts, len(names)).sorted().merged(length), length

    def exact(
        self, sheet: str, names: Sequence[str], first: int, last: int, most: int
    ) -> tuple[Steps, Singles]:
        """The values of these columns at every step of which they are still known.

        Of more than some `most` steps, whole blocks are left out, evenly. What was not measured is
        some NaN. Raises `StateError`.
        """
        chosen = self._within(first, last)
        total = sum(self._blocks[at].last - self._blocks[at].first + 1 for at in chosen)
        every = max(1, -(-total // most))
        steps, values = [np.zeros(0, np.int64)], [np.zeros((0, len(names)), np.float32)]
        for at in chosen[::-1][::every][::-1]:
            found, _ = self._stored_sheet(at, sheet, names, coarsely=False)
            if found is not None:
                within = (found.steps >= first) & (found.steps <= last)
                steps.append(found.steps[within])
                values.append(found.columns(names)[within])
        all_steps = np.concatenate(steps)
        order = np.argsort(all_steps, kind="stable")
        return all_steps[order], np.concatenate(values)[order]

    def _within(self, first: int, last: int) -> list[int]:
        """The blocks that have any of these steps."""
        return [
            at
            for at, block in enumerate(self._blocks)
            if block.last >= first and block.first <= last
        ]

    def _part(
        self, at: int, sheet: str, names: Sequence[str], length: int
    ) -> tuple[_Exact | None, bytes]:
        """What a block has of these columns: its steps or, packed, stretches of `COARSE`."""
        coarsely = length >= COARSE and not self._redone(at)
        wanted = [*names, *map(greatest, names)]
        return self._stored_sheet(at, sheet, wanted, coarsely=coarsely)

    def _stored_sheet(
        self, at: int, sheet: str, names: Sequence[str], *, coarsely: bool
    ) -> tuple[_Exact | None, bytes]:
        """The steps of a block that count, of these columns at least, or else the stretches.

        `coarsely`: stretches are all that is needed, where there are some.
        """
        block = self._blocks[at]
        if block.id is None:
            return self._in_memory(at, sheet), b""
        body = "CASE WHEN coarse IS NULL THEN body END AS body" if coarsely else "body"
        found = self._database.rows(
            f"SELECT coarse, {body} FROM history_sheets WHERE block = ? AND sheet = ?",
            (block.id, sheet),
        )
        if not found:
            return None, b""
        packed = _blob(found[0]["body"])
        if not packed:
            return None, _blob(found[0]["coarse"])
        steps, times = self._head(block.id)
        called = self._called(sheet)
        chosen = set(names)
        wanted = [number for number, name in called.items() if name in chosen]
        rows, numbers, values = unpack_rows(packed, wanted)
        known = [called.get(number, "") for number in numbers.tolist()]
        return self._counting(at, _Exact(sheet, steps[rows], times[rows], known, values)), b""

    def _in_memory(self, at: int, sheet: str) -> _Exact | None:
        rows = self._blocks[at].rows
        steps = np.array([row.step for row in rows], np.int64)
        times = np.array([row.now for row in rows])
        for _, places, known, values in sheets_of(rows, only=sheet):
            return self._counting(at, _Exact(sheet, steps[places], times[places], known, values))
        return None

    def _counting(self, at: int, found: _Exact) -> _Exact:
        """Without the steps that were done again later."""
        redone = self._redone(at)
        if not redone:
            return found
        later = [
            np.array([row.step for row in one.rows], np.int64)
            if one.id is None
            else self._head(one.id)[0]
            for one in redone
        ]
        kept = ~np.isin(found.steps, np.concatenate(later))
        return found._replace(
            steps=found.steps[kept], times=found.times[kept], values=found.values[kept]
        )

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
        self, sheet: str, numbers: Sequence[int], names: Sequence[str]
    ) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """For each name the place of its number, -1 if it is not there."""
        called = self._called(sheet)
        place = {called.get(number, ""): at for at, number in enumerate(numbers)}
        return np.array([place.get(name, -1) for name in names], np.intp)


def _between(bins: Bins, first: int, last: int) -> Bins:
    """Those that begin between these steps."""
    within = (bins.starts >= first) & (bins.starts <= last)
    return bins if within.all() else bins.at(within)


def _blob(value: SqlValue) -> bytes:
    return value if isinstance(value, bytes) else b""
