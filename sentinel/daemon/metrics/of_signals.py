"""The signals of a run as gauges: what ranks measured at the last judged step, never by rank.

Of a signal without a label there are statistics over ranks; of one with a label the elements
themselves, as reduced over ranks, and statistics over all of them. Everything is made when somebody
scrapes, from what the engine has at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from sentinel.daemon.metrics import families
from sentinel.daemon.metrics.family import Family
from sentinel.daemon.metrics.form import Form, Sample
from sentinel.daemon.metrics.newest import Newest
from sentinel.daemon.metrics.page import Page, escaped, numbers
from sentinel.daemon.metrics.ranking import Ranked, ranked
from sentinel.engine.derived import sources
from sentinel.engine.language.expression import RANK_AXIS
from sentinel.engine.layout import Axis
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
MAX_FORMS = 16  # of one run that are kept; what its steps lack in turn asks for a few
_STEP_SECONDS = Series("step_seconds")


def _family(signal: Signal) -> Family:
    if not signal.label:
        return Family(metric_name(signal), "gauge", help_text(signal), ("run", "stat"))
    return Family(metric_name(signal), "gauge", help_text(signal), ("run", signal.label))


OF_SIGNALS: Mapping[str, Family] = {name: _family(one) for name, one in CATALOG.items()}
"""The families of all signals, by the signal's name."""

# Those with one number for the run, alone or besides statistics over ranks.
_OF_RUN = [
    (name, sources(name))
    for name, one in CATALOG.items()
    if one.made_by != "engine" and own_stat(one) in ("sum", "norm") and not one.label
]
_LABELS = list(dict.fromkeys(one.label for one in CATALOG.values() if one.label))


