"""How the ranks of a step differ: for people who look on, when they ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.step import Block, JudgedStep
from sentinel.engine.window import Bools, Floats


@dataclass(frozen=True, eq=False)
class Spread:
    """Of series over the ranks that measured each: NaN where one of them is NaN.

    `columns` are those that any rank measured. `slots` say whose the greatest is: of several the
    first, of NaN the first that has it.
    """

    columns: NDArray[np.intp]
    mean: Floats
    least: Floats
    greatest: Floats
    slots: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Table:
    """What ranks measured themselves: `values[row]` of the rank in `slots[row]`, by `columns`."""

    columns: NDArray[np.intp]
    slots: NDArray[np.intp]
    values: Floats
    known: Bools | None  # None: all


def spread(step: JudgedStep, column: int | None = None) -> Spread:
    """The spread of what has no label, norms aside, or of one column of that. Costs as much as
    the step has ranks, and nothing while nobody asks."""
    tables = [_table(block, column) for block in step.blocks]
    table = tables[0] if len(tables) == 1 else _joined(tables)
    with np.errstate(all="ignore"):
        return _of_all(table) if table.known is None else _of_known(table, table.known)


def _table(block: Block, column: int | None) -> _Table:
    mine = block.layout.plain
    columns = block.layout.columns[mine]
    if column is not None:
        mine, columns = mine[columns == column], columns[columns == column]
    known = None if block.measured is None else block.measured[:, mine]
    return _Table(columns, block.slots, block.values[:, mine], known)


def _joined(tables: list[_Table]) -> _Table:
    columns, at = np.unique(np.concatenate([one.columns for one in tables]), return_inverse=True)
    slots = np.concatenate([one.slots for one in tables])
    values = np.full((len(slots), len(columns)), np.nan)
    known = np.zeros((len(slots), len(columns)), bool)
    row = place = 0
    for one in tables:
        rows, places = slice(row, row + len(one.slots)), at[place : place + len(one.columns)]
        values[rows, places] = one.values
        known[rows, places] = True if one.known is None else one.known
        row, place = row + len(one.slots), place + len(one.columns)
    return _Table(columns, slots, values, known)


def _of_all(table: _Table) -> Spread:
    values = table.values
    return Spread(
        table.columns,
        values.sum(axis=0) / len(values),
        values.min(axis=0),
        values.max(axis=0),
        table.slots[values.argmax(axis=0)],
    )


def _of_known(table: _Table, known: Bools) -> Spread:
    there = np.flatnonzero(known.any(axis=0))
    values, known = table.values[:, there], known[:, there]
    top = np.where(known, values, -np.inf)
    at = top.argmax(axis=0)
    at = np.where(known[at, np.arange(len(at))], at, known.argmax(axis=0))  # where all are -inf
    return Spread(
        table.columns[there],
        np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0),
        np.where(known, values, np.inf).min(axis=0),
        top.max(axis=0),
        table.slots[at],
    )
