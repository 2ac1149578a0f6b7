"""95% confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.labelled.score import Score

_Z = 1.959964  # of the normal distribution, both sides
DRAWS = 1000

Interval = tuple[float, float]


def wilson(successes: int, trials: int) -> Interval:
    """Of a share of independent trials (Wilson 1927, JASA 22:209).

    >>> [round(one, 3) for one in wilson(20, 20)]
    [0.839, 1.0]
    """
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, _Z * _Z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    half *= _Z / (1 + square / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(scores: Sequence[Score], figure: Callable[[Score], float | None]) -> Interval | None:
    """Of a figure of several runs: 2.5% and 97.5% points over runs drawn with replacement.

    Runs are what is drawn, since what happens within one is not independent. None for a single
    run, or where fewer than half of the draws have the figure at all.
    """
    if len(scores) < 2:
        return None
    random = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        drawn = random.integers(len(scores), size=len(scores))
        value = figure(sum((scores[at] for at in drawn), Score()))
        if value is not None:
            found.append(value)
    if len(found) < DRAWS / 2:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
