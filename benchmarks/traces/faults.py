"""Families with something wrong, each a change of the run in `curve`.

Only what is certainly wrong is a fault here; where it began, until when it must have been found,
and how long its aftermath lasts, is what each function returns with the trace.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.traces.curve import Floats, Generator, Size, between, healthy
from benchmarks.traces.trace import Event, Kind, Trace

TAIL = 10  # rows after a fault in which an alarm is still about it
QUIET = (0.002, 0.02)  # s where a fault of a few percent must show
RISE: tuple[Kind, ...] = ("LossSpike", "Divergence")
BLOW_UP: tuple[Kind, ...] = ("LossSpike", "Divergence", "GradientExplosion")


def spike(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """1.3 to 10 times the level, and at least 10 s, for 3 to 40 rows."""
    run = healthy(random, size, noise=QUIET)
    at, length = run.row(), round(between(random, 3, 40))
    run.loss[at : at + length] *= max(between(random, 1.3, 10), 1 + 10 * run.noise)
    end = at + length - 1 + TAIL
    return run.trace(family, seed, [Event(RISE, at, end, end)])


def slow_recovery(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """1.5 to 5 times the level within 3 rows, then exponentially back over 10 to 40 rows."""
    run = healthy(random, size.at_least(400), noise=QUIET)
    at, height, fall = run.row(), between(random, 1.5, 5) - 1, between(random, 10, 40)
    after = np.arange(len(run) - at)
    run.loss[at:] *= 1 + height * np.minimum(1, (after + 1) / 3) * np.exp(-after / fall)
    length = int(fall * math.log(height / 0.02))
    return run.trace(family, seed, [Event(RISE, at, at + 20, at + length + TAIL)])


def spike_of_one_row(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """1.5 to 4 times the level in one row, with 12 to 100 times the gradient norm."""
    run = healthy(random, size, noise=QUIET)
    run.log_all()
    at = run.row()
    run.loss[at] *= max(between(random, 1.5, 4), 1 + 10 * run.noise)
    run.grad_norm[at] *= between(random, 12, 100)
    return run.trace(family, seed, [Event(BLOW_UP, at, at + TAIL, at + TAIL)])


def nan_once(random: Generator, size: Size, family: str, seed: int) -> Trace:
    return _non_finite(random, size, family, seed, math.nan)


def inf_once(random: Generator, size: Size, family: str, seed: int) -> Trace:
    return _non_finite(random, size, family, seed, random.choice([math.inf, -math.inf]))


def _non_finite(random: Generator, size: Size, family: str, seed: int, value: float) -> Trace:
    """One row, in the loss, the gradient norm, or both; the run goes on as if nothing had been."""
    run = healthy(random, size)
    run.log_all()
    at, where = run.row(), random.integers(3)
    if where != 0:
        run.loss[at] = value
    if where != 1:
        run.grad_norm[at] = abs(value)
    return run.trace(family, seed, [Event(("NonFinite",), at, at + TAIL, at + TAIL)])


def nan_for_ever(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """Loss and gradient norm from some row on."""
    run = healthy(random, size)
    at = run.row()
    run.loss[at:] = run.grad_norm[at:] = math.nan
    return run.trace(family, seed, [Event(("NonFinite",), at, at + TAIL, len(run))])


def masked_norm(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """The gradient norm of one row is -1, as DeepSpeed masks one that is not finite."""
    run = healthy(random, size)
    run.log_all()
    at = run.row()
    run.grad_norm[at] = -1.0
    return run.trace(family, seed, [Event(("NonFinite",), at, at + TAIL, at + TAIL)])


def nan_then_spike(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """A NaN in the loss and the norm, and 20 rows later a spike of 1.5 to 4 times the level for 10
    rows: two faults, each to be found."""
    run = healthy(random, size, noise=QUIET)
    at = run.row()
    run.loss[at] = run.grad_norm[at] = math.nan
    later = at + 20
    run.loss[later : later + 10] *= between(random, 1.5, 4)
    first = Event(("NonFinite",), at, at + TAIL, at + TAIL)
    second = Event(RISE, later, later + 9 + TAIL, later + 9 + TAIL)
    return run.trace(family, seed, [first, second])


def ramp(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """3% more at every row, up to 3 to 10 times the level, where it stays."""
    run = healthy(random, size, noise=QUIET)
    at = run.row()
    highest = between(random, 3, 10)
    rows = np.minimum(1 + np.arange(len(run) - at), 100)
    run.loss[at:] *= np.minimum(1.03**rows, highest)
    return run.trace(family, seed, [Event(RISE, at, at + 30, len(run))])


def slow_drift(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """Up by a half over 300 to 600 rows, where it stays. To be found by the end of the rise."""
    run = healthy(random, size.at_least(1200), noise=QUIET)
    at, length = run.row(0.3, 0.45), round(between(random, 300, 600))
    run.loss[at:] *= 1 + 0.5 * np.minimum(1, np.arange(len(run) - at) / length)
    return run.trace(family, seed, [Event(RISE, at, at + length, len(run))])


def divergence(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """2 to 20 times the level within 1 to 20 rows, where it stays with ten times the noise;
    gradient norms rise tenfold."""
    run = healthy(random, size, noise=QUIET)
    at, length = run.row(), round(between(random, 1, 20))
    rise = np.minimum(1, (1 + np.arange(len(run) - at)) / length)
    height = between(random, 2, 20)
    noise = 1 + 10 * run.noise * np.clip(random.standard_normal(len(rise)), -3, 3)
    run.loss[at:] = run.level[at] * (1 + (height - 1) * rise) * noise
    run.grad_norm[at:] *= 1 + 9 * rise
    return run.trace(family, seed, [Event(BLOW_UP, at, at + 20, len(run))])


def early_divergence(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """As ever, but from row 25 to 60 on, upwards by 15% a row to 3 to 10 times the first loss."""
    run = healthy(random, size, noise=QUIET)
    at = int(random.integers(25, 60))
    highest = between(random, 3, 10) * run.level[0]
    rows = np.minimum(1 + np.arange(len(run) - at), 100)
    run.loss[at:] *= np.minimum(1.15**rows, highest / run.level[at])
    return run.trace(family, seed, [Event(RISE, at, at + 20, len(run))])


def stuck_at_chance(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """The loss never falls: a drop of 1% or less in the first rows, then constant to the end."""
    run = healthy(random, size.at_least(1000), noise=(0.002, 0.01))
    rows = np.arange(len(run))
    flat: Floats = run.level[0] * (0.99 + 0.01 * np.exp(-rows / 20))
    run.loss *= flat / run.level
    return run.trace(family, seed, [Event(("Plateau",), 0, len(run) - 1, len(run))])


def gradient_explosion(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """30 to 1,000 times the gradient norm for 1 to 5 rows, and a loss 1.5 to 3 times its level for
    5 to 10 rows from the next one on."""
    run = healthy(random, size, noise=QUIET)
    run.log_all()
    at, length = run.row(), int(random.integers(5, 11))
    run.grad_norm[at : at + int(random.integers(1, 6))] *= between(random, 30, 1000)
    run.loss[at + 1 : at + 1 + length] *= between(random, 1.5, 3)
    end = at + length + TAIL
    return run.trace(family, seed, [Event(BLOW_UP, at, end, end)])


def gradient_explosion_alone(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """30 to 1,000 times the gradient norm for 1 to 5 rows; the loss does not notice."""
    run = healthy(random, size)
    run.log_all()
    at, length = run.row(), int(random.integers(1, 6))
    run.grad_norm[at : at + length] *= between(random, 30, 1000)
    end = at + length - 1 + TAIL
    return run.trace(family, seed, [Event(("GradientExplosion",), at, end, end)])


def zero_loss(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """Exactly 0 from some row on, as of labels that are all masked; or for 20 rows."""
    run = healthy(random, size)
    at = run.row()
    end = len(run) if random.random() < 0.5 else at + 20
    run.loss[at:end] = 0.0
    until = len(run) if end == len(run) else end - 1 + TAIL
    return run.trace(family, seed, [Event(("ZeroLoss",), at, at + 20, until)])


def spike_and_rewind(random: Generator, size: Size, family: str, seed: int) -> Trace:
    """A spike of 2 to 5 times the level for 10 rows, then training goes back to 50 rows before."""
    run = healthy(random, size, noise=QUIET)
    at = run.row(0.4, 0.7)
    run.loss[at : at + 10] *= between(random, 2, 5)
    order = np.r_[0 : at + 10, at - 50 : len(run)]
    again = slice(at + 10, None)
    fresh = 1 + run.noise * random.standard_normal(len(order) - at - 10)
    run.loss = run.loss[order]
    run.loss[again] = run.level[at - 50 :] * fresh
    run.grad_norm, run.lr, run.steps = run.grad_norm[order], run.lr[order], run.steps[order]
    run.unlogged = {name: set(range(len(order))) for name in run.unlogged}
    return run.trace(family, seed, [Event(RISE, at, at + 9 + TAIL, at + 9 + TAIL)])
