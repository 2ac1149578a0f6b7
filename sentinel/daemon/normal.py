"""What is normal for a series, and when memory runs out: as rules see it, over a whole chart."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sentinel.engine.window import rough_slope
from sentinel.signals import CATALOG
from sentinel.store.bins import Floats, Singles, Steps

WINDOW = 200  # finite values
FEWEST = 32  # of them, before anything is normal
BACK = 4096  # steps before a chart in which they are looked for
DEVIATIONS = 5.0
CONSISTENCY = 1.4826  # MAD to standard deviation, for normal noise: as in robust_z

# What memory may come to.
LIMITS = {
    "device_memory_reserved_bytes": "device_memory_limit_bytes",
    "device_memory_peak_bytes": "device_memory_limit_bytes",
    "device_memory_allocated_bytes": "device_memory_limit_bytes",
    "host_memory_used_bytes": "host_memory_limit_bytes",
}
# Of all else a range of what is normal does not reach below 0, where no value can be.
MAY_BE_NEGATIVE = frozenset(
    name for name, one in CATALOG.items() if one.unit == "C" or name in ("loss", "logged")
)
_FARTHEST = 2.0**53


class Band(TypedDict):
    """Between these a value would be normal; null where too little came before."""

    low: list[float | None]
    high: list[float | None]


class Forecast(TypedDict):
    """How much there is, by how much more is used at each step, and where it ends (null: never)."""

    limit: float
    per_step: float
    reaches_step: int | None


def band(steps: Steps, values: Singles, starts: Steps) -> tuple[Floats, Floats]:
    """Before each of `starts`, from the finite values at the steps before it: low and high.

    `median - 5 * 1.4826 * MAD` and `median + 5 * 1.4826 * MAD` of the last 200, NaN where there are
    fewer than 32. That is within five deviations on the scale of `robust_z`.
    """
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    before = np.searchsorted(steps, starts)  # how many come before each
    center, spread = np.full(len(starts), np.nan), np.full(len(starts), np.nan)
    full = before >= WINDOW
    if full.any():
        windows = sliding_window_view(values, WINDOW)[before[full] - WINDOW]
        center[full], spread[full] = _median_and_mad(windows)
    for at in np.flatnonzero(~full & (before >= FEWEST)):
        some, own = _median_and_mad(values[None, : before[at]])
        center[at], spread[at] = some[0], own[0]
    away = DEVIATIONS * CONSISTENCY * spread
    return center - away, center + away


def _median_and_mad(windows: Singles) -> tuple[Singles, Singles]:
    """Of each row, in single precision, in which the values are."""
    center = _middle(windows)
    return center, _middle(np.abs(windows - center[:, None]))


def _middle(windows: Singles) -> Singles:
    half, odd = divmod(windows.shape[-1], 2)
    ordered = np.sort(windows, axis=-1)
    low = ordered[:, half if odd else half - 1]
    return np.asarray(low / 2 + ordered[:, half] / 2)  # apart, so that none can overflow


def forecast(steps: Steps, values: Singles, limit: float) -> Forecast | None:
    """When the last 200 finite values, going on as they do, come to the limit.

    The slope is the rule language's for many rows (`steps_until`), Theil and Sen's.
    """
    finite = np.isfinite(values)
    steps, last = steps[finite][-WINDOW:], values[finite][-WINDOW:].astype(np.float64)
    if len(last) < FEWEST or not math.isfinite(limit):
        return None
    apart = (steps[-1] - steps[0]) / (len(steps) - 1)
    per_step = float(rough_slope(last[None])[0] / apart)
    left = limit - float(last[-1])
    reaches = None
    if left <= 0:
        reaches = int(steps[-1])
    elif per_step > 0 and left / per_step < _FARTHEST:
        reaches = int(steps[-1]) + math.ceil(left / per_step)
    return Forecast(limit=limit, per_step=per_step, reaches_step=reaches)
