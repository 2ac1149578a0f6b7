"""The catalog of signals: what each quantity is called, its unit, and how ranks combine.

Both sides read it: a rank announces the series it can measure by these names, and the daemon
reduces them over ranks and checks the names in rules against it.

A *step* is the n-th optimizer step, counted from 1, as DeepSpeed counts it in its log and in the
tags of its checkpoints: `global_steps` after `engine.step()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches

from sentinel.signals.machine import (
    COLLECTIVES,
    DEVICE_MEMORY,
    HARDWARE,
    HOST_MEMORY,
    PHASES,
)
from sentinel.signals.signal import Reduction, Signal, Stage
from sentinel.signals.training import EXPERTS, NON_FINITE, PARAMETERS, TRAINING
from sentinel.signals.watching import DROPS, LOGGED, OURSELVES

__all__ = [
    "CATALOG",
    "DROPS",
    "OF_ONE_MICRO_BATCH",
    "Reduction",
    "Signal",
    "Stage",
    "did_you_mean",
]

_ALL = (
    *TRAINING,
    *PARAMETERS,
    *NON_FINITE,
    *PHASES,
    *HOST_MEMORY,
    *DEVICE_MEMORY,
    *COLLECTIVES,
    *EXPERTS,
    *HARDWARE,
    *OURSELVES,
    *LOGGED,
)

CATALOG: Mapping[str, Signal] = {signal.name: signal for signal in _ALL}

# What is found in these is of one micro-batch of the rank itself. Other findings name none, such as
# those in gradients that have been reduced over all ranks and micro-batches of the step.
OF_ONE_MICRO_BATCH = frozenset({"loss", "nonfinite_activation", "nonfinite_local_gradient"})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelled name: `, did you mean 'grad_norm'?`, or nothing."""
    names = list(known)
    close = get_close_matches(name, names)
    if not close:
        return ""
    # Of those that are equally near, the one that comes first: catalogs begin with what is usual.
    best = max(names, key=lambda one: (one in close) * SequenceMatcher(a=name, b=one).ratio())
    return f", did you mean {best!r}?"
