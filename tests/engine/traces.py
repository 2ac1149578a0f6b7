"""Made-up losses and gradient norms of healthy runs, under conditions that detectors meet."""

from __future__ import annotations

import math
import random

Trace = list[float]


def beginning(count: int, seed: int) -> Trace:
    """The first steps of a run: the loss falls from 11 within some 40 steps."""
    source = random.Random(seed)
    return [
        2.5 + 8.5 * math.exp(-at / 12) + 0.5 / (1 + at / 50) + 0.03 * source.gauss(0, 1)
        for at in range(count)
    ]


def warm_up(count: int, seed: int) -> Trace:
    """A learning rate that rises over 100 steps: the loss stays, falls ever faster, then slowly."""
    source = random.Random(seed)
    loss, trace = 11.0, []
    for at in range(count):
        loss -= 0.05 * min(1.0, at / 100) * (loss - 2.5)
        trace.append(loss + 0.03 * source.gauss(0, 1))
    return trace


def gradient_norms(count: int, seed: int) -> Trace:
    """Gradient norms from the first step on: huge at first, then log-normal around 1."""
    source = random.Random(seed)
    return [
        (60 * math.exp(-at / 6) + 1) * math.exp(0.25 * source.gauss(0, 1)) for at in range(count)
    ]


def restarts(count: int, seed: int, period: int) -> Trace:
    """A cosine learning rate with warm restarts: each lifts the loss by 8%, and it falls again."""
    source = random.Random(seed)
    trace = []
    for at in range(count):
        cycle, since = divmod(at, period)
        lift = 0.2 * math.exp(-since / 80) if cycle else 0.0
        trace.append(2.5 - 0.1 * cycle + lift + 0.02 * source.gauss(0, 1))
    return trace


def cadence(count: int, seed: int, before: int, after: int) -> Trace:
    """A loss logged as the mean of `before` steps, from the middle on as that of `after`."""
    source = random.Random(seed)
    return [
        2.5 + 0.2 / math.sqrt(before if at < count // 2 else after) * source.gauss(0, 1)
        for at in range(count)
    ]
