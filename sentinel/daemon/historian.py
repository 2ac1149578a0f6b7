"""Looks on while an engine judges steps, and gives what was measured to the history.

All that is without a label, and all with one but those of `LEFT_OUT`, is kept as reduced over
ranks. Of the signals in `OF_RANKS` each rank's own value is kept too, and which rank had the
greatest. Where there are many ranks, their values are the greatest of a few steps each, so that no
more than some `CELLS` of them are kept a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from sentinel.daemon.counts import Counts
from sentinel.engine.derived import DERIVED, sources
from sentinel.engine.evaluation.values import Source, Values
from sentinel.engine.language.expression import RANK_AXIS, Reading
from sentinel.engine.layout import Axis, Columns
from sentinel.engine.rule import Key
from sentinel.engine.step import JudgedStep
from sentinel.signals import CATALOG
from sentinel.store.bins import singles
from sentinel.store.history_row import ALONE, Form, Part, Row, by_rank, greatest

log = logging.getLogger("sentinel.daemon")

OF_RANKS = (
    "step_seconds",
    "data_seconds",
    "forward_seconds",
    "backward_seconds",
    "exposed_communication_seconds",
    "collective_wait_seconds",
    "loss",
    "device_memory_reserved_bytes",
    "device_memory_peak_bytes",
    "host_memory_process_bytes",
    "host_memory_used_bytes",
    "gpu_temperature_celsius",
)
CELLS = 2048  # values of ranks that are kept of a step, on average
LABELS = 4096  # of one signal that are kept
# There can be thousands of tensors, and layers say much the same; a checksum is no quantity.
_LABELS_LEFT_OUT = frozenset({"tensor"})
_LEFT_OUT = frozenset({"replica_checksum"})
_WAIT = "collective_wait_seconds"  # which a rank has one of for each collective: their sum


class Keeps(Protocol):
    """What takes rows in: `store.history.History`."""

    def append(self, run: str, row: Row) -> None:
        """Remember a judged step."""


class Historian:
    """The observer of one run's engine. Its faults are counted, and go no further."""

    def __init__(self, run: str, history: Keeps, counts: Counts, cells: int = CELLS) -> None:
        self._run = run
        self._cells = cells
        self._history = history
        self._counts = counts
        self._told = False
        self._plan: _Plan | None = None
        self._greatest: Values | None = None  # of the ranks, in the steps since they were kept
        self._since = 0  # steps

    def stepped(self, source: Source, axes: Mapping[str, Axis], step: int, now: float) -> None:
        """See `Observer`."""
        if not isinstance(source, JudgedStep):
            return
        try:
            self._take(source, step, now)
        except Exception:
            self._counts.faults += 1
            if not self._told:
                log.exception("run %s: a step could not be kept", self._run)
            self._told = True

    def framed(self, key: Key, step: int) -> None:
        """See `Observer`."""

    def ticked(self, source: Source, axes: Mapping[str, Axis], step: int, now: float) -> None:
        """See `Observer`."""

    def went_back(self, step: int) -> None:
        """See `Observer`. Of what is done again, the last is what counts."""
        self._greatest, self._since = None, 0

    def _take(self, source: JudgedStep, step: int, now: float) -> None:
        columns = source.columns
        plan = self._plan
        if plan is None or not plan.fits(columns):
            plan = self._plan = _Plan(columns, self._cells)
            self._greatest, self._since = None, 0
        with np.errstate(all="ignore"):
            parts = [source.arrays, *(_flat(source.read(one)) for one in plan.derived)]
            form = plan.form
            if plan.of_ranks:
                each = plan.each_rank(source)
                parts.append(plan.who(each))
                if (kept := self._due(each, plan.every)) is not None:
                    parts.append(_flat(kept))
                    form = plan.form_with_ranks
            values = np.concatenate([part.values for part in parts])
            missing = np.concatenate([part.missing for part in parts])
        self._history.append(self._run, Row(step, now, singles(values, missing), form))

    def _due(self, each: Values, every: int) -> Values | None:
        """Each rank's greatest since the last time, every so many steps."""
        before = self._greatest
        if before is not None:
            most = np.maximum(
                np.where(each.missing, -np.inf, each.values),
                np.where(before.missing, -np.inf, before.values),
            )
            each = Values(most, each.missing & before.missing)
        self._since += 1
        if self._since < every:
            self._greatest = each
            return None
        self._greatest, self._since = None, 0
        return each


