"""Whether a step was clean: what a checkpoint from before it is judged by.

Trouble is what weights may have come from or gone into: a loss, gradient or update that was not
finite, a step that was skipped, a critical or pausing rule whose condition holds. A step is also
not clean, though nothing is held against it, when an fp16 loss scaler has skipped it, which is
normal work, while such a rule is only pending, or still fires for what is over, and when it is
about the ranks' connections and not about what they compute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sentinel.engine.rule import Alerts
from sentinel.wire import Series

_COUNTS = {  # of which there is to be none
    "nonfinite_local_gradient": "a gradient was not finite",
    "nonfinite_gradient": "a gradient was not finite",
    "skipped": "the optimizer skipped it",
}
_OVERFLOW = Series("overflow")
_LOSS, _GRAD_NORM = Series("loss"), Series("grad_norm")
_UPDATE = Series("nonfinite_update")


@dataclass(frozen=True)
class Verdict:
    """What a step says of the checkpoints before it; `trouble` says what was wrong, if anything."""

    clean: bool
    trouble: str = ""


def verdict(step: int, reduced: Mapping[Series, float], alerts: Iterable[Alerts]) -> Verdict:
    """Judge a step by what was measured, over all ranks, and by the alerts as they are after it."""
    if trouble := _trouble(reduced):
        return Verdict(False, f"{trouble} at step {step}")
    grave = [one for one in alerts if one.live and _is_grave(one)]
    for one in grave:
        if _is_of_training(one) and any(a.firing and a.still_true for a in one.live.values()):
            return Verdict(False, f"{one.rule.name} at step {step}")
    return Verdict(not grave and not reduced.get(_OVERFLOW, 0.0) > 0)


def _trouble(reduced: Mapping[Series, float]) -> str:
    if not math.isfinite(reduced.get(_LOSS, 0.0)):
        return "the loss was not finite"
    if reduced.get(_UPDATE, 0.0) > 0:
        return "a non-finite update was applied"
    if reduced.get(_OVERFLOW, 0.0) > 0:
        return ""
    if not math.isfinite(reduced.get(_GRAD_NORM, 0.0)):
        return "the gradient norm was not finite"
    for signal, said in _COUNTS.items():
        if reduced.get(Series(signal), 0.0) > 0:
            return said
    return ""


def _is_grave(alerts: Alerts) -> bool:
    rule = alerts.rule
    return rule.severity == "critical" or not {"pause", "stop"}.isdisjoint(rule.actions)


def _is_of_training(alerts: Alerts) -> bool:
    return alerts.rule.expression.when != "tick"
