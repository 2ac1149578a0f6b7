"""Mean and deviation of a moving window, in constant time and without cancellation."""

from __future__ import annotations

import math
from array import array
from typing import NamedTuple


class Moments(NamedTuple):
    """Of some values: how many, their mean, and the root of the sum of squared distances from it.

    The root is kept, and not the sum, so that values of 1e300 have finite moments too.

    >>> Moments.of(1.0) | Moments.of(2.0) | Moments.of(6.0)
    Moments(size=3, mean=3.0, spread=3.7416573867739413)
    """

    size: int = 0
    mean: float = 0.0
    spread: float = 0.0

    @classmethod
    def of(cls, value: float) -> Moments:
        """Those of a single value."""
        return cls(1, value, 0.0)

    @property
    def deviation(self) -> float:
        """The standard deviation (of the population, not a sample); of no values, 0."""
        return self.spread / math.sqrt(self.size) if self.size else 0.0

    def __or__(self, other: Moments) -> Moments:
        """Those of both together.

        Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances, 1979.
        """
        size = self.size + other.size
        if not self.size or not other.size:
            return self if self.size else other
        apart = other.mean - self.mean
        between = apart * math.sqrt(self.size * other.size / size)
        mean = self.mean + apart * (other.size / size)
        return Moments(size, mean, math.hypot(self.spread, other.spread, between))


class MovingMoments:
    """The moments of the last `length` values.

    Values are only ever added up, never taken away, so that a value of 1e9 that has left the
    window leaves no error behind: the window is an older half, of which the moments from each
    value to its end are known, and a newer half, of which those of all together are. When the
    older half is used up the newer takes its place.

    Source: the queue made of two stacks, as in Tangwongsan, Hirzel and Schneider, In-Order
    Sliding-Window Aggregation in Worst-Case Constant Time, 2021.

    >>> moving = MovingMoments(2)
    >>> for x in (1e9, 1.0, 3.0):
    ...     moving.push(x)
    >>> moving.moments().mean, moving.moments().deviation
    (2.0, 1.0)
    """

    __slots__ = ("_means", "_newer", "_newest", "_spreads", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        # Of the older half, by how many values there are from one to its end.
        self._means = array("d")
        self._spreads = array("d")
        self._newer = array("d")
        self._newest = Moments()  # of all of the newer half

    def __len__(self) -> int:
        return len(self._means) + len(self._newer)

    def copy(self) -> MovingMoments:
        """Another window of the same values."""
        other = MovingMoments(self.length)
        other._means, other._spreads = self._means[:], self._spreads[:]
        other._newer, other._newest = self._newer[:], self._newest
        return other

    def push(self, value: float) -> None:
        """Take in a value."""
        if len(self) == self.length:
            if not self._means:
                self._turn_over()
            self._means.pop()
            self._spreads.pop()
        self._newer.append(value)
        self._newest |= Moments.of(value)

    def _turn_over(self) -> None:
        together = Moments()
        while self._newer:
            together |= Moments.of(self._newer.pop())
            self._means.append(together.mean)
            self._spreads.append(together.spread)
        self._newest = Moments()

    def moments(self) -> Moments:
        """Those of the whole window."""
        size = len(self._means)
        if not size:
            return self._newest
        return Moments(size, self._means[-1], self._spreads[-1]) | self._newest
