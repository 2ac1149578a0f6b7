"""Operators that look at each element alone, or at two that meet by their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.evaluation.values import Operator, Source, Truths, Values
from sentinel.engine.language.expression import ArithmeticOperator, ComparisonOperator
from sentinel.engine.window import Bools, Floats

_Kind = TypeVar("_Kind", bound=np.generic)

ARITHMETIC: Mapping[ArithmeticOperator, Callable[[Floats, Floats], Floats]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}
COMPARISONS: Mapping[ComparisonOperator, Callable[[Floats, Floats], Bools]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


class Joining:
    """How the elements of two operands meet: by their labels, each repeated along what it lacks.

    `axes` are those of the result, and `left` and `right` those that the operands have of them.
    """

    def __init__(
        self, axes: tuple[str, ...], left: tuple[str, ...], right: tuple[str, ...]
    ) -> None:
        self._left = self._index(axes, left)
        self._right = self._index(axes, right)

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


def negative(of: Operator[Values], source: Source) -> Values:
    values, missing = of(source)
    return Values(np.negative(values), missing)


def arithmetic(
    function: Callable[[Floats, Floats], Floats],
    left: Operator[Values],
    right: Operator[Values],
    join: Joining,
    source: Source,
) -> Values:
    one, other = left(source), right(source)
    values = function(*join(one.values, other.values))
    return Values(values, np.logical_or(*join(one.missing, other.missing)))


def forecast(
    now: Operator[Values],
    slope: Operator[Values],
    limit: Operator[Values],
    join: Joining,
    source: Source,
) -> Values:
    """How often a number must rise by its slope to come to the limit; infinite if it never does."""
    here, rise, goal = now(source), slope(source), limit(source)
    distance = np.subtract(*join(goal.values, here.values))
    times = distance / join(goal.values, rise.values)[1]
    times = np.where(times < 0, np.inf, times)
    missing = np.logical_or(*join(goal.missing, here.missing | rise.missing))
    return Values(np.where(distance == 0, 0.0, times), missing)


def comparison(
    function: Callable[[Floats, Floats], Bools],
    left: Operator[Values],
    right: Operator[Values],
    join: Joining,
    source: Source,
) -> Truths:
    one, other = left(source), right(source)
    missing = np.logical_or(*join(one.missing, other.missing))
    return Truths(function(*join(one.values, other.values)) & ~missing, missing)


def nonfinite(of: Operator[Values], source: Source) -> Truths:
    values, missing = of(source)
    return Truths(~np.isfinite(values) & ~missing, missing)


def is_missing(of: Operator[Values], source: Source) -> Truths:
    missing = of(source).missing
    return Truths(missing, np.zeros_like(missing))


def negation(of: Operator[Truths], source: Source) -> Truths:
    true, missing = of(source)
    return Truths(~true & ~missing, missing)


def both(left: Operator[Truths], right: Operator[Truths], join: Joining, source: Source) -> Truths:
    one, other = left(source), right(source)
    true = np.logical_and(*join(one.true, other.true))
    possible = np.logical_and(*join(one.true | one.missing, other.true | other.missing))
    return Truths(true, possible & ~true)


def either(
    left: Operator[Truths], right: Operator[Truths], join: Joining, source: Source
) -> Truths:
    one, other = left(source), right(source)
    true = np.logical_or(*join(one.true, other.true))
    unknown = np.logical_or(*join(one.missing, other.missing))
    return Truths(true, unknown & ~true)
