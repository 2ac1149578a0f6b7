"""Families in which nothing is wrong, however it may look.

What changes of the run in `curve` is said at each. Nothing is to be alarmed about but what a
function names as spared.
"""

from __future__ import annotations

import numpy as np

from benchmarks.traces.curve import Generator, Size, between, healthy
from benchmarks.traces.trace import Spared, Trace

SETTLE = 30  # rows after a change by design in which one episode of alarms is right as well


def gaussian(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """The run as it is."""
    return healthy(random, size).trace(family, seed)


def heavy_tailed(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """The loss is its level times exp(s t), the gradient norm that of the curve times exp(.1 t'),
    t being Student's of 3 degrees of freedom, of unit variance and cut at 5: a row of 1.5 times
    the level, which is more than noise to whoever labels real logs, does not occur. A row of 1.2
    times the level, which they leave open, is spared."""
    run = healthy(random, size, noise=(0.01, 0.06))
    tails = np.clip(random.standard_t(3, (2, len(run))) / np.sqrt(3), -5, 5)
    run.loss = run.level * np.exp(run.noise * tails[0])
    run.grad_norm *= np.exp(0.1 * tails[1])
    open_rows = np.flatnonzero(run.loss > 1.2 * run.level)
    return run.trace(family, seed, spared=[Spared(int(at), int(at)) for at in open_rows])


def two_levels(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """As with mixup: a share of .2 to .8 of the batches at .4 to .8 of the level."""
    run = healthy(random, size, noise=(0.01, 0.05))
    lower = random.random(len(run)) < random.uniform(0.2, 0.8)
    run.loss[lower] *= random.uniform(0.4, 0.8)
    return run.trace(family, seed)


def wandering(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """As in reinforcement learning: the logarithm of the loss is an AR(1) process about a constant
    level, coefficient .8, its innovations Student's t of 4 degrees of freedom, of unit variance
    and cut at 4, times .1 to .25."""
    run = healthy(random, size)
    tails = np.clip(random.standard_t(4, len(run)) / np.sqrt(2), -4, 4)
    innovations = tails * random.uniform(0.1, 0.25)
    walk = np.zeros(len(run))
    for at in range(1, len(run)):
        walk[at] = 0.8 * walk[at - 1] + innovations[at]
    run.loss = run.level[0] * np.exp(walk)
    run.grad_norm *= np.exp(0.5 * walk)
    return run.trace(family, seed)


def lr_restart(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """The learning rate jumps back to its peak; the loss by 3% to 10%, and falls again."""
    run = healthy(random, size)
    at, fall = run.row(), between(random, 20, 100)
    after = np.arange(len(run) - at)
    run.loss[at:] *= 1 + random.uniform(0.03, 0.1) * np.exp(-after / fall)
    run.lr[at:] = run.lr.max() * np.linspace(1.0, 0.1, len(after))
    return run.trace(family, seed)


def rewind(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """Training goes back by 2% to 20% of its steps, which are logged a second time."""
    run = healthy(random, size)
    at = run.row(0.5, 0.9)
    back = at - max(5, int(random.uniform(0.02, 0.2) * at))
    again = np.r_[0:at, back : len(run)]
    fresh = 1 + run.noise * random.standard_normal(len(again) - at)
    run.loss = run.loss[again]
    run.loss[at:] = run.level[back:] * fresh
    run.grad_norm, run.lr, run.steps = run.grad_norm[again], run.lr[again], run.steps[again]
    run.unlogged = {name: set(range(len(again))) for name in run.unlogged}
    return run.trace(family, seed)


def cadence_change(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """Every step is logged up to some row, from then on the mean of each 100 steps, whose noise is
    a tenth; or the other way round."""
    run = healthy(random, size)
    at = run.row()
    finer = bool(random.random() < 0.5)
    strides = np.where((np.arange(len(run)) < at) == finer, 1, 100)
    run.steps = np.cumsum(strides)
    run.level = np.interp(run.steps, np.linspace(1, run.steps[-1], len(run)), run.level)
    noise = run.noise * np.where(strides == 1, 1.0, 0.1)
    run.loss = run.level * (1 + noise * random.standard_normal(len(run)))
    return run.trace(family, seed)


def converged(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """The loss falls to a half or less, and from a third of the run on it is constant."""
    run = healthy(random, size.at_least(600))
    factor = run.loss / run.level
    third = len(run) // 3
    run.level = run.level[0] * np.maximum(1 - np.arange(len(run)) / third, 0) ** 2
    run.level += run.level[0] * random.uniform(0.1, 0.9)
    run.loss = run.level * factor
    return run.trace(family, seed)


def level_shift(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """As at a new stage of the data or another length of sequences: the loss goes to .6 to 1.4
    times its level at once, and goes on falling. A detector cannot know that this was meant: one
    episode of alarms within the next 30 rows is right as well."""
    run = healthy(random, size)
    at = run.row()
    run.loss[at:] *= random.choice([random.uniform(0.6, 0.9), random.uniform(1.1, 1.4)])
    return run.trace(family, seed, spared=[Spared(at, at + SETTLE)])


def missing_values(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """A row in ten lacks the loss and two in five the gradient norm."""
    run = healthy(random, size)
    run.log_all()
    for name, share in (("loss", 0.1), ("grad_norm", 0.4)):
        run.unlogged[name] = set(np.flatnonzero(random.random(len(run)) < share).tolist())
    return run.trace(family, seed)


def warm_up(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """In the first 10 to 50 rows the loss falls from 2 to 8 times what the curve begins with, over
    a hump of a tenth; gradient norms begin at 20 to 100 times theirs."""
    run = healthy(random, size)
    rows, length = np.arange(len(run)), random.uniform(10, 50)
    hump = 0.1 * np.exp(-(((rows - length / 3) / (length / 6)) ** 2))
    run.loss *= 1 + random.uniform(1, 7) * np.exp(-4 * rows / length) + hump
    run.grad_norm *= 1 + random.uniform(20, 100) * np.exp(-4 * rows / length)
    return run.trace(family, seed)


def outlier(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """Three rows at 1.2 to 3 times the level, one at a time: bad batches. Whether one row is worth
    an alarm is a matter of taste, so that one episode at each is right as well."""
    run = healthy(random, size, noise=(0.002, 0.02))
    chosen = sorted(60 + random.choice(len(run) - 80, 3, replace=False))
    for at in chosen:
        run.loss[at] *= random.uniform(1.2, 3)
    return run.trace(family, seed, spared=[Spared(int(at), int(at) + 10) for at in chosen])
