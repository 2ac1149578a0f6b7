"""One judged step, as it comes to the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentinel.store.bins import NOBODY, Counts, Singles

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


def is_of_ranks(sheet: str, column: str) -> bool:
    """Whether `greatest` made the name of this column; a label may be called anything."""
    return sheet == ALONE and column.endswith(_OF_RANK)


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


def ranks_of(
    sheet: str, names: Sequence[str], known: Sequence[str], values: Singles
) -> Counts | None:
    """Beside each named column of a sheet, for every row, the rank that had its greatest value.

    `values` are rows by `known` columns. None if nothing is known of ranks.
    """
    if sheet != ALONE:
        return None
    place = {name: at for at, name in enumerate(known)}
    at = np.array([place.get(greatest(name), -1) for name in names], np.intp)
    if (at < 0).all():
        return None
    told = values[:, np.maximum(at, 0)]
    is_known = np.isfinite(told) & (at >= 0)
    return np.where(is_known, np.where(is_known, told, 0).astype(np.int32), np.int32(NOBODY))
