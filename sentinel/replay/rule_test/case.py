"""What a test of rules says: a made-up run, and what is expected of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sentinel.engine.rule import Rule
from sentinel.replay.rule_test.notation import NamedSeries, Value

How = Literal["stuck", "silent", "lost", "failed", "finished"]


@dataclass(frozen=True)
class End:
    """What becomes of a rank after the last step that it does.

    "stuck": its heart beats on, and the others wait for it; "silent": nothing more is heard of it,
    though its connection stays; "lost": its connection ends without a word; "failed": its script
    ends with an exception; "finished": it ends as it should.
    """

    step: int
    how: How


@dataclass(frozen=True)
class Saving:
    """A script that saves a checkpoint `every` so many steps and keeps the last `keep`."""

    every: int
    keep: int


@dataclass(frozen=True)
class ExpectedAlert:
    """An alert that must be firing: all of its labels, and those texts that are given."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class AtMoment:
    """The alerts of one rule that must fire at one moment, and no others of it.

    `step` is None where a time was given.
    """

    line: int
    rule: str
    step: int | None
    milliseconds: int
    alerts: tuple[ExpectedAlert, ...]


@dataclass(frozen=True)
class Steps:
    """Steps from `first` to `last`, both included; to the end if that is infinite."""

    first: int
    last: float = math.inf

    def __str__(self) -> str:
        if self.last == self.first:
            return str(self.first)
        return f"{self.first}-{'' if math.isinf(self.last) else int(self.last)}"


@dataclass(frozen=True)
class Throughout:
    """At which steps rules must fire, for any labels; all others never."""

    line: int
    firing: Mapping[str, tuple[Steps, ...]]


@dataclass(frozen=True)
class Case:
    """One test. `interval` is the milliseconds that a step takes; the first begins at time 0."""

    name: str
    line: int
    rules: tuple[Rule, ...]
    interval: int
    ranks: int
    series: Mapping[NamedSeries, tuple[Value, ...]]
    ends: Mapping[int, End]
    saving: Saving | None
    moments: tuple[AtMoment, ...]
    throughout: Throughout | None

    @property
    def steps(self) -> int:
        """How many steps the longest series has."""
        return max(len(values) for values in self.series.values())

    @property
    def length(self) -> int:
        """How many milliseconds of the run are looked at."""
        ends = [moment.milliseconds for moment in self.moments]
        named = self.throughout.firing.values() if self.throughout else ()
        for steps in (one for ranges in named for one in ranges):
            ends.append(self.interval * int(steps.first if math.isinf(steps.last) else steps.last))
        return max(self.interval * self.steps, *ends, 0)
