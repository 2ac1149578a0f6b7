"""Evaluate expressions at one step, over all labels at once, with state that rules share.

A number's elements are an array with one axis for each of its labels (`axes_of`), in the order in
which the run came to know the labels; joining two numbers by labels is then broadcasting. Equal
subexpressions are one operator, evaluated once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial

import numpy as np

from sentinel.engine import window
from sentinel.engine.detectors import Detector
from sentinel.engine.evaluation import across_ranks, elementwise
from sentinel.engine.evaluation.elementwise import ARITHMETIC, COMPARISONS, Joining
from sentinel.engine.evaluation.memory import Past, Room, Scores
from sentinel.engine.evaluation.values import Clock, Operator, Source, Truths, Values
from sentinel.engine.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Disagrees,
    Either,
    Forecast,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    RankOutlier,
    Reading,
    Score,
    SecondsSince,
    Statistic,
    StatisticName,
    Window,
    axes_of,
)
from sentinel.engine.sorted_window import SortedWindow

_STATISTICS: Mapping[StatisticName, window.Statistic] = {
    "mean": window.mean,
    "std": window.std,
    "median": window.median,
    "mad": window.median_absolute_deviation,
    "min": window.low,
    "max": window.high,
    "slope": window.rough_slope,
}


class Graph:
    """The operators of all rules of a run, and what they remember of earlier steps."""

    def __init__(self) -> None:
        self._numbers: dict[Number, Operator[Values]] = {}
        self._conditions: dict[Condition, Operator[Truths]] = {}
        self._windows: dict[Window, Past] = {}
        self._scores: dict[Window | Score, Scores] = {}
        self._room = Room()

    def number(self, node: Number) -> Operator[Values]:
        """The operator that evaluates this number."""
        if node not in self._numbers:
            self._numbers[node] = Operator(self._number(node))
        return self._numbers[node]

    def condition(self, node: Condition) -> Operator[Truths]:
        """The operator that evaluates this condition."""
        if node not in self._conditions:
            self._conditions[node] = Operator(self._condition(node))
        return self._conditions[node]

    def learn(self, source: Source) -> None:
        """Let this step's values into the windows, once all rules have been evaluated."""
        for past in self._windows.values():
            past.learn(source)

    @property
    def cells(self) -> int:
        """How many values all that it remembers may hold by now."""
        return sum(state.cells for _, state in self._states)

    def remember(self) -> dict[Window | Score, object]:
        """A copy of what is known of earlier steps."""
        return {node: state.remember() for node, state in self._states}

    def recall(self, memory: Mapping[Window | Score, object]) -> None:
        """Go on from such a copy; what it does not have begins anew."""
        for node, state in self._states:
            state.recall(deepcopy(memory.get(node)))

    @property
    def _states(self) -> list[tuple[Window | Score, Past | Scores]]:
        return [*self._windows.items(), *self._scores.items()]

    def inherit(self, known: Mapping[Window | Score, Detector | SortedWindow]) -> None:
        """Go on from what is known of single numbers, each of them an array's first element."""
        for node, memory in known.items():
            if isinstance(node, Window) and isinstance(memory, SortedWindow):
                if node in self._windows:
                    self._windows[node].inherit(memory, len(axes_of(node)))
            elif node in self._scores and not isinstance(memory, SortedWindow):
                self._scores[node].inherit(memory, len(axes_of(node)))

    def _window(self, node: Window) -> Past:
        if node not in self._windows:
            self._windows[node] = Past(self.number(node.of), node.length, self._room)
        return self._windows[node]

    def _number(self, node: Number) -> Callable[[Source], Values]:
        if isinstance(node, Constant):
            constant = Values(np.asarray(node.value), np.asarray(False))
            return lambda source: constant
        if isinstance(node, Reading):
            return lambda source: source.read(node)
        if isinstance(node, Statistic):
            return self._statistic(node)
        if isinstance(node, Score):
            self._scores[node] = Scores(node, self._room)
            return partial(self._scores[node].of, self.number(node.of))
        if isinstance(node, Forecast):
            return self._forecast(node)
        if isinstance(node, RankOutlier):
            return partial(across_ranks.rank_outlier, self.number(node.of))
        if isinstance(node, SecondsSince):
            return partial(_seconds_since, node.of)
        if isinstance(node, Negative):
            return partial(elementwise.negative, self.number(node.of))
        left, right, join = self.number(node.left), self.number(node.right), _joining(node)
        return partial(elementwise.arithmetic, ARITHMETIC[node.operator], left, right, join)

    def _statistic(self, node: Statistic) -> Callable[[Source], Values]:
        past = self._window(node.window)
        if node.name == "count":
            return past.count
        if node.name == "quantile":
            assert node.share is not None
            return partial(past.over, partial(window.quantile, share=node.share))
        if node.name == "slope" and not axes_of(node):
            return partial(past.over, window.slope)
        return partial(past.over, _STATISTICS[node.name])

    def _forecast(self, node: Forecast) -> Callable[[Source], Values]:
        now, limit = self.number(node.window.of), self.number(node.limit)
        slope = self.number(Statistic("slope", node.window))
        join = Joining(axes_of(node), axes_of(node.limit), axes_of(node.window))
        return partial(elementwise.forecast, now, slope, limit, join)

    def _condition(self, node: Condition) -> Callable[[Source], Truths]:
        if isinstance(node, Comparison):
            left, right, join = self.number(node.left), self.number(node.right), _joining(node)
            return partial(elementwise.comparison, COMPARISONS[node.operator], left, right, join)
        if isinstance(node, NonFinite):
            return partial(elementwise.nonfinite, self.number(node.of))
        if isinstance(node, Missing):
            return partial(elementwise.is_missing, self.number(node.of))
        if isinstance(node, Disagrees):
            of, tolerance = self.number(node.of), node.tolerance
            return lambda source: across_ranks.disagrees(of, tolerance, source)
        if isinstance(node, Not):
            return partial(elementwise.negation, self.condition(node.of))
        one, other = self.condition(node.left), self.condition(node.right)
        logic = elementwise.both if isinstance(node, Both) else elementwise.either
        return partial(logic, one, other, _joining(node))


def _joining(node: Arithmetic | Comparison | Both | Either) -> Joining:
    return Joining(axes_of(node), axes_of(node.left), axes_of(node.right))


def _seconds_since(reading: Reading, source: Source) -> Values:
    if not isinstance(source, Clock):
        raise TypeError("how long ago something was measured is asked of the clock alone")
    return source.since(reading)
