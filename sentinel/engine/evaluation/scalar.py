"""Expressions of numbers without labels, as plain functions of floats.

The same meaning as in `operators.py` (a property test holds the two together), without arrays: for
rules that are judged at the arrival of every frame, and for all whose numbers are single ones.

What expressions remember of earlier steps is kept in `Remembered` objects, never in the functions
made here: these ask them for what they know at the step that is judged, so that a memory can be
copied, put aside and taken up again.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import isfinite

import numpy as np

from sentinel.engine import window
from sentinel.engine.evaluation import scalar_condition as conditions
from sentinel.engine.evaluation.scalar_condition import ConditionFunction
from sentinel.engine.evaluation.scalar_memory import (
    Fed,
    Memory,
    NumberFunction,
    Past,
    Row,
    Scoring,
    copy_of,
    scoring,
)
from sentinel.engine.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Disagrees,
    Forecast,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    RankOutlier,
    Reading,
    Score,
    Statistic,
    Window,
    axes_of,
)
from sentinel.engine.language.functions import held
from sentinel.engine.sorted_window import SortedWindow

Stateful = Score | Window


def key(reading: Reading) -> str:
    """Under which name a row has this reading: the signal's own, if it is of a rank alone."""
    name = reading.signal if reading.by_rank else f"{reading.signal} over ranks"
    return name if reading.label is None else f"{name} {reading.label}"


def divide(left: float, right: float) -> float:
    """Division as IEEE 754 has it, which Python's own is not when the divisor is zero."""
    if right != 0:
        return left / right
    if left == 0 or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide,
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_STATISTICS: dict[str, Callable[[SortedWindow], float]] = {
    "mean": SortedWindow.mean,
    "std": SortedWindow.std,
    "median": SortedWindow.median,
    "mad": SortedWindow.mad,
    "min": SortedWindow.low,
    "max": SortedWindow.high,
}


Remembered = Scoring | Past


