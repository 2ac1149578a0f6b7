"""What is said of a signal: its name, its unit, and how ranks combine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reduction(str, Enum):
    """How one series becomes one number from the values of all ranks that reported it."""

    MEAN = "mean"
    SUM = "sum"
    MAX = "max"
    ROOT_SUM = "root_sum"  # ranks send sums of squares of their shards; the result is a 2-norm


class Stage(int, Enum):
    """Where in a step a quantity arises: what is earlier can be the cause of what is later."""

    FORWARD = 0
    LOSS = 1
    BACKWARD = 2
    REDUCTION = 3
    OPTIMIZER = 4
    AROUND = 5


@dataclass(frozen=True)
class Signal:
    """One named quantity.

    `label` names the one label its series carry besides the rank ("layer"), or is empty.
    `made_by` is "rank" for what probes measure, "derived" for what follows from such signals when
    a step is judged (see engine.derived), "engine" for what the daemon knows by itself.
    `sporadic`: measured only when it happens, so that its silence says nothing.
    """

    name: str
    unit: str
    reduction: Reduction
    stage: Stage
    help: str
    label: str = ""
    made_by: str = "rank"
    sporadic: bool = False
