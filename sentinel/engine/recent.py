"""The newest steps: what is measured only at some of them is in one of these."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel.engine.step import JudgedStep

MOST = 4  # ways in which the frames of a run lack values, of each of which one step is kept


class RecentSteps:
    """The `last` judged step, and of steps that lacked other values the newest too.

    `judged` costs one entry in a small table.
    """

    def __init__(self) -> None:
        self.last: JudgedStep | None = None
        self._number = 0
        self._steps: dict[bytes, tuple[int, JudgedStep]] = {}  # the newest last

    def judged(self, step: JudgedStep, number: int) -> None:
        """Take in a step. One that went back begins anew."""
        if number <= self._number:
            self._steps.clear()
        self._number, self.last = number, step
        lacks = step.lacks
        self._steps.pop(lacks, None)
        self._steps[lacks] = number, step
        if len(self._steps) > MOST:
            del self._steps[next(iter(self._steps))]

    def within(self, steps: int) -> Iterator[JudgedStep]:
        """Those done no more than so many steps ago, the newest first."""
        for number, step in reversed(self._steps.values()):
            if self._number - number <= steps:
                yield step
