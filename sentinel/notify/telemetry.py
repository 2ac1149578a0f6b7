"""What was measured around the beginning of an incident, and where a receiver gets it from."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from msgspec import Struct

from sentinel.notify.notice import Notice

# Of these it is the slow rank that has little, and the others that have what is not normal.
WAITING = frozenset({"exposed_communication_seconds", "collective_seconds"})


class Course(Struct, frozen=True):
    """One signal, step by step: `values` of the rank that is blamed, or else over all ranks.

    `low` and `high` are the least and the most that any other rank had, empty where nothing is to
    be compared. NaN or infinity in `values` was measured; in `low` and `high` NaN is nothing.
    `odd` are the steps at which another rank had something that is not finite.
    """

    signal: str
    label: str = ""
    unit: str = "1"
    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    odd: tuple[int, ...] = ()

    def at(self, step: int, otherwise: float) -> float:
        """The value at a step, if it is known."""
        return self.values[self.steps.index(step)] if step in self.steps else otherwise

    def others_at(self, step: int) -> tuple[float, ...]:
        """The least and the most that others had at a step; nothing if that is not known."""
        if not self.low or step not in self.steps:
            return ()
        place = self.steps.index(step)
        found = (self.low[place], self.high[place])
        return found if all(map(math.isfinite, found)) else ()


class Normal(Struct, frozen=True):
    """Where a signal was in the `count` steps before the incident: its median, and 1% and 99%."""

    median: float
    low: float
    high: float
    count: int


class Measured(Struct, frozen=True):
    """What a chart is made of: the leading signal first, then what everybody looks at.

    `normal` is the first course's; None: there was nothing to go by. `rank` is the one whose values
    these are, None: what ranks make together; `others` are how many there are besides.
    """

    courses: tuple[Course, ...] = ()
    normal: Normal | None = None
    rank: int | None = None
    others: int = 0


class Telemetry(Protocol):
    """Where it comes from. Never raises: what cannot be had is None, and the reason in the log."""

    async def around(self, notice: Notice) -> Measured | None:
        """What the ranks have reported around the beginning of an incident. May take seconds."""


@runtime_checkable
class Illustrates(Protocol):
    """A receiver that can show what was measured."""

    def illustrate(self, telemetry: Telemetry) -> None:
        """From now on, ask this for it."""
