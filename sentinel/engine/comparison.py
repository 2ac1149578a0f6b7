"""How a rank that an alert names compares with the other ranks, and with what it was itself."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sentinel.engine.language.expression import (
    RANK_AXIS,
    Disagrees,
    Expression,
    RankOutlier,
    Reading,
    readings,
    walk,
)
from sentinel.engine.layout import Columns
from sentinel.engine.rule import Key
from sentinel.engine.step import JudgedStep
from sentinel.engine.transition import Evidence
from sentinel.engine.window import Floats
from sentinel.signals import CATALOG

KEPT = 256  # judged steps at which a signal was measured,
KEPT_OF_LABELS = 16  # and of one that has a value for each label
RECENT = 8  # of them, the last, are what a rank does now,
EARLIER = 16  # and the first are what it did before


@dataclass(frozen=True)
class _Step:
    """One signal at one judged step: by label and the rank's slot; NaN where not measured."""

    number: int
    values: Floats  # [labels, ranks]


@dataclass(frozen=True)
class _Row:
    """One label's values at one judged step."""

    number: int
    own: float
    others: Floats


def is_of_agreement(expression: Expression) -> bool:
    """Whether a rule asks which ranks do not say what most of them say."""
    return any(isinstance(node, Disagrees) for node in walk(expression.root))


def compares(expression: Expression) -> bool:
    """Whether a rule of steps holds a rank's own value against those of others."""
    if expression.when != "step" or RANK_AXIS not in expression.axes:
        return False
    if any(isinstance(node, (Disagrees, RankOutlier)) for node in walk(expression.root)):
        return True
    read = set(readings(expression.root))
    return any(one.by_rank and Reading(one.signal) in read for one in read)


class Comparisons:
    """Remembers what each rank measured at the last steps, for rules that compare ranks."""

    def __init__(self, expressions: Iterable[Expression], columns: Columns) -> None:
        self._columns = columns
        self._past: dict[str, deque[_Step]] = {
            one.signal: deque(maxlen=KEPT_OF_LABELS if CATALOG[one.signal].label else KEPT)
            for one in expressions
            if compares(one)
        }

    def learn(self, step: JudgedStep, number: int) -> None:
        """A step has been judged."""
        if len(self._columns.axes[RANK_AXIS].labels) < 2:
            return
        for signal, past in self._past.items():
            reading = Reading(signal, by_rank=True)
            if not self._columns.knows(reading):
                continue
            values, missing = step.read(reading)
            told = np.atleast_2d(np.where(missing, np.nan, values))
            while past and past[-1].number >= number:  # the run went back
                past.pop()
            if not np.isnan(told).all():
                past.append(_Step(number, told))

    def forget(self) -> None:
        """Another job begins."""
        for past in self._past.values():
            past.clear()

    def of(self, expression: Expression, key: Key, since: int) -> tuple[Evidence, ...]:
        """What an alert with this key, whose condition holds since a step, rests on."""
        past = self._past.get(expression.signal)
        if not past or not compares(expression):
            return ()
        places = dict(zip(expression.axes, key, strict=True))
        slot = self._columns.axes[RANK_AXIS].find(places[RANK_AXIS])
        label = CATALOG[expression.signal].label
        line = self._columns.axes[label].find(places[label]) if label in places else 0
        if slot is None or line is None or (label and label not in places):
            return ()
        rows = [row for one in past if (row := _row(one, line, slot)) is not None]
        rank = int(places[RANK_AXIS])
        if not rows:
            return ()
        if is_of_agreement(expression):
            return _agreement(rows, rank)
        return _difference(expression.signal, rows, rank, since)


def _row(step: _Step, line: int, slot: int) -> _Row | None:
    """What a rank measured at a step, and what the others did; None if it did not."""
    lines, ranks = step.values.shape
    if line >= lines or slot >= ranks or math.isnan(step.values[line, slot]):
        return None
    others = np.delete(step.values[line], slot)
    return _Row(step.number, float(step.values[line, slot]), others[~np.isnan(others)])


def _difference(signal: str, rows: Sequence[_Row], rank: int, since: int) -> tuple[Evidence, ...]:
    """The rank's value now against the median of the others', and against its own before."""
    now = rows[-RECENT:]
    before = [row for row in rows[:-RECENT] if row.number < since][:EARLIER]
    own, others = _medians(now)
    if math.isnan(own) or math.isnan(others):
        return ()
    said = _SAID.get(signal, f"{signal} of rank {{rank}} is {{value:.3g}}")
    title = f"{said.format(rank=rank, value=own)}, the others {others:.3g} (median)"
    text = f"medians over steps {now[0].number} to {now[-1].number}"
    own_before, others_before = _medians(before)
    if not math.isnan(own_before):
        title += f"; before, it was {own_before:.3g} and {others_before:.3g}"
        text += f"; before: over steps {before[0].number} to {before[-1].number}"
    return (Evidence("comparison", title, text, rank),)


_SAID = {"exposed_communication_seconds": "rank {rank} waits {value:.3g} s a step"}


def _medians(rows: Sequence[_Row]) -> tuple[float, float]:
    """Over the steps: of the rank, and of the median of the others."""
    return _median([row.own for row in rows]), _median([_median(row.others) for row in rows])


def _median(values: Sequence[float] | Floats) -> float:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if known.size else math.nan


def _agreement(rows: Sequence[_Row], rank: int) -> tuple[Evidence, ...]:
    """How many agree with one another and not with this rank, and when it last did."""
    last = rows[-1]
    _, count = _most(last.others)
    if 2 * count <= len(last.others) + 1:
        return ()  # nobody knows who is right
    total = len(last.others)
    many = f"{count} of {total} others" if count < total else f"all {count} others"
    agreed = [row.number for row in rows if row.own == _most(row.others)[0]]
    since = f"it last did at step {agreed[-1]}" if agreed else "it never did"
    title = f"{many} agree with one another at step {last.number}, rank {rank} does not; {since}"
    text = f"compared at steps {', '.join(str(row.number) for row in rows)}"
    return (Evidence("comparison", title, text, rank),)


def _most(values: Floats) -> tuple[float, int]:
    """What most say, and how many of them do."""
    if not values.size:
        return math.nan, 0
    said, counts = np.unique(values, return_counts=True)
    return float(said[counts.argmax()]), int(counts.max())
