"""The signals of a run as gauges: what ranks measured at the last judged step, never by rank.

Of a signal without a label there are statistics over ranks; of one with a label the elements
themselves, as reduced over ranks, and statistics over all of them. Everything is made when somebody
scrapes, from what the engine has at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sentinel.daemon.metrics import families
from sentinel.daemon.metrics.family import Family
from sentinel.daemon.metrics.page import Page, escaped, number, numbers
from sentinel.engine.derived import sources
from sentinel.engine.evaluation.values import Values
from sentinel.engine.language.expression import RANK_AXIS, Reading
from sentinel.engine.roster import Pulse
from sentinel.engine.run import RunEngine
from sentinel.engine.spread import Spread, spread
from sentinel.engine.step import JudgedStep
from sentinel.signals import CATALOG, Signal
from sentinel.signals.exposition import help_text, metric_name, own_stat, stats
from sentinel.wire import Series

MANY = frozenset({"layer", "tensor", "expert"})  # labels of which there may be thousands
MAX_LABELS = 64  # shown of any other
MAX_SERIES = 2000  # of one run and its signals with labels
STALE = 300.0  # s after which, or after this many steps' time if longer, a step says nothing of now
STALE_STEPS = 3.0


def _family(signal: Signal) -> Family:
    if not signal.label:
        return Family(metric_name(signal), "gauge", help_text(signal), ("run", "stat"))
    return Family(metric_name(signal), "gauge", help_text(signal), ("run", signal.label))


OF_SIGNALS: Mapping[str, Family] = {name: _family(one) for name, one in CATALOG.items()}
"""The families of all signals, by the signal's name."""

_LABELED = [signal for signal in CATALOG.values() if signal.label]
# Those with one number for the run, alone or besides statistics over ranks.
_WHOLE = [
    name
    for name, one in CATALOG.items()
    if one.made_by != "engine" and own_stat(one) in ("sum", "norm") and not one.label
]