def _flat(values: Values) -> Values:
    return Values(values.values.reshape(-1), values.missing.reshape(-1))


class _Plan:
    """Where in a row what is, as long as nothing more is announced."""

    def __init__(self, columns: Columns, most: int) -> None:
        self._columns = columns
        self._size = _size(columns)
        self.derived = [
            Reading(signal)
            for signal in sorted(DERIVED)
            if CATALOG[signal].label not in _LABELS_LEFT_OUT
            and all(one in columns.of_signal for one in sources(signal))
        ]
        ranks = columns.axes[RANK_AXIS].labels
        self.of_ranks = [
            signal for signal in OF_RANKS if columns.knows(Reading(signal, by_rank=True))
        ]
        if len(ranks) < 2:
            self.of_ranks = []
        self._ranks = np.array([int(rank) for rank in ranks])
        self._along = np.full(len(columns), -1, np.intp)
        for line, signal in enumerate(self.of_ranks):
            if signal != _WAIT:
                self._along[columns.of_signal[signal][0][0]] = line
        cells = max(1, len(self.of_ranks) * len(ranks))
        self.every = 1 << max(0, (cells - 1) // most).bit_length()
        self.form, self.form_with_ranks = self._forms(ranks)

    def fits(self, columns: Columns) -> bool:
        """Whether nothing more was announced since."""
        return columns is self._columns and _size(columns) == self._size

    def _forms(self, ranks: list[str]) -> tuple[Form, Form]:
        parts: dict[str, list[tuple[str, int]]] = {}
        for at, (signal, label) in enumerate(self._places()):
            if signal in _LEFT_OUT or CATALOG[signal].label in _LABELS_LEFT_OUT:
                continue
            sheet = parts.setdefault(signal if label else ALONE, [])
            if len(sheet) < LABELS:
                sheet.append((label or signal, at))
        at = sum(1 for _ in self._places())
        for signal in self.of_ranks:
            parts.setdefault(ALONE, []).append((greatest(signal), at))
            at += 1
        plain = [_part(sheet, named) for sheet, named in parts.items()]
        rows = []
        for signal in self.of_ranks:
            rows.append(
                _part(by_rank(signal), list(zip(ranks, range(at, at + len(ranks)), strict=True)))
            )
            at += len(ranks)
        return Form(tuple(plain)), Form((*plain, *rows))

    def _places(self) -> Iterator[tuple[str, str]]:
        """The signal and the label of each value before those of ranks."""
        for series in self._columns.series:
            yield series.signal, series.label
        for reading in self.derived:
            label = CATALOG[reading.signal].label
            if not label:
                yield reading.signal, ""
                continue
            for each in self._columns.axes[label].labels:
                yield reading.signal, each

    def each_rank(self, source: JudgedStep) -> Values:
        """What each rank measured: signals by slots."""
        values, missing = source.of_ranks(self._along, len(self.of_ranks))
        if _WAIT in self.of_ranks:
            line = self.of_ranks.index(_WAIT)
            waits = source.read(Reading(_WAIT, by_rank=True))
            values[line] = np.where(waits.missing, 0.0, waits.values).sum(axis=0)
            missing[line] = waits.missing.all(axis=0)
        return Values(values, missing)

    def who(self, each: Values) -> Values:
        """Which rank had the greatest value of each signal, or one that is not finite."""
        most = np.where(each.missing, -np.inf, each.values).argmax(axis=1)
        return Values(self._ranks[most].astype(float), np.asarray(each.missing.all(axis=1)))


def _size(columns: Columns) -> tuple[int, int]:
    return len(columns), len(columns.axes[RANK_AXIS].labels)


def _part(sheet: str, named: list[tuple[str, int]]) -> Part:
    names = tuple(name for name, _ in named)
    return Part(sheet, names, np.array([at for _, at in named], np.intp))