class SignalsOfRun:
    """Adds the signals of one run to pages. `layers`: see `--metrics-layers`.

    What is the same from scrape to scrape is kept, and the text of the last step that was asked
    for.
    """

    def __init__(self, run: str, engine: RunEngine, layers: int) -> None:
        self._run = run
        self._label = f'run="{escaped(run)}"'
        self._engine = engine
        self._layers = layers
        self._forms: dict[object, Form] = {}
        self._labels: dict[str, list[str]] = {}
        self._room = MAX_SERIES
        self._left_out = 0
        self._step: JudgedStep | None = None
        self._text = Page()  # of that step
        self._made = -math.inf  # when

    def add(self, page: Page, now: float, keep: float = 0.0) -> None:
        """All that is known and is still true, of the last step or as it was made `keep` s ago."""
        step = self._engine.recent.last
        if step is not None and self._is_fresh(step, now - self._engine.judged_at):
            if now - self._made > keep:
                self.prepare(now)
            page.take(self._text)
        if self._engine.pulse is not None:
            self._of_engine(page, self._engine.pulse)
        page.add(families.SERIES_LEFT_OUT, self._left_out, self._run)

    def prepare(self, now: float) -> None:
        """Make the text of the last step, unless there is one."""
        step = self._engine.recent.last
        if step is not None and step is not self._step:
            self._room, self._left_out = MAX_SERIES, 0
            self._text = Page()
            newest = Newest(self._engine, step)
            self._of_ranks(self._text, newest)
            self._by_label(self._text, newest)
            self._of_the_run(self._text, newest)
            self._step = step
        self._made = now

    def _is_fresh(self, step: JudgedStep, age: float) -> bool:
        return age <= STALE or age <= STALE_STEPS * (step.number(_STEP_SECONDS) or 0.0)

    def _form(self, key: object, samples: Callable[[], Iterable[Sample]]) -> Form:
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) >= MAX_FORMS:
                self._forms.clear()
            form = self._forms[key] = Form(samples())
        return form

    # Without a label: over ranks.

    def _of_ranks(self, page: Page, newest: Newest) -> None:
        """Statistics over ranks; of what is measured at some steps only, at a former one."""
        step = newest.step
        found = spread(step)
        self._spread(page, step, found)
        for name in newest.sampled:
            column = step.columns.find(Series(name))
            if column is None or column in found.columns:
                continue
            for former in newest.steps(name)[1:]:
                one = spread(former, column)
                if one.columns.size:
                    self._spread(page, former, one)
                    break

    def _spread(self, page: Page, step: JudgedStep, found: Spread) -> None:
        series, ranks = step.columns.series, step.columns.axes[RANK_AXIS].labels
        form = self._form(
            found.columns.tobytes(),
            lambda: self._samples([series[column].signal for column in found.columns.tolist()]),
        )
        values = [*found.mean.tolist(), *found.least.tolist(), *found.greatest.tolist()]
        _fill_over_ranks(page, form, values, [ranks[at] for at in found.slots.tolist()])

    def _samples(self, names: Iterable[str]) -> Iterator[Sample]:
        """The mean of each signal, its least, and whose its greatest is, and that."""
        for name in names:
            family = OF_SIGNALS[name]
            head = f"{family.name}{{{self._label}"
            yield family, (f'{head},stat="mean"}} ', "")
            yield family, (f'{head},stat="min"}} ', "")
            yield family, (f'{head},stat="max",rank="', '"} ', "")

    def _of_the_run(self, page: Page, newest: Newest) -> None:
        """One number for all ranks together, of signals that have one."""
        known = newest.step.columns.of_signal.keys()
        names = [name for name, made_of in _OF_RUN if made_of <= known]
        found = {name: newest.values(name) for name in names}
        single = {name: one.values.item() for name, one in found.items() if one is not None}
        self._add_single(page, single)

    def _add_single(self, page: Page, values: Mapping[str, float]) -> None:
        form = self._form(("single", *values), lambda: self._samples_single(values))
        form.fill(page, numbers([*values.values()]))

    def _samples_single(self, names: Iterable[str]) -> Iterator[Sample]:
        for name in names:
            family, stat = OF_SIGNALS[name], own_stat(CATALOG[name])
            yield family, (f'{family.name}{{{self._label},stat="{stat}"}} ', "")

    def _of_engine(self, page: Page, pulse: Pulse) -> None:
        """What the engine knows by itself, by the clock and not by steps."""
        known = {name: each for name, each in pulse.by_rank.items() if name not in pulse.missing}
        known = {name: each for name, each in known.items() if each}
        least, greatest = [*map(min, known.values())], [*map(max, known.values())]
        means = [sum(each) / len(each) for each in known.values()]
        first = [each.index(top) for each, top in zip(known.values(), greatest, strict=True)]
        ranks = [str(pulse.ranks[at]) for at in first]
        form = self._form(("over ranks", *known), lambda: self._samples(known))
        _fill_over_ranks(page, form, [*means, *least, *greatest], ranks)
        of_run = {name: value for name, value in pulse.of_run.items() if value is not None}
        self._add_single(page, of_run)

    # With a label: its values, and over all of them.

    def _by_label(self, page: Page, newest: Newest) -> None:
        shown: list[tuple[str, int, list[str]]] = []
        values: list[float] = []
        for label in _LABELS:
            axis = newest.step.columns.axes.get(label)
            if axis is None:
                continue
            names = self._escaped(label, axis)
            most = self._layers if label in MANY else max(MAX_LABELS, self._layers)
            for name, one in ranked(newest.by_label(label), most):
                count = self._take(label, one)
                labels = [names[at] for at in one.places[:count]]
                statistics = one.statistics if stats(CATALOG[name]) else []
                shown.append((name, len(statistics), labels))
                values += statistics
                values += one.greatest[:count]
        self._fill_by_label(page, shown, values)

    def _escaped(self, label: str, axis: Axis) -> list[str]:
        """The values of a label as they stand between quotes."""
        names = self._labels.setdefault(label, [])
        names += map(escaped, axis.labels[len(names) :])
        return names

    def _fill_by_label(
        self, page: Page, shown: Sequence[tuple[str, int, list[str]]], values: list[float]
    ) -> None:
        texts, blanks = iter(numbers(values)), list[str]()
        for _, statistics, labels in shown:
            blanks += islice(texts, statistics)
            blanks += [f'{label}"}} {text}' for label, text in zip(labels, texts, strict=False)]
        counts = tuple((name, len(labels)) for name, _, labels in shown)
        self._form(counts, lambda: self._samples_by_label(counts)).fill(page, blanks)

    def _samples_by_label(self, shown: Iterable[tuple[str, int]]) -> Iterator[Sample]:
        for name, count in shown:
            signal, family = CATALOG[name], OF_SIGNALS[name]
            head = f"{family.name}{{{self._label}"
            for stat in stats(signal):
                yield family, (f'{head},stat="{stat}"}} ', "")
            yield from [(family, (f'{head},{signal.label}="', ""))] * count

    def _take(self, label: str, one: Ranked) -> int:
        """How many of these elements there is room for."""
        wanted = len(one.greatest) if label in MANY else one.of
        shown = min(len(one.greatest), self._room)
        self._left_out += wanted - shown
        self._room -= shown
        return shown


def _fill_over_ranks(page: Page, form: Form, values: list[float], ranks: list[str]) -> None:
    """`values` are the mean of each signal, then the least of each, then the greatest."""
    count, texts = len(ranks), numbers(values)
    blanks = [""] * (4 * count)
    blanks[0::4], blanks[1::4] = texts[:count], texts[count : 2 * count]
    blanks[2::4], blanks[3::4] = ranks, texts[2 * count :]
    form.fill(page, blanks)
