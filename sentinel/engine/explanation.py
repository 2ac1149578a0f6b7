"""Why a rule fired at a step, or did not: every part of its expression, and what it was.

A rule's parts are evaluated over all labels. An explanation shows some *elements* of the whole
expression, which are the same in all parts: those that hold, those that an alert follows, and then
the worst of the others. A part that lacks a label has the same value for all that differ in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sentinel.engine.evaluation.operators import Graph
from sentinel.engine.evaluation.values import Source, Truths, Values
from sentinel.engine.language.expression import (
    WARM,
    Both,
    Comparison,
    Condition,
    Either,
    Forecast,
    Missing,
    Node,
    RankOutlier,
    Reading,
    Score,
    SecondsSince,
    Statistic,
    Window,
    axes_of,
    children,
    readings,
    walk,
)
from sentinel.engine.language.unparse import unparse
from sentinel.engine.layout import Axis
from sentinel.engine.rule import Alert, Key, Rule, Span
from sentinel.engine.window import Floats

MOST = 5  # elements that are shown

Axes = Mapping[str, Axis]
Found = Mapping[Node, Values | Truths]
State = Literal["inactive", "pending", "firing"]
Kind = Literal["number", "condition", "window"]


# Why an element may be missing though all below it is there.
_REASONS: Mapping[type[Node], str] = {
    Reading: "was not measured",
    Score: "has not seen enough values yet",
    RankOutlier: "has too few ranks with a finite value to compare",
    SecondsSince: "was never measured",
}


@dataclass(frozen=True)
class Part:
    """A part of the expression, and what it was for each element that is shown.

    Numbers are floats, conditions are true or false, and None is missing. Of a window it is how
    many values it held. `why` says why what is missing is, where that begins in this part.
    """

    text: str
    kind: Kind
    values: tuple[float | bool | None, ...]
    why: tuple[str, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class AlertState:
    """How the alert of one element stood after the step; `detail` tells more in words."""

    labels: Mapping[str, str]
    state: State
    detail: str
    acknowledged: bool = False


@dataclass(frozen=True)
class Explanation:
    """A rule at one step. `whole` is the tree of its expression.

    There are `count` elements, of which `holding` are true and `missing` could not be judged.
    `alerts` are those of the elements that are shown, in their order.
    """

    step: int
    now: float
    count: int
    holding: int
    missing: int
    alerts: tuple[AlertState, ...]
    whole: Part


def evaluate(rule: Rule, graph: Graph, source: Source) -> Found:
    """What each part of the rule is, before the step is learned from."""
    found: dict[Node, Values | Truths] = {}
    with np.errstate(all="ignore"):
        for node in (*_parts(rule.expression.root), rule.expression.score):
            if isinstance(node, Window):
                found[node] = graph.number(Statistic("count", node))(source)
            elif isinstance(node, Condition):
                found[node] = graph.condition(node)(source)
            else:
                found[node] = graph.number(node)(source)
    return found


def explain(
    rule: Rule,
    found: Found,
    axes: Axes,
    alerts: Mapping[Key, Alert],
    step: int,
    now: float,
    *,
    labels: Mapping[str, str],
) -> Explanation:
    """What `evaluate` has found, in words. `labels` narrow down what is shown."""
    viewer = _Viewer(rule, found, axes)
    keys = viewer.keys(alerts, labels)
    whole, tree = found[rule.expression.root], viewer.part(rule.expression.root, keys)
    assert isinstance(whole, Truths)
    return Explanation(
        step=step,
        now=now,
        count=int(whole.true.size),
        holding=int(whole.true.sum()),
        missing=int(whole.missing.sum()),
        alerts=tuple(
            _alert(rule, key, alerts.get(key), holds, step, now)
            for key, holds in zip(keys, tree.values, strict=True)
        ),
        whole=tree,
    )


class _Viewer:
    """Looks up elements of parts by the labels of the whole expression."""

    def __init__(self, rule: Rule, found: Found, axes: Axes) -> None:
        self._rule = rule
        self._found = found
        self._axes = axes
        self._names = rule.expression.axes

    def keys(self, alerts: Mapping[Key, Alert], labels: Mapping[str, str]) -> list[Key]:
        """The elements to show: those that hold, those that are followed, then the worst."""
        whole = self._found[self._rule.expression.root]
        assert isinstance(whole, Truths)
        shape = whole.true.shape
        followed, shown = np.zeros(shape, bool), np.ones(shape, bool)
        unknown: list[Key] = []
        for key in alerts:
            index = self._index(self._names, key, shape)
            if index is None:
                unknown.append(key)
            else:
                followed[index] = True
        for name, value in labels.items():
            at = self._names.index(name)
            known = self._axes[name].find(value) if name in self._axes else None
            along = np.arange(shape[at]) == (-1 if known is None else known)
            shown &= along.reshape([-1 if axis == at else 1 for axis in range(len(shape))])
        order = np.lexsort(
            tuple(
                np.broadcast_to(array, shape).reshape(-1)
                for array in (self._mildness(), whole.missing, ~followed, ~whole.true)
            )
        )
        chosen = order[shown.reshape(-1)[order]][:MOST]
        places = zip(*np.unravel_index(chosen, shape), strict=True) if shape else [()] * chosen.size
        found = [self._key(index) for index in places]
        own = (dict(zip(self._names, key, strict=True)) for key in unknown)
        left = [tuple(one.values()) for one in own if labels.items() <= one.items()]
        return [*found, *left][:MOST]

    def _mildness(self) -> Floats:
        """Lowest for the worst elements of the whole; what has no score is mildest."""
        node = self._rule.expression.score
        values, missing = self._found[node]
        sign = 1.0 if _is_bad_when_low(self._rule) else -1.0
        mild = np.where(missing | np.isnan(values), np.inf, sign * values)
        own = axes_of(node)
        return mild[tuple(slice(None) if name in own else None for name in self._names)]

    def _key(self, index: Iterable[int]) -> Key:
        return tuple(
            self._axes[name].labels[at] for name, at in zip(self._names, index, strict=True)
        )

    def _index(
        self, names: Iterable[str], key: Key, shape: tuple[int, ...]
    ) -> tuple[int, ...] | None:
        """The place of an element of the whole in a part with these labels, if it has one."""
        labels = dict(zip(self._names, key, strict=True))
        index = []
        for name, size in zip(names, shape, strict=True):
            at = self._axes[name].find(labels[name]) if name in self._axes else None
            if at is None or at >= size:
                return None
            index.append(at)
        return tuple(index)

    def value(self, node: Node, key: Key) -> float | bool | None:
        """A part's value for an element of the whole expression; None: missing."""
        values, missing = self._found[node]
        where = self._index(axes_of(node), key, values.shape)
        if where is None or np.broadcast_to(missing, values.shape)[where]:
            return None
        value = values[where]
        return bool(value) if isinstance(self._found[node], Truths) else float(value)

    def part(self, node: Node, keys: Sequence[Key], *, told: bool = True) -> Part:
        """The tree below a node. What is only asked whether it is missing needs no reason."""
        shown = [self.value(node, key) for key in keys]
        below = told and not isinstance(node, Missing)
        return Part(
            text=unparse(node),
            kind=_kind(node),
            values=tuple(shown),
            why=tuple(dict.fromkeys(self._reasons(node, keys, shown))) if told else (),
            parts=tuple(self.part(child, keys, told=below) for child in _below(node)),
        )

    def _reasons(
        self, node: Node, keys: Sequence[Key], shown: Sequence[float | bool | None]
    ) -> Iterator[str]:
        """Why elements are missing whose parts below are not."""
        for key, value in zip(keys, shown, strict=True):
            if value is None and (reason := self._reason(node, key)):
                yield f"{unparse(node)} {reason}{self._of(node, key)}"

    def _reason(self, node: Node, key: Key) -> str | None:
        """Why an element is missing; None where a part below says so."""
        if isinstance(node, (Statistic, Forecast)):
            held, needed = self.value(node.window, key) or 0, min(WARM, node.window.length)
            if held < needed:
                return f"needs {needed} values in its window, which holds {held:.0f}"
        if any(self.value(child, key) is None for child in _below(node)):
            return None
        return _REASONS.get(type(node), "is missing")

    def _of(self, node: Node, key: Key) -> str:
        own = [(n, v) for n, v in zip(self._names, key, strict=True) if n in axes_of(node)]
        return " for " + ", ".join(f"{name} {value}" for name, value in own) if own else ""


