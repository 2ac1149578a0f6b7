"""Evaluate expressions at one step, over all labels at once, with state that rules share.

A number's elements are an array with one axis for each of its labels (`axes_of`), in the order in
which the run came to know the labels; joining two numbers by labels is then broadcasting. Equal
subexpressions are one operator, evaluated once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sentinel.engine import window
from sentinel.engine.detectors import Detector, build
from sentinel.engine.expression import (
    WARM,
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Either,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    Reading,
    Score,
    Statistic,
    Window,
    axes_of,
)
from sentinel.engine.window import Bools, Floats, RingWindow


class Values(NamedTuple):
    """The elements of a number. Where `missing`, the value means nothing."""

    values: Floats
    missing: Bools


class Truths(NamedTuple):
    """The elements of a condition; never both true and missing."""

    true: Bools
    missing: Bools


class Source(Protocol):
    """What was measured at one step."""

    def read(self, reading: Reading) -> Values:
        """The signal's elements at this step; all of them missing when nobody measures it."""
        ...


_Result = TypeVar("_Result", Values, Truths)
_Kind = TypeVar("_Kind", bound=np.generic)

_ARITHMETIC: dict[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}
_COMPARISONS: dict[str, Callable[[Floats, Floats], Bools]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_STATISTICS = {
    "mean": window.mean,
    "std": window.std,
    "median": window.median,
    "mad": window.median_absolute_deviation,
    "min": window.low,
    "max": window.high,
    "slope": window.slope,
}


class Operator(Generic[_Result]):
    """A function of the step, evaluated once for each."""

    def __init__(self, function: Callable[[Source], _Result]) -> None:
        self._function: Callable[[Source], _Result] = function
        self._last: tuple[Source, _Result] | None = None

    def __call__(self, source: Source) -> _Result:
        if self._last is None or self._last[0] is not source:
            self._last = (source, self._function(source))
        return self._last[1]


class Past:
    """The window of a number: its finite values before this step."""

    def __init__(self, of: Operator[Values], length: int) -> None:
        self._of = of
        self._ring = RingWindow(length)
        self._warm = min(WARM, length)
        self._used: Source | None = None

    def over(self, statistic: window.Statistic, source: Source) -> Values:
        """A statistic of the window, missing where it is not warm."""
        self._ring.grow(self._of(source).values.shape)
        self._used = source
        return Values(self._ring.over(statistic), np.asarray(self._ring.count < self._warm))

    def learn(self, source: Source) -> None:
        """Take in this step's values, if this step has used the window.

        When it has not, the rules that use it have been switched off.
        """
        if self._used is source:
            values, missing = self._of(source)
            self._ring.push(values, np.isfinite(values) & ~missing)


class Graph:
    """The operators of all rules of a run, and what they remember of earlier steps."""

    def __init__(self) -> None:
        self._numbers: dict[Number, Operator[Values]] = {}
        self._conditions: dict[Condition, Operator[Truths]] = {}
        self._windows: dict[Window, Past] = {}

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

    def _window(self, node: Window) -> Past:
        if node not in self._windows:
            self._windows[node] = Past(self.number(node.of), node.length)
        return self._windows[node]

    def _number(self, node: Number) -> Callable[[Source], Values]:
        if isinstance(node, Constant):
            constant = Values(np.asarray(node.value), np.asarray(False))
            return lambda source: constant
        if isinstance(node, Reading):
            return lambda source: source.read(node)
        if isinstance(node, Statistic):
            return partial(self._window(node.window).over, _STATISTICS[node.name])
        if isinstance(node, Score):
            return partial(Scores(node).of, self.number(node.of))
        if isinstance(node, Negative):
            return partial(_negative, self.number(node.of))
        left, right = self.number(node.left), self.number(node.right)
        return partial(_arithmetic, _ARITHMETIC[node.operator], left, right, Joining(node))

    def _condition(self, node: Condition) -> Callable[[Source], Truths]:
        if isinstance(node, Comparison):
            left, right = self.number(node.left), self.number(node.right)
            return partial(_comparison, _COMPARISONS[node.operator], left, right, Joining(node))
        if isinstance(node, NonFinite):
            return partial(_nonfinite, self.number(node.of))
        if isinstance(node, Missing):
            return partial(_missing, self.number(node.of))
        if isinstance(node, Not):
            return partial(_not, self.condition(node.of))
        one, other = self.condition(node.left), self.condition(node.right)
        join = _both if isinstance(node, Both) else _either
        return partial(join, one, other, Joining(node))


class Joining:
    """How the elements of two operands meet: by their labels, each repeated along what it lacks."""

    def __init__(self, node: Arithmetic | Comparison | Both | Either) -> None:
        axes = axes_of(node)
        self._left = self._index(axes, axes_of(node.left))
        self._right = self._index(axes, axes_of(node.right))

    @staticmethod
    def _index(axes: tuple[str, ...], own: tuple[str, ...]) -> tuple[slice | None, ...] | None:
        """What gives an operand the axes that it lacks; None when it lacks none, or has none."""
        if own in ((), axes):
            return None
        return tuple(slice(None) if axis in own else None for axis in axes)

    def __call__(
        self, left: NDArray[_Kind], right: NDArray[_Kind]
    ) -> tuple[NDArray[_Kind], NDArray[_Kind]]:
        return (
            left if self._left is None else left[self._left],
            right if self._right is None else right[self._right],
        )


class Scores:
    """A detector for each element of a number."""

    def __init__(self, node: Score) -> None:
        self._node = node
        self._shape: tuple[int, ...] | None = None
        self._places: dict[tuple[int, ...], Detector] = {}
        self._detectors: list[Detector] = []  # in the order of an array's elements

    def of(self, number: Operator[Values], source: Source) -> Values:
        """The score of each element, missing where its detector is not warm."""
        values, missing = number(source)
        if self._shape != values.shape:
            self._grow(values.shape)
        told = np.where(missing, np.nan, values).reshape(-1).tolist()
        found = [one.update(value) for one, value in zip(self._detectors, told, strict=True)]
        scores = np.array(found, float).reshape(values.shape)
        return Values(scores, missing | (np.isnan(scores) & np.isfinite(values)))

    def _grow(self, shape: tuple[int, ...]) -> None:
        """Make detectors for the elements that are new."""
        parameters = dict(self._node.parameters)
        for place in np.ndindex(shape):
            if place not in self._places:
                self._places[place] = build(self._node.detector, parameters)
        self._shape = shape
        self._detectors = [self._places[place] for place in np.ndindex(shape)]


def _negative(of: Operator[Values], source: Source) -> Values:
    values, missing = of(source)
    return Values(np.negative(values), missing)


def _arithmetic(
    function: Callable[[Floats, Floats], Floats],
    left: Operator[Values],
    right: Operator[Values],
    join: Joining,
    source: Source,
) -> Values:
    one, other = left(source), right(source)
    values = function(*join(one.values, other.values))
    return Values(values, np.logical_or(*join(one.missing, other.missing)))


def _comparison(
    function: Callable[[Floats, Floats], Bools],
    left: Operator[Values],
    right: Operator[Values],
    join: Joining,
    source: Source,
) -> Truths:
    one, other = left(source), right(source)
    missing = np.logical_or(*join(one.missing, other.missing))
    return Truths(function(*join(one.values, other.values)) & ~missing, missing)


def _nonfinite(of: Operator[Values], source: Source) -> Truths:
    values, missing = of(source)
    return Truths(~np.isfinite(values) & ~missing, missing)


def _missing(of: Operator[Values], source: Source) -> Truths:
    missing = of(source).missing
    return Truths(missing, np.zeros_like(missing))


def _not(of: Operator[Truths], source: Source) -> Truths:
    true, missing = of(source)
    return Truths(~true & ~missing, missing)


def _both(left: Operator[Truths], right: Operator[Truths], join: Joining, source: Source) -> Truths:
    one, other = left(source), right(source)
    true = np.logical_and(*join(one.true, other.true))
    possible = np.logical_and(*join(one.true | one.missing, other.true | other.missing))
    return Truths(true, possible & ~true)


def _either(
    left: Operator[Truths], right: Operator[Truths], join: Joining, source: Source
) -> Truths:
    one, other = left(source), right(source)
    true = np.logical_or(*join(one.true, other.true))
    unknown = np.logical_or(*join(one.missing, other.missing))
    return Truths(true, unknown & ~true)
