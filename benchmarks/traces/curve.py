"""A run in which nothing is wrong, from which every synthetic trace is made.

With u from 0 at the first row to 1 at the last, S the scale and e independent noise of unit
variance:

    loss(u)      = S [E + (1 - E) (1 + k u)^-a] (1 + s e)
    grad_norm(u) = G (1 + 5 exp(-100 u)) (1 + u / 2) exp(g e')
    lr(u)        = a linear warm-up over 2% of the run, then a cosine to a tenth of the peak

    S  10^-2 to 10^4       E  .3 to .6      k  10 to 300     a  .3 to .8     s  .002 to .05
    G  10^-2 to 10^2       g  .05 to .3     rows 200 to 2,000, in one run of ten 2,000 to 20,000

each drawn anew for each seed: S, k, s, G and the number of rows uniformly in their logarithm. A row
is logged every 1, 10, 50 or 500 steps. One run in five logs no gradient norm and one in five no
learning rate, unless the family needs it. The power law is that of language models (Kaplan et al.
2020, arXiv:2001.08361; Hoffmann et al. 2022, arXiv:2203.15556).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.traces.trace import Event, Row, Spared, Trace

Floats = NDArray[np.float64]
Generator = np.random.Generator

CADENCES = (1, 10, 50, 500)


@dataclass(frozen=True)
class Size:
    """How many rows a trace may have: `lowest` to `usual`, and one in ten `usual` to `highest`."""

    lowest: int = 200
    usual: int = 2_000
    highest: int = 20_000

    def at_least(self, rows: int) -> Size:
        """For families that need so many rows."""
        return Size(*(max(rows, one) for one in (self.lowest, self.usual, self.highest)))

    def draw(self, random: Generator) -> int:
        is_long = random.random() < 0.1
        bounds = (self.usual, self.highest) if is_long else (self.lowest, self.usual)
        return round(between(random, *bounds))


def between(random: Generator, lowest: float, highest: float) -> float:
    """Uniform in the logarithm."""
    return float(np.exp(random.uniform(math.log(lowest), math.log(highest))))


@dataclass
class Run:
    """A run in the making: arrays of one element a row, for a family to change.

    `level` is the loss without noise, `noise` the relative standard deviation of its noise.
    """

    random: Generator
    steps: NDArray[np.int64]
    level: Floats
    noise: float
    loss: Floats
    grad_norm: Floats
    lr: Floats
    unlogged: dict[str, set[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    def row(self, earliest: float = 0.3, latest: float = 0.7) -> int:
        """A row for something to happen in, as shares of the run, and not within the first 60."""
        first = max(60, int(earliest * len(self)))
        return int(self.random.integers(first, max(first + 1, int(latest * len(self)))))

    def log_all(self) -> None:
        """The family is about something that one run in five does not log."""
        self.unlogged.clear()

    def trace(
        self, family: str, seed: int, events: Sequence[Event] = (), spared: Sequence[Spared] = ()
    ) -> Trace:
        columns = [self._column(name) for name in ("loss", "grad_norm", "lr")]
        steps = self.steps.tolist()
        rows = tuple(Row(*values) for values in zip(steps, *columns, strict=True))
        return Trace(family, seed, rows, tuple(events), tuple(spared))

    def _column(self, name: str) -> Iterable[float | None]:
        unlogged = self.unlogged.get(name, set())
        values: list[float] = getattr(self, name).tolist()
        return [None if at in unlogged else one for at, one in enumerate(values)]


def healthy(random: Generator, size: Size, *, noise: tuple[float, float] = (0.002, 0.05)) -> Run:
    """A run as above, `noise` being the range of s."""
    rows = size.draw(random)
    u = np.linspace(0.0, 1.0, rows)
    scale, floor = between(random, 1e-2, 1e4), random.uniform(0.3, 0.6)
    bend, power = between(random, 10, 300), random.uniform(0.3, 0.8)
    level = scale * (floor + (1 - floor) * (1 + bend * u) ** -power)
    relative = between(random, *noise)
    norm = between(random, 1e-2, 1e2) * (1 + 5 * np.exp(-100 * u)) * (1 + u / 2)
    spread = random.uniform(0.05, 0.3)
    cadence = int(random.choice(CADENCES))
    run = Run(
        random,
        steps=cadence * (1 + np.arange(rows)),
        level=level,
        noise=relative,
        loss=level * (1 + relative * random.standard_normal(rows)),
        grad_norm=norm * np.exp(spread * random.standard_normal(rows)),
        lr=schedule(u, between(random, 1e-5, 1e-2)),
    )
    for name in ("grad_norm", "lr"):
        if random.random() < 0.2:
            run.unlogged[name] = set(range(rows))
    return run


def schedule(u: Floats, peak: float) -> Floats:
    """The learning rate: warm-up and cosine."""
    cosine = 0.55 + 0.45 * np.cos(np.pi * np.clip((u - 0.02) / 0.98, 0, 1))
    return np.asarray(peak * np.minimum(1.0, (u + 1 / len(u)) / 0.02) * cosine, np.float64)
