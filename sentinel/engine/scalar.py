"""An expression over one rank's own values, as a plain function of floats.

The same meaning as in `operators.py` (a property test holds the two together), without arrays:
it runs for every rule that is judged at the arrival of every frame.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

from sentinel.engine.expression import (
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Disagrees,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    Reading,
)

Row = Mapping[str, float]  # signal -> value, for those that were measured
NumberFunction = Callable[[Row], "float | None"]  # None: missing
ConditionFunction = Callable[[Row], "bool | None"]


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


def number(node: Number) -> NumberFunction:
    """The function that evaluates a number without state."""
    if isinstance(node, Constant):
        value = node.value
        return lambda row: value
    if isinstance(node, Reading):
        signal = node.signal
        return lambda row: row.get(signal)
    if isinstance(node, Negative):
        return _negative(number(node.of))
    if isinstance(node, Arithmetic):
        return _arithmetic(_ARITHMETIC[node.operator], number(node.left), number(node.right))
    raise TypeError(f"{type(node).__name__} depends on earlier steps")


def condition(node: Condition) -> ConditionFunction:
    """The function that evaluates a condition without state."""
    if isinstance(node, Comparison):
        return _comparison(_COMPARISONS[node.operator], number(node.left), number(node.right))
    if isinstance(node, NonFinite):
        return _nonfinite(number(node.of))
    if isinstance(node, Missing):
        of = number(node.of)
        return lambda row: of(row) is None
    if isinstance(node, Disagrees):
        raise TypeError("one rank alone disagrees with nobody")
    if isinstance(node, Not):
        return _not(condition(node.of))
    join = _both if isinstance(node, Both) else _either
    return join(condition(node.left), condition(node.right))


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


def _nonfinite(of: NumberFunction) -> ConditionFunction:
    def nonfinite(row: Row) -> bool | None:
        value = of(row)
        return None if value is None else not math.isfinite(value)

    return nonfinite


def _not(of: ConditionFunction) -> ConditionFunction:
    def negation(row: Row) -> bool | None:
        true = of(row)
        return None if true is None else not true

    return negation


def _both(left: ConditionFunction, right: ConditionFunction) -> ConditionFunction:
    def both(row: Row) -> bool | None:
        one, other = left(row), right(row)
        if one is False or other is False:
            return False
        return None if one is None or other is None else True

    return both


def _either(left: ConditionFunction, right: ConditionFunction) -> ConditionFunction:
    def either(row: Row) -> bool | None:
        one, other = left(row), right(row)
        if one or other:
            return True
        return None if one is None or other is None else False

    return either
