"""One judged step, as it comes to the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentinel.store.bins import Counts, Singles

ALONE = ""  # the sheet of all signals without a label
_BY_RANK = " by rank"
_OF_RANK = " rank"


def by_rank(signal: str) -> str:
    """The sheet of every rank's own values of a signal, whose columns are called by the ranks."""
    return signal + _BY_RANK


def signal_of(sheet: str) -> str | None:
    """The signal that `by_rank` made this sheet of, None if it is no such sheet."""
    return sheet.removesuffix(_BY_RANK) if sheet.endswith(_BY_RANK) else None


def greatest(signal: str) -> str:
    """The column, beside that of the signal, that says which rank had the greatest value."""
    return signal + _OF_RANK


def is_of_ranks(column: str) -> bool:
    """Whether `greatest` made the name of this column."""
    return column.endswith(_OF_RANK)


class Part(NamedTuple):
    """A sheet: what its columns are called, and their places in a row."""

    sheet: str
    columns: tuple[str, ...]
    places: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Form:
    """What the values of a row are: one for all rows that are alike."""

    parts: tuple[Part, ...]


class Row(NamedTuple):
    """One judged step at `now` (s since 1970); `values` has `bins.MISSING` for what is missing."""

    step: int
    now: float
    values: Singles
    form: Form


def with_ranks(columns: list[str], values: Singles, nobody: int) -> tuple[list[int], Counts | None]:
    """Which columns are of values, and beside each of these, for every row, the rank that had it.

    None if nothing is known of ranks.
    """
    kept = [at for at, name in enumerate(columns) if not is_of_ranks(name)]
    if len(kept) == len(columns):
        return kept, None
    place = {name: at for at, name in enumerate(columns)}
    rank = np.full((len(values), len(kept)), nobody, np.int32)
    for at, column in enumerate(kept):
        of = place.get(greatest(columns[column]))
        if of is not None:
            told = values[:, of]
            known = np.isfinite(told)
            rank[known, at] = told[known].astype(np.int32)
    return kept, rank
