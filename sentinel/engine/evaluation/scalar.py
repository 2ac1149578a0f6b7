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
from copy import deepcopy
from functools import partial

import numpy as np

from sentinel.engine import window
from sentinel.engine.detectors import Detector
from sentinel.engine.evaluation.scalar_memory import NumberFunction, Past, Row, Scoring
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
from sentinel.engine.window import SortedWindow

ConditionFunction = Callable[[Row], "bool | None"]
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
        self._fed: list[tuple[Stateful, Remembered]] = []
        self._pasts: list[Past] = []

    # Step by step.

    def feed_only(self, nodes: Iterable[Stateful]) -> None:
        """From now on these learn, and no others."""
        wanted = set(nodes)
        self._fed = [(node, state) for node, state in self.states.items() if node in wanted]
        self._pasts = [state for _, state in self._fed if isinstance(state, Past)]

    def take(self, row: Row) -> list[Stateful]:
        """Take in a step that is about to be judged. Returns what failed to."""
        failed: list[Stateful] = []
        for node, state in self._fed:
            try:
                state.take(row)
            except Exception:  # noqa: BLE001 - it concerns only the rules that ask for it
                failed.append(node)
        return failed

    def learn(self) -> None:
        """Let the step's values into the windows, once all rules have been judged."""
        for past in self._pasts:
            past.learn()

    @property
    def cells(self) -> int:
        """How many values all that is remembered may hold."""
        return sum(held(node) for node in self.states)

    def remember(self) -> dict[Stateful, Detector | SortedWindow]:
        """A copy of all that is known of earlier steps; empty windows are left out."""
        known = {node: state for node, state in self.states.items() if not state.is_empty}
        return {node: deepcopy(state.memory) for node, state in known.items()}

    def recall(self, memory: Mapping[Stateful, object]) -> None:
        """Go on from a copy; what it does not have begins anew."""
        for node, state in self.states.items():
            known = memory.get(node)
            state.memory = state.fresh() if known is None else deepcopy(known)  # type: ignore[assignment]

    # From nodes to functions.

    def number(self, node: Number) -> NumberFunction:
        """The function that evaluates a number."""
        if isinstance(node, Constant):
            value = node.value
            return lambda row: value
        if isinstance(node, Reading):
            name = key(node)
            return lambda row: row.get(name)
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
            return _nonfinite(self.number(node.of))
        if isinstance(node, Missing):
            of = self.number(node.of)
            return lambda row: of(row) is None
        if isinstance(node, Disagrees):
            return _disagrees(self.number(node.of))
        if isinstance(node, Not):
            return _not(self.condition(node.of))
        join = _both if isinstance(node, Both) else _either
        return join(self.condition(node.left), self.condition(node.right))

    def _comparison(self, node: Comparison) -> ConditionFunction:
        function, left = _COMPARISONS[node.operator], self.number(node.left)
        if isinstance(node.right, Constant):
            return _comparison_with(function, left, node.right.value)
        return _comparison(function, left, self.number(node.right))

    def _scoring(self, node: Score) -> Scoring:
        of = self.number(node.of)  # first, so that it comes before in `states`
        state = self.states.setdefault(node, Scoring(node, of))
        assert isinstance(state, Scoring)
        return state

    def _past(self, node: Window) -> Past:
        of = self.number(node.of)
        state = self.states.setdefault(node, Past(node, of))
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
    return lambda row: state.value


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


def _comparison(
    function: Callable[[float, float], bool], left: NumberFunction, right: NumberFunction
) -> ConditionFunction:
    def comparison(row: Row) -> bool | None:
        one, other = left(row), right(row)
        return None if one is None or other is None else function(one, other)

    return comparison


def _comparison_with(
    function: Callable[[float, float], bool], left: NumberFunction, right: float
) -> ConditionFunction:
    def comparison(row: Row) -> bool | None:
        one = left(row)
        return None if one is None else function(one, right)

    return comparison


def _nonfinite(of: NumberFunction) -> ConditionFunction:
    def nonfinite(row: Row) -> bool | None:
        value = of(row)
        return None if value is None else not math.isfinite(value)

    return nonfinite


def _disagrees(of: NumberFunction) -> ConditionFunction:
    def disagrees(row: Row) -> bool | None:
        return None if of(row) is None else False  # one rank alone is of one mind

    return disagrees


def _not(of: ConditionFunction) -> ConditionFunction:
    def negation(row: Row) -> bool | None:
        true = of(row)
        return None if true is None else not true

    return negation


# What has memory has taken in its step before: to leave out the other side changes nothing.


def _both(left: ConditionFunction, right: ConditionFunction) -> ConditionFunction:
    def both(row: Row) -> bool | None:
        one = left(row)
        if one is False:
            return False
        other = right(row)
        if other is False:
            return False
        return None if one is None or other is None else True

    return both


def _either(left: ConditionFunction, right: ConditionFunction) -> ConditionFunction:
    def either(row: Row) -> bool | None:
        one = left(row)
        if one:
            return True
        other = right(row)
        if other:
            return True
        return None if one is None or other is None else False

    return either
