"""The last values of many series at once; of a single one see `sorted_window.py`.

An element is one label set of a number: a layer, a rank, a layer on a rank. Elements have the shape
of the number's axes, which only ever grow; each has its own count, since any of them may miss a
step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.intp]
Shape = tuple[int, ...]
Statistic = Callable[[Floats], Floats]  # of each row of (elements, values), oldest value first
_Kind = TypeVar("_Kind", bound=np.generic)

MAX_CELLS = 16_000_000  # float64 values in one ring buffer, 128 MB


def enlarged(array: NDArray[_Kind], shape: Shape) -> NDArray[_Kind]:
    """The array in the low corner of a larger one of zeros."""
    larger = np.zeros(shape, array.dtype)
    larger[tuple(slice(0, size) for size in array.shape)] = array
    return larger


class RingWindow:
    """The last `length` admitted values of each element.

    >>> ring = RingWindow(2)
    >>> for x in (1.0, 2.0, 4.0):
    ...     ring.push(np.array([x, -x]), np.array([True, x < 3]))
    >>> ring.count, ring.over(mean)
    (array([2, 2]), array([ 3. , -1.5]))
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._cells: Floats = np.zeros((0, length))  # elements, flattened, by position in the ring
        self._next: NDArray[np.int64] = np.zeros(0, np.int64)
        self.count: NDArray[np.int64] = np.zeros(0, np.int64)

    def copy(self) -> RingWindow:
        """Another window of the same values."""
        other = RingWindow(self.length)
        other._cells, other._next = self._cells.copy(), self._next.copy()
        other.count = self.count.copy()
        return other

    def push(self, values: Floats, admit: Bools) -> None:
        """Take in the values of the elements that are admitted. Raises `MemoryError` past a limit.

        `values` and `admit` have one shape, at least as large in every axis as the last one.
        """
        self.grow(values.shape)
        rows = np.reshape(admit, -1).nonzero()[0]
        if not rows.size:
            return
        following, count = self._next.reshape(-1), self.count.reshape(-1)
        at = following[rows]
        self._cells.reshape(-1, self.length)[rows, at] = np.reshape(values, -1)[rows]
        following[rows] = (at + 1) % self.length
        count[rows] = np.minimum(count[rows] + 1, self.length)

    def grow(self, shape: Shape) -> None:
        """Make room for elements of this shape; what is new starts empty."""
        if shape == self.count.shape:
            return
        if int(np.prod(shape)) * self.length > MAX_CELLS:
            raise MemoryError(
                f"a window of {self.length} steps over {int(np.prod(shape))} elements exceeds "
                f"{MAX_CELLS} values"
            )
        if self.count.ndim != len(shape):  # the first time: the number of axes is known only now
            self._cells = np.zeros((*(0 for _ in shape), self.length))
            self._next = np.zeros(tuple(0 for _ in shape), np.int64)
            self.count = self._next.copy()
        self._cells = enlarged(self._cells, (*shape, self.length))
        self._next = enlarged(self._next, shape)
        self.count = enlarged(self.count, shape)

    def over(self, statistic: Statistic) -> Floats:
        """The statistic of each element's values, NaN where there are none."""
        cells = self._cells.reshape(-1, self.length)
        counts = self.count.reshape(-1)
        if statistic in _IN_ORDER:
            cells = self._in_order(cells)
        if counts.size and counts[0] and (counts == counts[0]).all():
            return statistic(cells[:, : counts[0]]).reshape(self.count.shape)
        result = np.full(counts.shape, np.nan)
        for count in np.unique(counts[counts > 0]):  # a ring is filled from its start
            rows = counts == count
            result[rows] = statistic(cells[rows, :count])
        return result.reshape(self.count.shape)

    def _in_order(self, cells: Floats) -> Floats:
        """Each row from its oldest value to its newest, which no other statistic asks for."""
        oldest = np.where(self.count == self.length, self._next, 0).reshape(-1, 1)
        order: NDArray[np.int64] = (oldest + np.arange(self.length)) % self.length
        return np.take_along_axis(cells, order, axis=-1)

    def replace(self, other: RingWindow, rows: Bools) -> None:
        """Take over the other window's values for these elements; lengths and shapes are equal."""
        self._cells[rows] = other._cells[rows]
        self._next[rows] = other._next[rows]
        self.count[rows] = other.count[rows]

    def clear(self, rows: Bools) -> None:
        """Forget the values of these elements."""
        self._next[rows] = 0
        self.count[rows] = 0


def mean(values: Floats) -> Floats:
    """The mean of each row."""
    return np.asarray(values.mean(axis=-1))


def std(values: Floats) -> Floats:
    """The standard deviation of each row (of the population, not a sample)."""
    return np.asarray(values.std(axis=-1))


def low(values: Floats) -> Floats:
    """The least of each row."""
    return np.asarray(values.min(axis=-1))


def high(values: Floats) -> Floats:
    """The greatest of each row."""
    return np.asarray(values.max(axis=-1))


def median(values: Floats) -> Floats:
    """The median of each row, none of which holds a NaN (which numpy's own spends time on)."""
    half, odd = divmod(values.shape[-1], 2)
    ordered = np.sort(values, axis=-1)
    return ordered[..., half] if odd else (ordered[..., half - 1] + ordered[..., half]) / 2


def quantile(values: Floats, share: float) -> Floats:
    """What this share of each row lies below: between two values by linear interpolation."""
    ordered = np.sort(values, axis=-1)
    at = share * (values.shape[-1] - 1)
    below = int(at)
    low: Floats = ordered[..., below]
    if at == below:
        return low
    high: Floats = ordered[..., below + 1]
    return np.asarray(low + (high - low) * (at - below))


def median_absolute_deviation(values: Floats) -> Floats:
    """The median distance from the median, unscaled (1.4826 times it estimates a deviation)."""
    return median(np.abs(values - median(values)[..., None]))


def slope(values: Floats) -> Floats:
    """By how much each row rises from one value to the next: the median slope of pairs of values.

    The estimator of Theil (1950) and Sen (1968), over all pairs of values, or of 100 that are
    evenly spread over a longer row. A few outliers do not move it, nor one jump unless in the
    middle of the row. NaN where there is only one value.
    """
    from scipy.stats import theilslopes  # takes a second to import, and few rules ask for it

    length = values.shape[-1]
    if length < 2:
        return np.full(values.shape[:-1], np.nan)
    at = _spread(length, 100)
    rows = values[..., at].reshape(-1, len(at))
    return np.array([theilslopes(row, at).slope for row in rows]).reshape(values.shape[:-1])


def rough_slope(values: Floats) -> Floats:
    """The same over at most 16 values of each row, of all rows at once: for many rows."""
    length = values.shape[-1]
    if length < 2:
        return np.full(values.shape[:-1], np.nan)
    at, first, second = _pairs(length)
    rise = values[..., at[second]] - values[..., at[first]]
    return median(rise / (at[second] - at[first]))


def _spread(length: int, points: int) -> Places:
    """Places in a row of this length, evenly spread."""
    return np.linspace(0, length - 1, min(length, points)).astype(np.int64)


@lru_cache(maxsize=64)
def _pairs(length: int) -> tuple[Places, Places, Places]:
    """Places in a row of this length, and of each pair of them the two."""
    at = _spread(length, 16)
    first, second = np.triu_indices(len(at), 1)
    return at, first, second


_IN_ORDER = frozenset({slope, rough_slope})
