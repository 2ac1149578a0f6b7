"""All families of traces, by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.traces import clean, faults
from benchmarks.traces.curve import Generator, Size
from benchmarks.traces.trace import Trace

Family = Callable[[Generator, Size, str, int], Trace]

CLEAN: Mapping[str, Family] = {
    "Gaussian noise": clean.gaussian,
    "heavy-tailed noise": clean.heavy_tailed,
    "two levels, as with mixup": clean.two_levels,
    "wandering, as in reinforcement learning": clean.wandering,
    "warm-up": clean.warm_up,
    "learning rate restarts": clean.lr_restart,
    "back to an earlier step": clean.rewind,
    "another logging cadence": clean.cadence_change,
    "converged": clean.converged,
    "level shift by design": clean.level_shift,
    "missing values": clean.missing_values,
    "single outliers": clean.outlier,
}
FAULTS: Mapping[str, Family] = {
    "spike": faults.spike,
    "spike, slow to recover": faults.slow_recovery,
    "spike of one row, with its gradient": faults.spike_of_one_row,
    "spike, then back to an earlier step": faults.spike_and_rewind,
    "NaN once": faults.nan_once,
    "Inf once": faults.inf_once,
    "NaN for ever": faults.nan_for_ever,
    "gradient norm -1": faults.masked_norm,
    "NaN, then a spike": faults.nan_then_spike,
    "ramp of 3% a row": faults.ramp,
    "slow drift": faults.slow_drift,
    "divergence": faults.divergence,
    "divergence in the first rows": faults.early_divergence,
    "stuck where it began": faults.stuck_at_chance,
    "gradient explosion": faults.gradient_explosion,
    "gradient explosion alone": faults.gradient_explosion_alone,
    "zero loss": faults.zero_loss,
}
FAMILIES: Mapping[str, Family] = {**CLEAN, **FAULTS}


def trace(family: str, seed: int, size: Size) -> Trace:
    """The trace of this family, seed and size: always the same."""
    random = np.random.default_rng([zlib.crc32(family.encode()), seed])
    return FAMILIES[family](random, size, family, seed)
