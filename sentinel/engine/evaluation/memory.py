"""Operators that remember earlier steps: windows, and detectors for all elements of a number."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sentinel.engine import window
from sentinel.engine.detectors import Detector, build, copied
from sentinel.engine.evaluation.values import Operator, Source, Values
from sentinel.engine.language.expression import WARM, Score
from sentinel.engine.language.functions import held
from sentinel.engine.window import MAX_CELLS, RingWindow

_OF_A_DETECTOR = 64  # values that a detector takes as much memory as, besides its windows


class Room:
    """How many values all that remembers in a run may hold together."""

    def __init__(self, cells: int = 4 * MAX_CELLS) -> None:
        self._left = cells

    def take(self, cells: int) -> None:
        """Make use of so many more. Raises `MemoryError` when there are not that many left."""
        if cells > self._left:
            raise MemoryError("the windows of all rules together hold too many values")
        self._left -= cells


class Past:
    """The window of a number: its finite values before this step."""

    def __init__(self, of: Operator[Values], length: int, room: Room) -> None:
        self._of = of
        self._ring = RingWindow(length)
        self._warm = min(WARM, length)
        self._used: Source | None = None
        self._room = room

    def over(self, statistic: window.Statistic, source: Source) -> Values:
        """A statistic of the window, missing where it is not warm."""
        self._use(source)
        return Values(self._ring.over(statistic), np.asarray(self._ring.count < self._warm))

    def count(self, source: Source) -> Values:
        """How many values it holds, which is always known."""
        self._use(source)
        return Values(self._ring.count.astype(float), np.zeros(self._ring.count.shape, bool))

    def _use(self, source: Source) -> None:
        shape = self._of(source).values.shape
        if shape != self._ring.count.shape:
            self._room.take((int(np.prod(shape)) - self._ring.count.size) * self._ring.length)
            self._ring.grow(shape)
        self._used = source

    def learn(self, source: Source) -> None:
        """Take in this step's values, if this step has used the window.

        When it has not, the rules that use it have been switched off.
        """
        if self._used is source:
            values, missing = self._of(source)
            self._ring.push(values, np.isfinite(values) & ~missing)

    @property
    def cells(self) -> int:
        """How many values there is room for."""
        return self._ring.count.size * self._ring.length

    def remember(self) -> RingWindow:
        """A copy of its values."""
        return self._ring.copy()

    def recall(self, memory: object) -> None:
        """Take these values for its own; if they are none, begin anew."""
        before = self.cells
        self._ring = memory if isinstance(memory, RingWindow) else RingWindow(self._ring.length)
        self._room.take(self.cells - before)

    def inherit(self, values: Iterable[float], axes: int) -> None:
        """Take in what the first element, along so many axes, has been, unless more is known."""
        for value in () if self._ring.count.any() else values:
            self._ring.push(np.full((1,) * axes, value), np.ones((1,) * axes, bool))


class Scores:
    """A detector for each element of a number."""

    def __init__(self, node: Score, room: Room) -> None:
        self._name, self._parameters = node.detector, dict(node.parameters)
        self._cells = _OF_A_DETECTOR + 2 * held(node)
        self._room = room
        self._shape: tuple[int, ...] | None = None
        self._places: dict[tuple[int, ...], Detector] = {}
        self._detectors: list[Detector] = []  # in the order of an array's elements

    def of(self, number: Operator[Values], source: Source) -> Values:
        """The score of each element, missing where its detector is not warm."""
        values, missing = number(source)
        if self._shape != values.shape:
            self._grow(values.shape)
        told = np.where(missing, np.nan, values).reshape(-1).tolist()
        found = [one.update(value) for one, value in zip(self._detectors, told, strict=True)]
        scores = np.array(found, float).reshape(values.shape)
        return Values(scores, missing | (np.isnan(scores) & np.isfinite(values)))

    def _grow(self, shape: tuple[int, ...]) -> None:
        """Make detectors for the elements that are new."""
        self._room.take((int(np.prod(shape)) - len(self._places)) * self._cells)
        for place in np.ndindex(shape):
            if place not in self._places:
                self._places[place] = build(self._name, self._parameters)
        self._shape = shape
        self._detectors = [self._places[place] for place in np.ndindex(shape)]

    @property
    def cells(self) -> int:
        """How many values all detectors may hold."""
        return len(self._places) * self._cells

    def remember(self) -> dict[tuple[int, ...], Detector]:
        """A copy of the detectors."""
        return {place: copied(one) for place, one in self._places.items()}

    def recall(self, memory: object) -> None:
        """Take these detectors for its own; if they are none, begin anew."""
        before = self.cells
        self._places = memory if isinstance(memory, dict) else {}
        self._shape = None
        self._room.take(self.cells - before)

    def inherit(self, detector: Detector, axes: int) -> None:
        """Take over the detector of the first element, along so many axes, unless it has one."""
        self._places.setdefault((0,) * axes, detector)
        self._shape = None
