"""What is judged at one moment, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sentinel.engine.evaluation.scalar_memory import Row
from sentinel.engine.evaluation.values import Source
from sentinel.engine.layout import Axis
from sentinel.engine.rule import Alert, Key, Rule

Axes = Mapping[str, Axis]


@dataclass(frozen=True)
class Change:
    """An alert began to fire or resolved; `value` and `score` are those of this moment."""

    rule: Rule
    key: Key
    kind: Literal["fired", "resolved"]
    alert: Alert
    value: float = math.nan
    score: float = math.nan


class Moment(NamedTuple):
    """A step, or a time, that is judged: as single numbers, and as arrays."""

    row: Row
    source: Source
    axes: Axes
    step: int
    now: float