class ScalarGraph:
    """The functions of all rules that share their memory."""

    def __init__(self) -> None:
        self.states: dict[Stateful, Remembered] = {}  # those that others are made of come first
        self._wanted: set[Stateful] = set()  # what learns
        self._fed: list[Fed] = []

    # Step by step.

    def feed_only(self, nodes: Iterable[Stateful]) -> None:
        """From now on these learn, and no others."""
        self._wanted = set(nodes)
        self._feed()

    def _feed(self) -> None:
        """Find out anew what learns from which number."""
        fed: dict[Number, tuple[dict[Score, Scoring], dict[Window, Past]]] = {}
        for node, state in self.states.items():
            if node in self._wanted:
                scorings, pasts = fed.setdefault(node.of, ({}, {}))
                if isinstance(node, Score) and isinstance(state, Scoring):
                    scorings[node] = state
                elif isinstance(node, Window) and isinstance(state, Past):
                    pasts[node] = state
        self._fed = [Fed(self.number(of), *told) for of, told in fed.items()]

    def take(self, row: Row) -> list[Stateful]:
        """Take in a step that is about to be judged. Returns what failed to."""
        failed: list[Stateful] = []
        for one in self._fed:
            try:
                value = one.coming = one.number(row)
            except Exception:  # noqa: BLE001 - it concerns only the rules that ask for it
                value = one.coming = None
                failed += [*(node for node, *_ in one.scorings), *one.pasts]
            for node, state, learns in one.scorings:
                if value is None:
                    state.bound = None
                    continue
                try:
                    bound = learns(value)
                    state.bound = bound if bound == bound or not isfinite(value) else None
                except Exception:  # noqa: BLE001
                    failed.append(node)
        return failed

    def learn(self) -> None:
        """Let the step's values into the windows, once all rules have been judged."""
        for one in self._fed:
            if one.windows:
                value = one.coming
                if value is not None and isfinite(value):
                    for memory in one.windows:
                        memory.push(value)

    @property
    def cells(self) -> int:
        """How many values all that is remembered may hold."""
        return sum(held(node) for node in self.states)

    def remember(self) -> dict[Stateful, Memory]:
        """A copy of all that is known of earlier steps; empty windows are left out."""
        known = {node: state for node, state in self.states.items() if not state.is_empty}
        return {node: copy_of(state.memory) for node, state in known.items()}

    def recall(self, memory: Mapping[Stateful, object]) -> None:
        """Between two steps: go on from a copy; what it does not have begins anew."""
        for node, state in self.states.items():
            known = memory.get(node)
            state.memory = state.fresh() if known is None else copy_of(known)  # type: ignore
        self._feed()

    # From nodes to functions.

    def number(self, node: Number) -> NumberFunction:
        """The function that evaluates a number."""
        if isinstance(node, Constant):
            value = node.value
            return lambda row: value
        if isinstance(node, Reading):
            return operator.methodcaller("get", key(node))  # row.get(name), as a function of C
        if isinstance(node, Negative):
            return _negative(self.number(node.of))
        if isinstance(node, Arithmetic):
            function = _ARITHMETIC[node.operator]
            return _arithmetic(function, self.number(node.left), self.number(node.right))
        if isinstance(node, Score):
            return _scored(self._scoring(node))
        if isinstance(node, Statistic):
            return self._statistic(node)
        if isinstance(node, Forecast):
            slope = self._statistic(Statistic("slope", node.window))
            return _forecast(self.number(node.window.of), slope, self.number(node.limit))
        if isinstance(node, RankOutlier):
            return lambda row: None  # of one rank alone nobody can say
        raise TypeError(f"{type(node).__name__} is asked of the clock alone")

    def condition(self, node: Condition) -> ConditionFunction:
        """The function that evaluates a condition."""
        if isinstance(node, Comparison):
            return self._comparison(node)
        if isinstance(node, NonFinite):
            return conditions.nonfinite(self.number(node.of))
        if isinstance(node, Missing):
            of = self.number(node.of)
            return lambda row: of(row) is None
        if isinstance(node, Disagrees):
            return conditions.disagrees(self.number(node.of))
        if isinstance(node, Not):
            return conditions.negated(self.condition(node.of))
        join = conditions.both if isinstance(node, Both) else conditions.either
        return join(self.condition(node.left), self.condition(node.right))

    def _comparison(self, node: Comparison) -> ConditionFunction:
        function, left, right = _COMPARISONS[node.operator], node.left, node.right
        if not isinstance(right, Constant):
            return conditions.compared(function, self.number(left), self.number(right))
        if isinstance(left, Reading):
            return conditions.reading_against(function, key(left), right.value)
        if isinstance(left, Score) and node.operator in (">", ">="):
            return conditions.score_against(function, self._scoring(left), right.value)
        return conditions.compared_with(function, self.number(left), right.value)

    def _scoring(self, node: Score) -> Scoring:
        self.number(node.of)  # first, so that it comes before in `states`
        state = self.states.setdefault(node, scoring(node))
        assert isinstance(state, Scoring)
        return state

    def _past(self, node: Window) -> Past:
        self.number(node.of)
        state = self.states.setdefault(node, Past(node))
        assert isinstance(state, Past)
        return state

    def _statistic(self, node: Statistic) -> NumberFunction:
        past = self._past(node.window)
        if node.name == "count":
            return lambda row: float(len(past.memory))
        if node.name == "quantile":
            assert node.share is not None
            return _of_window(past, partial(_quantile, node.share))
        if node.name == "slope":
            return _of_window(past, partial(_slope, _SLOPES[bool(axes_of(node))]))
        return _of_window(past, _STATISTICS[node.name])


def number(node: Number) -> NumberFunction:
    """The function that evaluates a number without memory."""
    return ScalarGraph().number(node)


def condition(node: Condition) -> ConditionFunction:
    """The function that evaluates a condition without memory."""
    return ScalarGraph().condition(node)


def _scored(state: Scoring) -> NumberFunction:
    return lambda row: state.score()


def _of_window(past: Past, statistic: Callable[[SortedWindow], float]) -> NumberFunction:
    warm = past.warm

    def over(row: Row) -> float | None:
        memory = past.memory
        return statistic(memory) if len(memory) >= warm else None

    return over


def _quantile(share: float, memory: SortedWindow) -> float:
    return memory.quantile(share)


_SLOPES = {False: window.slope, True: window.rough_slope}  # of a number alone, and by rank


def _slope(statistic: window.Statistic, memory: SortedWindow) -> float:
    with np.errstate(all="ignore"):
        return float(statistic(np.fromiter(memory, float, len(memory))))


def _forecast(now: NumberFunction, slope: NumberFunction, limit: NumberFunction) -> NumberFunction:
    def forecast(row: Row) -> float | None:
        here, goal = now(row), limit(row)
        if here is None or goal is None:
            return None
        rise = slope(row)
        if rise is None:
            return None
        distance = goal - here
        if distance == 0:
            return 0.0
        times = divide(distance, rise)
        return math.inf if times < 0 else times

    return forecast


def _negative(of: NumberFunction) -> NumberFunction:
    def negative(row: Row) -> float | None:
        value = of(row)
        return None if value is None else -value

    return negative


def _arithmetic(
    function: Callable[[float, float], float], left: NumberFunction, right: NumberFunction
) -> NumberFunction:
    def arithmetic(row: Row) -> float | None:
        one, other = left(row), right(row)
        return None if one is None or other is None else function(one, other)

    return arithmetic
