"""What single numbers are remembered by: a window, or a detector, of one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sentinel.engine.detectors import DETECTORS, Deferring, Detector, build, copied
from sentinel.engine.language.expression import WARM, Score, Window
from sentinel.engine.sorted_window import SortedWindow

Memory = Detector | SortedWindow
Row = Mapping[str, float]  # by `scalar.key`, for what was measured
NumberFunction = Callable[[Row], "float | None"]  # None: missing


def copy_of(memory: Memory) -> Memory:
    """A copy that goes on as the original would, and apart from it."""
    return memory.copy() if isinstance(memory, SortedWindow) else copied(memory)


class Scoring:
    """A detector of one number. `bound` is what its score is not above at this step.

    It is None where the detector is not warm, or the number is missing.
    """

    __slots__ = ("_node", "bound", "memory")

    def __init__(self, node: Score) -> None:
        self._node = node
        self.bound: float | None = None
        self.memory: Detector = self.fresh()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known yet, which only the detector itself could say."""
        return False

    def fresh(self) -> Detector:
        """What it knows at first."""
        return build(self._node.detector, dict(self._node.parameters))

    @property
    def learns(self) -> Callable[[float], float]:
        """What takes in a value, and says what its score is not above."""
        return self.memory.update

    def score(self) -> float | None:
        """The score itself."""
        return self.bound


class DeferredScoring(Scoring):
    """The same of a detector that works out its score only where somebody asks for it."""

    __slots__ = ()

    memory: Deferring

    @property
    def learns(self) -> Callable[[float], float]:
        """What takes in a value, and says what its score is not above."""
        return self.memory.learn

    def score(self) -> float | None:
        """The score itself."""
        bound = self.bound
        return bound if bound is None or bound != bound else self.memory.score()


def scoring(node: Score) -> Scoring:
    """What keeps the score of a number."""
    defers = hasattr(DETECTORS[node.detector], "learn")
    return DeferredScoring(node) if defers else Scoring(node)


class Past:
    """The window of a number: its finite values before this step."""

    __slots__ = ("_length", "memory", "warm")

    def __init__(self, node: Window) -> None:
        self._length = node.length
        self.warm = min(WARM, node.length)
        self.memory: SortedWindow = self.fresh()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known yet."""
        return not len(self.memory)

    def fresh(self) -> SortedWindow:
        """What it knows at first."""
        return SortedWindow(self._length)


class Fed:
    """What takes in the same number at each step: scores at once, windows once it is judged."""

    __slots__ = ("coming", "number", "pasts", "scorings", "windows")

    def __init__(
        self,
        number: NumberFunction,
        scorings: Mapping[Score, Scoring],
        pasts: Mapping[Window, Past],
    ) -> None:
        self.number = number
        self.pasts = pasts
        self.coming: float | None = None
        self.scorings = [(node, one, one.learns) for node, one in scorings.items()]
        self.windows = [one.memory for one in pasts.values()]
