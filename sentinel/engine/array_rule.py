"""A rule over all elements of a step, or of a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from sentinel.engine.change import Axes, Change, Moment
from sentinel.engine.evaluation.operators import Graph
from sentinel.engine.evaluation.scalar_memory import Row
from sentinel.engine.evaluation.values import Source
from sentinel.engine.language.expression import Number, axes_of
from sentinel.engine.rule import Alert, Alerts, Key

Index = tuple[int, ...]


class ArrayRule:
    """A rule over all elements of a step, or of a moment."""

    def __init__(self, alerts: Alerts, graph: Graph) -> None:
        self.alerts = alerts
        expression = alerts.rule.expression
        self._axes = expression.axes
        self._condition = graph.condition(expression.root)
        self._graph = graph

    def condition(self, row: Row) -> bool:
        """Whether it may hold, by single numbers, which say nothing of it."""
        return True

    def at(self, moment: Moment) -> Sequence[Change]:
        """Judge a step with its arrays."""
        with np.errstate(all="ignore"):  # NaN and infinities are what we are here for
            return list(self.judge(moment.source, moment.axes, moment.step, moment.now))

    def judge(self, source: Source, axes: Axes, step: int, now: float) -> Iterator[Change]:
        true, missing = self._condition(source)
        alerts = self.alerts
        if not alerts.live and not alerts.beyond and not true.any():
            return
        for key, index in self._candidates(axes, true):
            known = index is not None and all(map(int.__lt__, index, true.shape))
            holds = None if not known or missing[index] else bool(true[index])
            alert = alerts.live.get(key)
            kind = alerts.observe(key, holds, step, now)
            if kind is not None and index is not None:
                yield self._change(kind, key, alerts.live.get(key, alert), index, source)

    def _candidates(
        self, axes: Axes, true: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    ) -> Iterator[tuple[Key, Index | None]]:
        """The elements that may change: those already followed, and those that are true."""
        registered = [axes[axis] for axis in self._axes if axis in axes]
        followed = dict.fromkeys((*self.alerts.live, *self.alerts.beyond))
        for key in followed:
            found = [axis.find(label) for axis, label in zip(registered, key, strict=False)]
            index = tuple(at for at in found if at is not None)
            yield key, index if len(index) == len(self._axes) else None
        for place in np.argwhere(true):
            index = tuple(map(int, place))
            key = tuple(axis.labels[at] for axis, at in zip(registered, index, strict=True))
            if key not in followed:
                yield key, index

    def _change(
        self,
        kind: Literal["fired", "resolved"],
        key: Key,
        alert: Alert | None,
        index: Index,
        source: Source,
    ) -> Change:
        assert alert is not None
        expression = self.alerts.rule.expression
        value = self._element(expression.value, index, source)
        score = self._element(expression.score, index, source)
        return Change(self.alerts.rule, key, kind, alert, value, score)

    def _element(self, node: Number, index: Index, source: Source) -> float:
        """A number at the labels of an element of the whole expression."""
        own = tuple(index[self._axes.index(axis)] for axis in axes_of(node))
        values, missing = self._graph.number(node)(source)
        return math.nan if missing[own] else float(values[own])
