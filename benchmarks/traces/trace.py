"""A synthetic run and what is expected of whoever watches it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal[
    "NonFinite", "LossSpike", "GradientExplosion", "Divergence", "Plateau", "ZeroLoss"
]  # what the names of rules have in them

_WORDS = {math.inf: "Infinity", -math.inf: "-Infinity"}


class Row(NamedTuple):
    """One logged row; None is what was not logged, NaN what was measured as NaN."""

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float | None


@dataclass(frozen=True)
class Event:
    """A fault. Rows count from 0 and are inclusive.

    Found if an alarm of one of `kinds` lies from row `start` to row `by`; until row `until` no
    alarm is false, since the fault or its aftermath goes on.
    """

    kinds: tuple[Kind, ...]
    start: int
    by: int
    until: int


@dataclass(frozen=True)
class Spared:
    """Rows in which `episodes` episodes of alarms are as right as none."""

    start: int
    until: int
    episodes: int = 1


@dataclass(frozen=True)
class Trace:
    """One run of a family. Outside `events` and `spared` every alarm is a false one."""

    family: str
    seed: int
    rows: tuple[Row, ...]
    events: tuple[Event, ...] = ()
    spared: tuple[Spared, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.family.replace(' ', '_').replace(',', '')}-{self.seed}"

    def write(self, folder: Path) -> Path:
        """As JSON lines. `time` is the number of the row, so that an alarm's row is known where
        steps repeat."""
        path = folder / f"{self.name}.jsonl"
        with path.open("w") as file:
            file.writelines(line + "\n" for line in self._lines())
        return path

    def _lines(self) -> Iterator[str]:
        for number, row in enumerate(self.rows):
            values = {name: _spelled(one) for name, one in row._asdict().items() if one is not None}
            yield json.dumps({**values, "time": float(number)})


def _spelled(value: float) -> float | str:
    return value if math.isfinite(value) else _WORDS.get(value, "NaN")
