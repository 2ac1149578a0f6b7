"""What expressions mean, slowly and obviously: by definition, from the whole history.

Every number is worked out anew for each of its elements from all that was measured since the first
step. Detectors are used as they are, one for each element: they have tests of their own.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sentinel.engine.detectors import build
from sentinel.engine.language.expression import (
    WARM,
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
    SecondsSince,
    Statistic,
    Window,
    axes_of,
)
from sentinel.signals import CATALOG

Labels = tuple[str, ...]  # of one element, in the order of its node's axes
Where = Mapping[str, str]  # the same by axis, and perhaps more than the node has


@dataclass(frozen=True, eq=False)
class Moment:
    """One step: the labels that are known by then, by axis, and what was measured."""

    known: Mapping[str, Sequence[str]]
    measured: Mapping[tuple[str, str | None, str | None], float]  # signal, label, rank


def divide(left: float, right: float) -> float:
    """As IEEE 754 has it."""
    if right:
        return left / right
    if not left or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide,
}
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def _mad(values: Sequence[float]) -> float:
    center = statistics.median(values)
    return statistics.median([abs(value - center) for value in values])


def _slope(values: Sequence[float]) -> float:
    """The median slope of all pairs: windows of histories like these are short."""
    return statistics.median(
        [
            (late - early) / (j - i)
            for j, late in enumerate(values)
            for i, early in enumerate(values[:j])
        ]
    )


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    if at == below:
        return ordered[below]
    return ordered[below] + (ordered[below + 1] - ordered[below]) * (at - below)


_STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "std": statistics.pstdev,
    "median": statistics.median,
    "mad": _mad,
    "min": min,
    "max": max,
    "slope": _slope,
}


class Reference:
    """The meaning of expressions at the last of the steps that it was told of. None is missing."""

    def __init__(self) -> None:
        self.steps: list[Moment] = []
        # Only to save time: what was worked out, and the axes of nodes, which the caller keeps.
        self._known: dict[tuple[int, int, Labels], float | None] = {}
        self._axes: dict[int, Labels] = {}

    def number(self, node: Number, labels: Labels) -> float | None:
        """A number at the last step."""
        where = dict(zip(self._axes_of(node), labels, strict=True))
        return self._number(node, len(self.steps) - 1, where)

    def condition(self, node: Condition, labels: Labels) -> bool | None:
        """A condition at the last step."""
        where = dict(zip(self._axes_of(node), labels, strict=True))
        return self._condition(node, len(self.steps) - 1, where)

    def _axes_of(self, node: Number | Condition) -> Labels:
        if id(node) not in self._axes:
            self._axes[id(node)] = axes_of(node)
        return self._axes[id(node)]

    def _number(self, node: Number, at: int, where: Where) -> float | None:
        key = id(node), at, tuple(where[axis] for axis in self._axes_of(node))
        if key not in self._known:
            self._known[key] = self._worked_out(node, at, where)
        return self._known[key]

    def _worked_out(self, node: Number, at: int, where: Where) -> float | None:
        step = self.steps[at]
        if any(where[axis] not in step.known[axis] for axis in self._axes_of(node)):
            return None  # there was no such element yet
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Reading):
            label = node.label or where.get("layer")
            rank = where["rank"] if node.by_rank else None
            return step.measured.get(
                (node.signal, label if CATALOG[node.signal].label else None, rank)
            )
        if isinstance(node, Statistic):
            return self._statistic(node, at, where)
        if isinstance(node, Score):
            return self._score(node, at, where)
        if isinstance(node, Forecast):
            return self._forecast(node, at, where)
        if isinstance(node, RankOutlier):
            return self._outlier(node.of, at, where)
        if isinstance(node, Negative):
            of = self._number(node.of, at, where)
            return None if of is None else -of
        if isinstance(node, SecondsSince):
            raise TypeError("of the clock, not of steps")
        left, right = self._number(node.left, at, where), self._number(node.right, at, where)
        if left is None or right is None:
            return None
        return _ARITHMETIC[node.operator](left, right)

    def _past(self, window: Window, at: int, where: Where) -> list[float]:
        """The values that a window holds: finite, and from before this step."""
        found: list[float] = []
        for before in reversed(range(at)):
            value = self._number(window.of, before, where)
            if value is not None and math.isfinite(value):
                found.insert(0, value)
            if len(found) == window.length:
                break
        return found

    def _statistic(self, node: Statistic, at: int, where: Where) -> float | None:
        values = self._past(node.window, at, where)
        if node.name == "count":
            return float(len(values))
        if len(values) < min(WARM, node.window.length):
            return None
        if node.name == "quantile":
            assert node.share is not None
            return _quantile(values, node.share)
        return _STATISTICS[node.name](values)

    def _score(self, node: Score, at: int, where: Where) -> float | None:
        detector = build(node.detector, dict(node.parameters))
        value, score = None, math.nan
        for step in range(at + 1):
            value = self._number(node.of, step, where)
            if value is not None:
                score = detector.update(value)
        if value is None or (math.isnan(score) and math.isfinite(value)):
            return None
        return score

    def _forecast(self, node: Forecast, at: int, where: Where) -> float | None:
        past = self._past(node.window, at, where)
        warm = len(past) >= min(WARM, node.window.length)
        slope = _slope(past) if warm else None
        here, limit = self._number(node.window.of, at, where), self._number(node.limit, at, where)
        if slope is None or here is None or limit is None:
            return None
        if limit == here and math.isfinite(limit):
            return 0.0
        times = divide(limit - here, slope)
        return math.inf if times < 0 else times

    def _ranks(self, node: Reading, at: int, where: Where) -> list[float]:
        """What all ranks have measured."""
        ranks = self.steps[at].known["rank"]
        values = [self._number(node, at, {**where, "rank": rank}) for rank in ranks]
        return [value for value in values if value is not None]

    def _outlier(self, node: Reading, at: int, where: Where) -> float | None:
        finite = [value for value in self._ranks(node, at, where) if math.isfinite(value)]
        own = self._number(node, at, where)
        if own is None or len(finite) < 4:
            return None
        distance = own - statistics.median(finite)
        if not math.isfinite(own) or distance == 0:
            return 0.0 if distance == 0 else math.nan
        if mad := _mad(finite):
            return distance / (1.4826 * mad)
        center = statistics.median(finite)
        spread = statistics.fmean([abs(value - center) for value in finite])
        return distance / (math.sqrt(math.pi / 2) * spread)

    def _condition(self, node: Condition, at: int, where: Where) -> bool | None:
        if isinstance(node, Comparison):
            one, other = self._number(node.left, at, where), self._number(node.right, at, where)
            if one is None or other is None:
                return None
            return _COMPARISONS[node.operator](one, other)
        if isinstance(node, (NonFinite, Missing)):
            of = self._number(node.of, at, where)
            if isinstance(node, Missing):
                return of is None
            return None if of is None else not math.isfinite(of)
        if isinstance(node, Disagrees):
            return self._disagrees(node, at, where)
        if isinstance(node, Not):
            truth = self._condition(node.of, at, where)
            return None if truth is None else not truth
        sides = [self._condition(side, at, where) for side in (node.left, node.right)]
        decided = not isinstance(node, Both)  # what one side alone decides
        if decided in sides:
            return decided
        return None if None in sides else not decided

    def _disagrees(self, node: Disagrees, at: int, where: Where) -> bool | None:
        own = self._number(node.of, at, where)
        if own is None:
            return None
        told = sorted(self._ranks(node.of, at, where), key=lambda value: (math.isnan(value), value))
        usual = told[(len(told) - 1) // 2]

        def agrees(value: float) -> bool:
            both_nan = math.isnan(value) and math.isnan(usual)
            return both_nan or math.isclose(value, usual, rel_tol=node.tolerance)

        if 2 * sum(map(agrees, told)) <= len(told):
            return True
        return not agrees(own)
