"""What was known of earlier steps, put aside now and then for a run that goes back.

A rollback, or a restart from a checkpoint, takes the run back to an earlier step. Its baselines
then go on from what they were there: the values of the steps that are done again do not enter
them twice, nor do those of an excursion that the run went back for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sentinel.engine.language.expression import Score, Window

EVERY = 100  # judged steps
MOST = 16  # snapshots
FEWEST = 4  # of which none are taken where there is no room for so many
MAX_CELLS = 2_000_000  # values that all snapshots of a run may hold together: some 30 MB

Memory = Mapping[Window | Score, object]


class Remembering(Protocol):
    """What has a memory of earlier steps; `cells` is how many values it may hold by now."""

    @property
    def cells(self) -> int: ...

    def remember(self) -> Memory:
        """A copy of it."""
        ...

    def recall(self, memory: Memory) -> None:
        """Go on from such a copy, which stays as it is; what it does not have begins anew."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """What was known when this step had been judged."""

    step: int
    cells: int
    memories: tuple[Memory, ...]


class Snapshots:
    """Those of one run: few of the distant past, more of the last steps."""

    def __init__(self, parts: Sequence[Remembering]) -> None:
        self._parts = parts
        self._kept: list[Snapshot] = []  # in the order of their steps
        self._since = 0  # steps judged since the last one

    @property
    def steps(self) -> list[int]:
        """The steps that there are snapshots of."""
        return [one.step for one in self._kept]

    def judged(self, step: int) -> None:
        """A step has been judged: take a snapshot if one is due."""
        self._since += 1
        if self._since < EVERY:
            return
        self._since = 0
        cells = sum(part.cells for part in self._parts)
        if cells * FEWEST > MAX_CELLS:
            self._kept.clear()
            return
        memories = tuple(part.remember() for part in self._parts)
        self._kept.append(Snapshot(step, cells, memories))
        while len(self._kept) > MOST or sum(one.cells for one in self._kept) > MAX_CELLS:
            self._thin()

    def _thin(self) -> None:
        """Give up the one whose loss leaves the smallest gap, for its age."""
        steps = [0, *self.steps]
        gaps = [
            (steps[at + 1] - steps[at - 1]) / (steps[-1] - steps[at - 1])
            for at in range(1, len(steps) - 1)
        ]
        del self._kept[gaps.index(min(gaps))]

    def go_back(self, step: int) -> None:
        """The run is about to do this step (again): go on from the last snapshot before it."""
        while self._kept and self._kept[-1].step >= step:
            self._kept.pop()
        self._since = 0
        memories = self._kept[-1].memories if self._kept else ({},) * len(self._parts)
        for part, memory in zip(self._parts, memories, strict=True):
            part.recall(memory)