class SignalsOfRun:
    """Adds the signals of one run to a page. `layers`: see `--metrics-layers`."""

    def __init__(self, page: Page, run: str, engine: RunEngine, layers: int) -> None:
        self._page = page
        self._run = run
        self._label = f'run="{escaped(run)}"'
        self._engine = engine
        self._layers = layers
        self._room = MAX_SERIES
        self._left_out = 0
        self._every: dict[str, int] = {}  # of signals that are not measured at every step
        for rank in engine.ranks.values():
            for signal, every in rank.coverage.every.items():
                self._every[signal] = max(every, self._every.get(signal, 1))

    def add(self, now: float) -> None:
        """All that is known and is still true."""
        step = self._engine.recent.last
        if step is not None and now - self._engine.judged_at <= self._fresh_for(step):
            self._of_ranks(step)
            for name in _WHOLE:
                if self._is_known(step, name) and (whole := self._measured(name)) is not None:
                    self._of_run(name, float(whole.values))
            self._by_label(step)
        if self._engine.pulse is not None:
            self._of_engine(self._engine.pulse)
        self._page.add(families.SERIES_LEFT_OUT, self._left_out, self._run)

    def _fresh_for(self, step: JudgedStep) -> float:
        seconds = step.number(Series("step_seconds")) or 0.0
        return max(STALE, STALE_STEPS * seconds)

    def _is_known(self, step: JudgedStep, signal: str) -> bool:
        return sources(signal) <= step.columns.of_signal.keys()

    def _steps(self, signal: str) -> Sequence[JudgedStep]:
        """The steps that may have the newest value: also former ones, if it is not for every."""
        every = max(self._every.get(one, 1) for one in sources(signal)) if self._every else 1
        return [*self._engine.recent.within(every - 1)]

    def _measured(self, signal: str) -> Values | None:
        """What the newest step has that has any of this."""
        for step in self._steps(signal):
            found = step.read(Reading(signal))
            if np.count_nonzero(found.missing) < found.missing.size:  # much faster than all()
                return found
        return None

    def _of_ranks(self, step: JudgedStep) -> None:
        """Statistics over ranks; of what is measured at some steps only, at a former one."""
        newest = spread(step)
        self._spread(step, newest)
        left = [name for name in self._every if not CATALOG[name].label]
        left = [name for name in left if step.columns.find(Series(name)) not in newest.columns]
        for name in left:
            for former in self._steps(name):
                found = spread(former, step.columns.find(Series(name)))
                if found.columns.size:
                    self._spread(former, found)
                    break

    def _spread(self, step: JudgedStep, found: Spread) -> None:
        series, ranks = step.columns.series, step.columns.axes[RANK_AXIS].labels
        self._over_ranks(
            [series[column].signal for column in found.columns.tolist()],
            [*found.mean.tolist(), *found.least.tolist(), *found.greatest.tolist()],
            [ranks[slot] for slot in found.slots.tolist()],
        )

    def _over_ranks(self, names: list[str], values: list[float], ranks: list[str]) -> None:
        """The mean of each signal, then the least of each, then the greatest and whose it is."""
        texts, count, label = numbers(values), len(names), self._label
        means, least, greatest = texts[:count], texts[count : 2 * count], texts[2 * count :]
        for name, mean, low, top, rank in zip(names, means, least, greatest, ranks, strict=True):
            family = OF_SIGNALS[name]
            head = f"{family.name}{{{label}"
            self._page.lines(family).append(
                f'{head},stat="mean"}} {mean}\n{head},stat="min"}} {low}\n'
                f'{head},stat="max",rank="{rank}"}} {top}\n'
            )

    def _of_run(self, signal: str, value: float) -> None:
        """One number for all ranks together."""
        family, stat = OF_SIGNALS[signal], own_stat(CATALOG[signal])
        line = f'{family.name}{{{self._label},stat="{stat}"}} {number(value)}\n'
        self._page.lines(family).append(line)

    def _of_engine(self, pulse: Pulse) -> None:
        """What the engine knows by itself, by the clock and not by steps."""
        known = {name: each for name, each in pulse.by_rank.items() if name not in pulse.missing}
        known = {name: each for name, each in known.items() if each}
        least, greatest = [*map(min, known.values())], [*map(max, known.values())]
        means = [sum(each) / len(each) for each in known.values()]
        first = [each.index(top) for each, top in zip(known.values(), greatest, strict=True)]
        ranks = [str(pulse.ranks[at]) for at in first]
        self._over_ranks([*known], [*means, *least, *greatest], ranks)
        for name, value in pulse.of_run.items():
            if value is not None:
                self._of_run(name, value)

    def _by_label(self, step: JudgedStep) -> None:
        for signal in _LABELED:
            if self._is_known(step, signal.name):
                found = self._measured(signal.name)
                if found is not None:
                    self._elements(signal, found, step.columns.axes[signal.label].labels)

    def _elements(self, signal: Signal, found: Values, labels: Sequence[str]) -> None:
        """The greatest, NaN before all others, and statistics over all."""
        values = found.values
        order = values.argsort()[::-1]  # NaN comes last in what is sorted
        if np.count_nonzero(found.missing):
            order = order[~found.missing[order]]
        descending = values[order].tolist()
        family, label = OF_SIGNALS[signal.name], signal.label
        lines, head = self._page.lines(family), f"{family.name}{{{self._label}"
        if stats(signal):
            top, middle = number(descending[0]), number(_median(descending))
            lines.append(f'{head},stat="max"}} {top}\n{head},stat="median"}} {middle}\n')
        shown = self._take(signal, len(descending))
        places, texts = order[:shown].tolist(), numbers(descending[:shown])
        lines += [
            f'{head},{label}="{escaped(labels[at])}"}} {text}\n'
            for at, text in zip(places, texts, strict=True)
        ]

    def _take(self, signal: Signal, count: int) -> int:
        """How many of so many elements there is room for."""
        wanted = min(count, self._layers) if signal.label in MANY else count
        shown = min(wanted, self._room, max(MAX_LABELS, self._layers))
        self._left_out += wanted - shown
        self._room -= shown
        return shown


def _median(descending: Sequence[float]) -> float:
    """The median, NaN where any is."""
    if math.isnan(descending[0]):
        return descending[0]
    low, high = descending[len(descending) // 2], descending[(len(descending) - 1) // 2]
    return low if low == high else (low + high) / 2
