"""How the ranks of a step differ: for people who look on, when they ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.step import JudgedStep
from sentinel.engine.window import Floats


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


def spread(step: JudgedStep, column: int | None = None) -> Spread:
    """The spread of what has no label, norms aside, or of one column of that. Costs as much as
    the step has ranks, and nothing while nobody asks."""
    plain = step.columns.plain
    if column is not None:
        plain = plain[plain == column]
    place = np.full(len(step.columns), -1, np.intp)
    place[plain] = np.arange(len(plain))
    rows = sum(len(block.slots) for block in step.blocks)
    values = np.full((rows, len(plain)), np.nan)
    known = np.zeros((rows, len(plain)), bool)
    slots = np.zeros(rows, np.intp)
    top = 0
    for block in step.blocks:
        mine = np.flatnonzero(place[block.layout.columns] >= 0)
        at = place[block.layout.columns[mine]]
        bottom = top + len(block.slots)
        slots[top:bottom] = block.slots
        values[top:bottom, at] = block.values[:, mine]
        known[top:bottom, at] = True if block.measured is None else block.measured[:, mine]
        top = bottom
    count = known.sum(axis=0)
    there = np.flatnonzero(count)
    values, known, count = values[:, there], known[:, there], count[there]
    with np.errstate(all="ignore"):
        at = np.where(known, values, -np.inf).argmax(axis=0)
        return Spread(
            plain[there],
            np.where(known, values, 0.0).sum(axis=0) / count,
            np.where(known, values, np.inf).min(axis=0),
            values[at, np.arange(len(there))],
            slots[at],
        )
