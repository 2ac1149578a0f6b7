"""What series were over stretches of steps: the least, the greatest and the mean value of each.

Stretches are as long as a power of two and begin at its multiples, so that those of any length can
be put together from shorter ones, and the same step always falls into the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Steps = NDArray[np.int64]
Counts = NDArray[np.int32]
Kinds = NDArray[np.uint8]
Bools = NDArray[np.bool_]

# In a matrix of values, what was not measured is a NaN of its own; measured ones all look like
# numpy's.
_MISSING_BITS = np.uint32(0x7FC0DEAD)
MISSING = np.array([_MISSING_BITS]).view(np.float32)[0]
_LARGEST = float(np.finfo(np.float32).max)
NOBODY = -1
IS_NAN, IS_HIGH, IS_LOW = np.uint8(1), np.uint8(2), np.uint8(4)


def is_missing(values: Singles) -> Bools:
    """Which were not measured."""
    return np.asarray(np.ascontiguousarray(values).view(np.uint32) == _MISSING_BITS)


def singles(values: NDArray[np.floating], missing: Bools) -> Singles:
    """Values in single precision, with `MISSING` where they are.

    What is finite stays finite: beyond the range of single precision it is the largest there is.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.astype(np.float32)
    odd = ~np.isfinite(found)
    if odd.any():
        over = odd & np.isfinite(values)
        found[over] = np.copysign(_LARGEST, values[over])
        found[np.isnan(found)] = np.nan
    found.view(np.uint32)[missing] = _MISSING_BITS
    return found


@dataclass(frozen=True, eq=False)
class Bins:
    """Stretches of steps: `starts` and `times` of their first measured steps, ascending.

    The others are matrices of stretches by series. `low`, `high` and `total` are of the `count`
    finite values, infinite and 0 where there are none; `odd` counts those that are not finite, and
    `kinds` says which there are of `IS_NAN`, `IS_HIGH` (infinity) and `IS_LOW`;
    `rank` is which one had the greatest value (or, if none is finite, one that is not), -1 where
    that is not known.
    """

    starts: Steps
    times: Floats
    low: Singles
    high: Singles
    total: Floats
    count: Counts
    odd: Counts
    kinds: Kinds
    rank: Counts

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, starts: Steps, times: Floats, values: Singles, rank: Counts | None) -> Bins:
        """Every step by itself. `values` are steps by series."""
        finite = np.isfinite(values)
        odd = ~finite & ~is_missing(values)
        kinds = np.where(odd, IS_NAN, np.uint8(0))
        kinds[values == np.inf] = IS_HIGH
        kinds[values == -np.inf] = IS_LOW
        if rank is None:
            rank = np.full(values.shape, NOBODY, np.int32)
        return cls(
            starts,
            times,
            np.where(finite, values, np.float32(np.inf)),
            np.where(finite, values, np.float32(-np.inf)),
            np.where(finite, values, np.float32(0)).astype(np.float64),
            finite.astype(np.int32),
            odd.astype(np.int32),
            kinds,
            rank,
        )

    @classmethod
    def none(cls, series: int) -> Bins:
        """Of no step at all."""
        return cls.of(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, series), np.float32), None)

    def merged(self, length: int) -> Bins:
        """The same in stretches of `length` steps, a power of two no shorter than they are now."""
        if not len(self):
            return self
        key = self.starts // length
        begins = np.flatnonzero(np.diff(key, prepend=key[0] - 1))
        if len(begins) == len(key):
            return self
        high = np.maximum.reduceat(self.high, begins)
        return Bins(
            self.starts[begins],
            self.times[begins],
            np.minimum.reduceat(self.low, begins),
            high,
            np.add.reduceat(self.total, begins),
            np.add.reduceat(self.count, begins),
            np.add.reduceat(self.odd, begins),
            np.bitwise_or.reduceat(self.kinds, begins),
            self._ranks(begins, high),
        )

    def _ranks(self, begins: NDArray[np.intp], high: Singles) -> Counts:
        """The rank of the first greatest value of each stretch."""
        if (self.rank == NOBODY).all():
            return np.full(high.shape, NOBODY, np.int32)
        lengths = np.diff(begins, append=len(self.starts))
        greatest = (self.high == np.repeat(high, lengths, axis=0)) & ((self.count + self.odd) > 0)
        at = np.where(greatest, np.arange(len(self.starts))[:, None], len(self.starts) - 1)
        first = np.minimum.reduceat(at, begins)
        return np.asarray(np.take_along_axis(self.rank, first, axis=0))

    def at(self, kept: Bools | NDArray[np.intp]) -> Bins:
        """Some of the stretches: which, or where."""
        return Bins(
            self.starts[kept],
            self.times[kept],
            self.low[kept],
            self.high[kept],
            self.total[kept],
            self.count[kept],
            self.odd[kept],
            self.kinds[kept],
            self.rank[kept],
        )

    def columns(self, at: NDArray[np.intp]) -> Bins:
        """Some of the series; -1 is one that nothing is known of."""
        known = at >= 0
        if len(known) == self.low.shape[1] and (at == np.arange(len(at))).all():
            return self
        empty = Bins.of(
            self.starts,
            self.times,
            np.full((len(self), len(at)), MISSING, np.float32),
            None,
        )
        for name in ("low", "high", "total", "count", "odd", "kinds", "rank"):
            getattr(empty, name)[:, known] = getattr(self, name)[:, at[known]]
        return empty

    def sorted(self) -> Bins:
        """By their first step."""
        order = np.argsort(self.starts, kind="stable")
        if (order == np.arange(len(order))).all():
            return self
        return self.at(order)

    @property
    def mean(self) -> Floats:
        """Of the finite values; NaN where there are none."""
        with np.errstate(all="ignore"):
            return np.asarray(self.total / self.count)


def joined(parts: list[Bins], series: int) -> Bins:
    """Stretches one after the other."""
    if not parts:
        return Bins.none(series)
    if len(parts) == 1:
        return parts[0]
    return Bins(
        np.concatenate([one.starts for one in parts]),
        np.concatenate([one.times for one in parts]),
        np.concatenate([one.low for one in parts]),
        np.concatenate([one.high for one in parts]),
        np.concatenate([one.total for one in parts]),
        np.concatenate([one.count for one in parts]),
        np.concatenate([one.odd for one in parts]),
        np.concatenate([one.kinds for one in parts]),
        np.concatenate([one.rank for one in parts]),
    )
