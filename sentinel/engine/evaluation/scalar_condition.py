"""Conditions over single numbers, as functions of a row: true, false, or None where missing."""

from __future__ import annotations

import math
from collections.abc import Callable

from sentinel.engine.evaluation.scalar_memory import NumberFunction, Row, Scoring

ConditionFunction = Callable[[Row], "bool | None"]


def compared(
    function: Callable[[float, float], bool], left: NumberFunction, right: NumberFunction
) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        one, other = left(row), right(row)
        return None if one is None or other is None else function(one, other)

    return condition


def compared_with(
    function: Callable[[float, float], bool], left: NumberFunction, right: float
) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        one = left(row)
        return None if one is None else function(one, right)

    return condition


def reading_against(
    function: Callable[[float, float], bool], name: str, right: float
) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        one = row.get(name)
        return None if one is None else function(one, right)

    return condition


def score_against(
    above: Callable[[float, float], bool], state: Scoring, limit: float
) -> ConditionFunction:
    """Whether it is above: the score itself is worked out only where its bound is."""

    def condition(row: Row) -> bool | None:
        bound = state.bound
        if bound is None:
            return None
        if not above(bound, limit):
            return False
        score = state.score()
        return score is not None and above(score, limit)

    return condition


def nonfinite(of: NumberFunction) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        value = of(row)
        return None if value is None else not math.isfinite(value)

    return condition


def disagrees(of: NumberFunction) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        return None if of(row) is None else False  # one rank alone is of one mind

    return condition


def negated(of: ConditionFunction) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        true = of(row)
        return None if true is None else not true

    return condition


# What has memory has taken in its step before: to leave out the other side changes nothing.


def both(left: ConditionFunction, right: ConditionFunction) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        one = left(row)
        if one is False:
            return False
        other = right(row)
        if other is False:
            return False
        return None if one is None or other is None else True

    return condition


def either(left: ConditionFunction, right: ConditionFunction) -> ConditionFunction:
    def condition(row: Row) -> bool | None:
        one = left(row)
        if one:
            return True
        other = right(row)
        if other:
            return True
        return None if one is None or other is None else False

    return condition
