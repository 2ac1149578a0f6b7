"""Evaluate all rules of a run, each when it is due, and say whose alerts changed.

A fault in one rule switches that rule off and is counted; the others never notice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sentinel.engine import scalar
from sentinel.engine.expression import Number, axes_of, readings
from sentinel.engine.operators import Graph
from sentinel.engine.rule import AT_ONCE, Alert, Alerts, Key, Rule
from sentinel.engine.step import Axis
from sentinel.engine.values import Source

Axes = Mapping[str, Axis]
Index = tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """An alert began to fire or resolved; `value` and `score` are those of this moment."""

    rule: Rule
    key: Key
    kind: Literal["fired", "resolved"]
    alert: Alert
    value: float = math.nan
    score: float = math.nan


class _FrameRule:
    """A rule that asks for nothing but one rank's own values at one step."""

    def __init__(self, rule: Rule) -> None:
        self.alerts = Alerts(rule)
        self.signals = frozenset(one.signal for one in readings(rule.expression.root))
        self._condition = scalar.condition(rule.expression.root)
        self._value = scalar.number(rule.expression.value)
        self._score = scalar.number(rule.expression.score)

    def judge(
        self, row: scalar.Row, key: Key, step: int, now: float, *, partial: bool = False
    ) -> Iterator[Change]:
        holds = self._condition(row)
        alerts = self.alerts
        if partial and not (holds and alerts.rule.holds == AT_ONCE):
            return  # all else can wait for the frame of the whole step
        if not holds and not alerts.live and not alerts.beyond:
            return
        alert = alerts.live.get(key)
        kind = alerts.observe(key, holds, step, now)
        if kind is not None:
            alert = alerts.live.get(key, alert)
            assert alert is not None
            value, score = self._value(row), self._score(row)
            yield Change(
                alerts.rule,
                key,
                kind,
                alert,
                math.nan if value is None else value,
                math.nan if score is None else score,
            )


class _ArrayRule:
    """A rule over all elements of a step, or of a moment."""

    def __init__(self, alerts: Alerts, graph: Graph) -> None:
        self.alerts = alerts
        expression = alerts.rule.expression
        self._axes = expression.axes
        self._condition = graph.condition(expression.root)
        self._graph = graph

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


class Judging:
    """All rules of one run."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.errors: dict[str, int] = {}
        when = {rule.name: rule.expression.when for rule in rules}
        self._frame_rules = {r.name: _FrameRule(r) for r in rules if when[r.name] == "frame"}
        self._step_alerts = {r.name: Alerts(r) for r in rules if when[r.name] == "step"}
        self._pulse_alerts = {r.name: Alerts(r) for r in rules if when[r.name] == "tick"}
        graph = Graph()
        self._pulse_rules = [_ArrayRule(alerts, graph) for alerts in self._pulse_alerts.values()]
        self._warm_up()
        named = (readings(rule.alerts.rule.expression.root) for rule in self._frame_rules.values())
        self.frame_signals = tuple(dict.fromkeys(r.signal for read in named for r in read))

    def _warm_up(self) -> None:
        """New windows for all that are judged by steps."""
        self._graph = Graph()
        self._step_rules = [
            _ArrayRule(alerts, self._graph)
            for name, alerts in self._step_alerts.items()
            if name not in self.errors
        ]

    @property
    def alerts(self) -> dict[str, Alerts]:
        """The alerts of every rule, by its name."""
        of_frames = {name: rule.alerts for name, rule in self._frame_rules.items()}
        return {**of_frames, **self._step_alerts, **self._pulse_alerts}

    def frame(
        self, row: scalar.Row, key: Key, step: int, now: float, *, partial: bool = False
    ) -> list[Change]:
        """Judge what one rank says of one step.

        A `partial` frame, of a step that is not over, can make alerts fire that wait for nothing.
        It resolves none, and is no step of those that count steps.
        """
        return self._rows(self._frame_rules, row, key, step, now, partial=partial)

    def alarm(self, row: scalar.Row, key: Key, step: int, now: float) -> list[Change]:
        """Judge these signals of a rank before its frame has come, by rules that ask for no others.

        An alert that is there already is left to the frames: an alarm is told again and again.
        """
        rules = {
            name: rule
            for name, rule in self._frame_rules.items()
            if rule.signals <= row.keys() and key not in rule.alerts.live
        }
        return self._rows(rules, row, key, step, now)

    def _rows(
        self,
        rules: Mapping[str, _FrameRule],
        row: scalar.Row,
        key: Key,
        step: int,
        now: float,
        *,
        partial: bool = False,
    ) -> list[Change]:
        changes: list[Change] = []
        for name, rule in rules.items():
            if name not in self.errors:
                try:
                    changes += rule.judge(row, key, step, now, partial=partial)
                except Exception:  # noqa: BLE001 - a rule's fault must not end the watch
                    self._switch_off(name)
        return changes

    def step(self, source: Source, axes: Axes, step: int, now: float) -> list[Change]:
        """Judge a step over all ranks."""
        changes = self._arrays(self._step_rules, source, axes, step, now)
        self._graph.learn(source)
        return changes

    def pulse(self, source: Source, axes: Axes, step: int, now: float) -> list[Change]:
        """Judge what the clock brings."""
        return self._arrays(self._pulse_rules, source, axes, step, now)

    def _arrays(
        self, rules: list[_ArrayRule], source: Source, axes: Axes, step: int, now: float
    ) -> list[Change]:
        changes: list[Change] = []
        for rule in rules:
            name = rule.alerts.rule.name
            if name not in self.errors:
                try:
                    with np.errstate(all="ignore"):  # NaN and infinities are what we are here for
                        changes += rule.judge(source, axes, step, now)
                except Exception:  # noqa: BLE001 - a rule's fault must not end the watch
                    self._switch_off(name)
        return changes

    def _switch_off(self, name: str) -> None:
        self.errors[name] = self.errors.get(name, 0) + 1

    def went_back(self) -> None:
        """The run went back to an earlier step: windows warm up anew, and nothing is pending."""
        self._warm_up()
        for alerts in self._step_alerts.values():
            alerts.interrupt()

    def acknowledge(self) -> None:
        """Somebody has dealt with all that fires now."""
        for alerts in self.alerts.values():
            alerts.acknowledge()

    def rank_went_back(self, key: Key) -> None:
        """A rank went back to an earlier step: nothing of its own is pending."""
        for rule in self._frame_rules.values():
            rule.alerts.interrupt(key)
