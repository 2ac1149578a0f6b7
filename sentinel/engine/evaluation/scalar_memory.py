"""What single numbers are remembered by: a window, or a detector, of one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from sentinel.engine.detectors import Detector, build
from sentinel.engine.language.expression import WARM, Score, Window
from sentinel.engine.window import SortedWindow

Row = Mapping[str, float]  # by `scalar.key`, for what was measured
NumberFunction = Callable[[Row], "float | None"]  # None: missing


class Scoring:
    """A detector of one number, and its score at this step, which is None where it is not warm."""

    __slots__ = ("_node", "_of", "memory", "value")

    def __init__(self, node: Score, of: NumberFunction) -> None:
        self._node = node
        self._of = of
        self.value: float | None = None
        self.memory: Detector = self.fresh()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known yet, which only the detector itself could say."""
        return False

    def fresh(self) -> Detector:
        """What it knows at first."""
        return build(self._node.detector, dict(self._node.parameters))

    def take(self, row: Row) -> None:
        """Score this step's value, and learn from it."""
        value = self._of(row)
        if value is None:
            self.memory.update(math.nan)
            self.value = None
            return
        score = self.memory.update(value)
        self.value = None if score != score and math.isfinite(value) else score


class Past:
    """The window of a number: its finite values before this step."""

    __slots__ = ("_coming", "_length", "_of", "memory", "warm")

    def __init__(self, node: Window, of: NumberFunction) -> None:
        self._length = node.length
        self._of = of
        self._coming: float | None = None
        self.warm = min(WARM, node.length)
        self.memory: SortedWindow = self.fresh()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known yet."""
        return not len(self.memory)

    def fresh(self) -> SortedWindow:
        """What it knows at first."""
        return SortedWindow(self._length)

    def take(self, row: Row) -> None:
        """Note this step's value, for when the step has been judged."""
        self._coming = self._of(row)

    def learn(self) -> None:
        """Let this step's value in."""
        value = self._coming
        if value is not None and math.isfinite(value):
            self.memory.push(value)