def _kind(node: Node) -> Kind:
    if isinstance(node, Window):
        return "window"
    return "condition" if isinstance(node, Condition) else "number"


def _parts(node: Node) -> Iterator[Node]:
    yield node
    for child in _below(node):
        yield from _parts(child)


def _below(node: Node) -> tuple[Node, ...]:
    """The parts that are told of on lines of their own.

    Constants are seen in the text of what they are in; all sides of `a and b and c` are equal; and
    what the clock asks of a signal is not its value.
    """
    if isinstance(node, SecondsSince):
        return ()
    if isinstance(node, (Both, Either)):
        left = _below(node.left) if type(node.left) is type(node) else (node.left,)
        return (*left, node.right)
    return tuple(child for child in children(node) if readings(child))


def _is_bad_when_low(rule: Rule) -> bool:
    """Whether the first comparison asks for what is small."""
    for node in walk(rule.expression.root):
        if isinstance(node, Comparison):
            is_left = node.left == rule.expression.score
            return node.operator.startswith("<") == is_left
    return False


def _alert(
    rule: Rule, key: Key, alert: Alert | None, holds: float | bool | None, step: int, now: float
) -> AlertState:
    labels = dict(zip(rule.expression.axes, key, strict=True))
    if alert is None:
        why = "could not be judged" if holds is None else "holds" if holds else "does not hold"
        return AlertState(labels, "inactive", f"its condition {why}")
    if not alert.firing:
        held = _progress(rule.holds, alert.trues, now - alert.since)
        return AlertState(labels, "pending", f"its condition holds for {held}")
    detail = "since this step" if alert.fired_step == step else f"since step {alert.fired_step}"
    if alert.step != alert.fired_step:
        detail += f", its condition since step {alert.step}"
    if not alert.still_true:
        gone = _progress(rule.keeps, alert.falses, now - alert.cleared)
        detail += f", though its condition is gone for {gone} (keep_firing_for)"
    return AlertState(labels, "firing", detail, alert.acknowledged)


def _progress(span: Span, count: int, seconds: float) -> str:
    done = count if span.unit == "steps" else seconds
    return f"{done:.6g} of {span.amount:.6g} {span.unit}"
