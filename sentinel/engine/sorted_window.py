"""The last values of a single series, in order of size."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator

_NEARBY = 6  # places that are tried before a search from the start
_PATIENT = 16  # values that wait to be put in order until somebody asks
_ANEW = 16  # all are put in order anew where at least one in so many is new


class SortedWindow:
    """The last `length` values of one series, kept in order of size as well as of arrival.

    Values wait until somebody asks for what depends on their order, so that a window of which
    nobody asks anything costs next to nothing.

    >>> window = SortedWindow(3)
    >>> for x in (9.0, 1.0, 2.0, 4.0):
    ...     window.push(x)
    >>> len(window), window.median(), window.mad(), window.quantile(0.75), list(window)
    (3, 2.0, 1.0, 3.0, [1.0, 2.0, 4.0])
    """

    __slots__ = ("_arrived", "_first", "_sorted", "_waiting", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self._arrived: deque[float] = deque(maxlen=length)
        self._sorted: list[float] = []  # of those that have arrived: all of them, or none
        self._waiting: list[float] = []  # to arrive
        self._first = 0  # of the values nearest to the median, where they began last

    def __len__(self) -> int:
        count = len(self._arrived) + len(self._waiting)
        return count if count < self.length else self.length

    def __iter__(self) -> Iterator[float]:
        """The values from the oldest to the newest."""
        if self._sorted:
            self._settle()
        else:  # it may be that only this is ever asked
            self._arrived.extend(self._waiting)
            self._waiting.clear()
        return iter(self._arrived)

    def copy(self) -> SortedWindow:
        """Floats never change: lists of references are all that a copy takes."""
        other = SortedWindow(self.length)
        other._arrived, other._sorted = self._arrived.copy(), self._sorted.copy()
        other._waiting, other._first = self._waiting.copy(), self._first
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> SortedWindow:
        return self.copy()

    def push(self, value: float) -> None:
        """Take in a value, which is no NaN."""
        waiting = self._waiting
        waiting.append(value)
        if len(waiting) > _PATIENT:
            self._arrived.extend(waiting)
            waiting.clear()
            self._sorted.clear()

    def let_in(self, value: float) -> list[float]:
        """Take in a value at once. Returns all in order of size, as `ordered` does."""
        ordered, arrived = self._sorted, self._arrived
        if self._waiting or not ordered:
            self._waiting.append(value)
            return self.ordered()
        if len(ordered) == self.length:
            del ordered[bisect_left(ordered, arrived[0])]
        arrived.append(value)
        insort(ordered, value)
        return ordered

    def clear(self) -> None:
        """Forget all values."""
        self._waiting.clear()
        self._arrived.clear()
        self._sorted.clear()

    def ordered(self) -> list[float]:
        """The values in order of size; not to be changed."""
        if self._waiting or not self._sorted:
            self._settle()
        return self._sorted

    def _settle(self) -> None:
        """Put what waits in order, equal values in the order of their arrival."""
        waiting, arrived, ordered = self._waiting, self._arrived, self._sorted
        length = self.length
        if _ANEW * len(waiting) >= length or not ordered:
            arrived.extend(waiting)
            self._sorted = sorted(arrived)
        else:
            full = len(ordered) == length
            for value in waiting:
                if full:
                    del ordered[bisect_left(ordered, arrived[0])]
                arrived.append(value)
                insort(ordered, value)
                full = full or len(ordered) == length
        waiting.clear()

    # Of an empty window there is nothing to tell: the callers ask for its length first.

    def low(self) -> float:
        return self.ordered()[0]

    def high(self) -> float:
        return self.ordered()[-1]

    def mean(self) -> float:
        ordered = self.ordered()
        return sum(ordered) / len(ordered)

    def std(self) -> float:
        """The standard deviation of the population, not a sample."""
        ordered = self.ordered()
        center, count = sum(ordered) / len(ordered), len(ordered)
        squares = [(distance := value - center) * distance for value in ordered]
        return math.sqrt(sum(squares) / count)

    def median(self) -> float:
        return median_of(self.ordered())

    def quantile(self, share: float) -> float:
        """Between two values by linear interpolation, as numpy's default."""
        return quantile_of(self.ordered(), share)

    def mad(self) -> float:
        """The median distance from the median, unscaled; in O(log n) at worst."""
        values = self.ordered()
        return self._median_distance(values, median_of(values))

    def _median_distance(self, values: list[float], center: float) -> float:
        count = len(values)
        near = (count + 1) // 2  # so many values are the nearest to the center, and lie together
        last = count - near  # at most so many lie below them
        # One push moves that block by little: look where it was before, then next to it.
        first = self._first if self._first < last else last
        for _ in range(_NEARBY):
            lowest, highest = center - values[first], values[first + near - 1] - center
            below = center - values[first - 1] if first else math.inf
            above = values[first + near] - center if first < last else math.inf
            if lowest > above:
                first += 1
            elif below <= highest:
                first -= 1
            else:
                self._first = first
                within = lowest if lowest > highest else highest
                if count % 2:
                    return within
                return (within + (below if below < above else above)) / 2
        self._first = _search(values, center, near, last)
        return self._median_distance(values, center)


def _search(values: list[float], center: float, near: int, last: int) -> int:
    """How many values lie below those that are the nearest to the center, by halving."""
    first = 0
    while first < last:
        middle = (first + last) // 2
        if center - values[middle] > values[middle + near] - center:
            first = middle + 1
        else:
            last = middle
    return first


# Of values in order of size, of which there is one at least.


def median_of(ordered: list[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    count = len(ordered)
    half = count >> 1
    return ordered[half] if count & 1 else (ordered[half - 1] + ordered[half]) / 2


def quantile_of(ordered: list[float], share: float) -> float:
    """Between two values by linear interpolation, as numpy's default."""
    at = share * (len(ordered) - 1)
    below = int(at)
    low = ordered[below]
    if at == below:
        return low
    return low + (ordered[below + 1] - low) * (at - below)


def most_mad(ordered: list[float], center: float) -> float:
    """What the median distance from this center is not above, found at once.

    It is how far half of the values lie from it, those from the first quarter on.
    """
    count = len(ordered)
    first = count >> 2
    last = first + ((count + 1) >> 1)
    if last >= count:
        return math.inf
    below, above = center - ordered[first], ordered[last] - center
    return below if below > above else above
