"""What ranks of small jobs measure, and rules over it."""

from __future__ import annotations

import math

from tests.engine import world
from tests.engine.world import steps

NAN = math.nan
APPLIED = world.rule(
    "by_rank(nonfinite_update) > 0",
    "Applied",
    severity="critical",
    actions=("pause",),
    unattended="stop",
    summary="{module} on rank {rank} of {host} at step {step}: {value}, {score}",
)
ACTIVATION = world.rule("by_rank(nonfinite_activation) > 0", "Activation", keeps=steps(2))
LOSS = world.rule("nonfinite(by_rank(loss))", "Loss", keeps=steps(2))
NAMES = ["loss", "nonfinite_activation", "nonfinite_update"]
WELL = {"loss": 1.0, "nonfinite_activation": 0.0, "nonfinite_update": 0.0}
