"""Evaluate all rules of a run, each when it is due, and say whose alerts changed.

A fault in one rule switches that rule off and is counted; the others never notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from sentinel.engine.array_rule import ArrayRule
from sentinel.engine.blind import can_be, is_told
from sentinel.engine.change import Axes, Change, Moment
from sentinel.engine.evaluation.operators import Graph
from sentinel.engine.evaluation.scalar import ScalarGraph, Stateful
from sentinel.engine.evaluation.scalar_memory import Row
from sentinel.engine.evaluation.values import Source
from sentinel.engine.language.expression import (
    RANK_AXIS,
    Condition,
    Number,
    Reading,
    Score,
    Statistic,
    When,
    Window,
    readings,
    walk,
)
from sentinel.engine.layout import Columns, Wanted
from sentinel.engine.observer import Observer
from sentinel.engine.row_rule import RowRule
from sentinel.engine.rule import Alert, Alerts, Key, Rule
from sentinel.engine.snapshot import Snapshots
from sentinel.engine.transition import AlertChanged

_StepRule = RowRule | ArrayRule
_Rule = TypeVar("_Rule", RowRule, ArrayRule, _StepRule)
# A rule, before it what says whether it may have something to tell: its condition, its alerts.
_Watched = tuple[Callable[[Row], "bool | None"], Mapping[Key, Alert], Mapping[Key, None], _Rule]


def _watched(rules: Iterable[_Rule]) -> list[_Watched[_Rule]]:
    return [(one.condition, one.alerts.live, one.alerts.beyond, one) for one in rules]


class StepSource(Source, Protocol):
    """What was measured at one step, also as single numbers."""

    def row(self, wanted: Wanted) -> Row:
        """What was measured of what is wanted."""
        ...


class Judging:
    """All rules of one run.

    A rule that asks for what nobody has announced is asleep: it cannot come true, and is judged
    only while it has alerts from before. What else it asks for is learned all the same.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.errors: dict[str, int] = {}
        self.observer: Observer | None = None
        self.alerts: Mapping[str, Alerts] = _by_time({rule.name: Alerts(rule) for rule in rules})
        """The alerts of every rule, by its name."""
        of_frames, self._of_steps, of_pulses = (
            [one for one in self.alerts.values() if one.rule.expression.when == when]
            for when in _TIMES
        )
        graph, arrays = ScalarGraph(), Graph()
        self._frame_rules = [RowRule(alerts, graph) for alerts in of_frames]
        self._pulse_rules = [ArrayRule(alerts, arrays) for alerts in of_pulses]
        self._read = frozenset(
            reading
            for alerts in (*of_frames, *self._of_steps)
            for reading in readings(alerts.rule.expression.root)
        )
        self._lacking = self._read
        self._known = 0  # series that had been announced when that was found
        self._frames_awake: list[RowRule] = []
        self._frames_watched: list[_Watched[RowRule]] = []
        self._is_alone = True  # one rank, whose own values are single numbers too
        self._numbers, self._arrays = ScalarGraph(), Graph()
        self._step_rules = [self._of_step(alerts) for alerts in self._of_steps]
        self._snapshots = Snapshots([self._numbers, self._arrays])
        self._plan_is_old = True

    def _of_step(self, alerts: Alerts) -> _StepRule:
        axes = alerts.rule.expression.axes
        if axes == () or (self._is_alone and axes == (RANK_AXIS,)):
            return RowRule(alerts, self._numbers)
        return ArrayRule(alerts, self._arrays)

    # What is judged, and what is not.

    def announced(self, columns: Columns) -> None:
        """A rank has announced what it measures, of which some may be new."""
        if len(columns) == self._known:
            return
        self._known = len(columns)
        lacking = frozenset(one for one in self._read if not columns.knows(one))
        if lacking != self._lacking:
            self._lacking, self._plan_is_old = lacking, True

    def _plan(self) -> None:
        """Choose the rules to be judged from now on, what they learn and what they are told."""
        self._plan_is_old = False
        self._frames_awake = [rule for rule in self._frame_rules if self._is_awake(rule.alerts)]
        self._steps_awake = [rule for rule in self._step_rules if self._is_awake(rule.alerts)]
        on = [rule for rule in self._step_rules if rule.alerts.rule.name not in self.errors]
        told = {rule: list(self._memories(rule.alerts.rule.expression.root)) for rule in on}
        fed = {one for rule in on if isinstance(rule, RowRule) for one in told[rule]}
        self._numbers.feed_only(fed)
        self._kept = [
            (rule.alerts.rule.name, self._arrays.number(_asking(one)))
            for rule in on
            if isinstance(rule, ArrayRule) and rule not in self._steps_awake
            for one in told[rule]
        ]
        rows = [rule for rule in self._steps_awake if isinstance(rule, RowRule)]
        self._uses_arrays = bool(self._kept) or len(rows) < len(self._steps_awake)
        self._frames_watched = _watched(self._frames_awake)
        self._steps_watched = _watched(self._steps_awake)
        of_frames = list(self._asked(self._frames_awake))
        of_rows = [*self._asked(rows), *(r for one in fed for r in readings(one))]
        self._of_frames, self._of_rows = Wanted(of_frames), Wanted(of_rows)
        if self._is_alone:  # what is told of its frame serves for the step too
            self._of_frames = self._of_rows = Wanted((*of_frames, *of_rows))

    def _is_awake(self, alerts: Alerts) -> bool:
        if alerts.rule.name in self.errors:
            return False
        possible = can_be(alerts.rule.expression.root, True, self._lacking)
        return bool(possible or alerts.live or alerts.beyond)

    def _memories(self, root: Condition) -> Iterator[Stateful]:
        """What a rule remembers of what is announced."""
        for node in walk(root):
            if isinstance(node, (Score, Window)) and is_told(node, self._lacking):
                yield node

    def _asked(self, rules: Iterable[_StepRule]) -> Iterator[Reading]:
        return (one for rule in rules for one in readings(rule.alerts.rule.expression.root))

    # What happens.

    def frame(
        self, row: Row, key: Key, step: int, now: float, *, partial: bool = False
    ) -> list[Change]:
        """Judge what one rank says of one step, of that which is `wanted`.

        A `partial` frame, of a step that is not over, can make alerts fire that wait for nothing.
        It resolves none, and is no step of those that count steps.
        """
        changes = self._rows(self._frames_watched, row, key, step, now, partial=partial)
        if self.observer is not None:
            self.observer.framed(key, step)
        return changes

    def alarm(self, row: Row, key: Key, step: int, now: float) -> list[Change]:
        """Judge these signals of a rank before its frame has come, by rules that ask for no others.

        An alert that is there already is left to the frames: an alarm is told again and again.
        """
        rules = [
            rule
            for rule in self._frame_rules
            if rule.signals <= row.keys() and key not in rule.alerts.live
            if rule.alerts.rule.name not in self.errors
        ]
        changes = self._rows(_watched(rules), row, key, step, now)
        if any(rule.alerts.live and rule not in self._frames_awake for rule in rules):
            self._plan_is_old = True  # of an alert that begins like this, frames are to tell too
        return changes

    def _rows(
        self,
        rules: Sequence[_Watched[RowRule]],
        row: Row,
        key: Key,
        step: int,
        now: float,
        *,
        partial: bool = False,
    ) -> list[Change]:
        changes: list[Change] = []
        for condition, live, beyond, rule in rules:
            try:
                if condition(row) or live or beyond:
                    changes += rule.judge(row, key, step, now, partial=partial)
            except Exception:  # noqa: BLE001 - a rule's fault must not end the watch
                self._switch_off(rule.alerts.rule.name)
        return changes

    @property
    def wanted(self) -> Wanted:
        """What rules ask of the frame that has just come."""
        if self._plan_is_old:
            self._plan()
        return self._of_frames

    def step(self, source: StepSource, axes: Axes, step: int, now: float) -> list[Change]:
        """Judge a step over all ranks."""
        if self._is_alone and len(axes[RANK_AXIS].labels) > 1:
            self._spread()
        if self._plan_is_old:
            self._plan()
        row = source.row(self._of_rows)
        if failed := self._numbers.take(row):
            self._switch_off_all_with(failed)
        changes: list[Change] = []
        for condition, live, beyond, rule in self._steps_watched:
            try:
                if condition(row) or live or beyond:
                    changes += rule.at(Moment(row, source, axes, step, now))
            except Exception:  # noqa: BLE001 - a rule's fault must not end the watch
                self._switch_off(rule.alerts.rule.name)
        self._numbers.learn()
        if self._uses_arrays:
            self._keep_up(source)
            self._arrays.learn(source)
        self._snapshots.judged(step)
        if self.observer is not None:
            self.observer.stepped(source, axes, step, now)
        return changes

    def _keep_up(self, source: Source) -> None:
        """Rules that are asleep learn what there is to learn."""
        for name, number in self._kept:
            try:
                with np.errstate(all="ignore"):
                    number(source)
            except Exception:  # noqa: BLE001 - a rule's fault must not end the watch
                self._switch_off(name)

    def pulse(self, source: Source, axes: Axes, step: int, now: float) -> list[Change]:
        """Judge what the clock brings."""
        changes: list[Change] = []
        on = [rule for rule in self._pulse_rules if rule.alerts.rule.name not in self.errors]
        for rule in on:
            try:
                changes += rule.at(Moment({}, source, axes, step, now))
            except Exception:  # noqa: BLE001 - a rule's fault must not end the watch
                self._switch_off(rule.alerts.rule.name)
        if self.observer is not None:
            self.observer.ticked(source, axes, step, now)
        return changes

    def _switch_off(self, name: str) -> None:
        self.errors[name] = self.errors.get(name, 0) + 1
        self._plan_is_old = True

    def _switch_off_all_with(self, failed: Iterable[Stateful]) -> None:
        """What rules remember has failed: it is their fault, each one's."""
        for alerts in self._of_steps:
            if not set(failed).isdisjoint(self._memories(alerts.rule.expression.root)):
                self._switch_off(alerts.rule.name)
        self._plan()

    def _spread(self) -> None:
        """There is more than one rank: what is told by rank is judged over all from now on."""
        self._is_alone = False
        self._step_rules = [
            self._of_step(rule.alerts) if rule.alerts.rule.expression.axes else rule
            for rule in self._step_rules
        ]
        self._arrays.inherit(self._numbers.remember())
        self._plan_is_old = True

    def went_back(self, step: int) -> None:
        """The run is about to do this step again: go on from what was known before it."""
        self._snapshots.go_back(step)
        if not self._is_alone:  # it may have been then
            self._arrays.inherit(self._numbers.remember())
        self.interrupt()
        if self.observer is not None:
            self.observer.went_back(step)

    def interrupt(self) -> None:
        """What comes next does not follow on what was: nothing is pending."""
        for alerts in self._of_steps:
            alerts.interrupt()

    def adopt_alert(self, one: AlertChanged) -> tuple[Key, bool]:
        """Go on with an alert that an earlier daemon saw fire, if there is its rule still.

        Returns its key, and whether it is judged from now on.
        """
        known = self.alerts.get(one.rule)
        axes = known.rule.expression.axes if known else ()
        if known is None or set(one.labels) != set(axes):
            return tuple(one.labels.values()), False
        key = tuple(one.labels[axis] for axis in axes)
        alert = Alert(one.step, one.at, firing=True, fired_step=one.fired_step)
        known.adopt(key, alert)
        self._plan_is_old = True
        return key, True

    def finish(self) -> list[tuple[str, Key]]:
        """The run has ended: what fires and no longer held is resolved."""
        return [(name, key) for name, one in self.alerts.items() for key in one.finish()]

    def drop(self) -> list[tuple[str, Key]]:
        """Another job begins: whatever fires is resolved, and all alerts are forgotten."""
        return [(name, key) for name, one in self.alerts.items() for key in one.drop()]

    @property
    def unfollowed(self) -> Mapping[str, int]:
        """By rule, the alerts that hold beyond the number that is followed."""
        return {name: len(one.beyond) for name, one in self.alerts.items() if one.beyond}

    def acknowledge(self) -> None:
        """Somebody has dealt with all that fires now."""
        for alerts in self.alerts.values():
            alerts.acknowledge()

    def rank_went_back(self, key: Key) -> None:
        """A rank went back to an earlier step: nothing of its own is pending."""
        for rule in self._frame_rules:
            rule.alerts.interrupt(key)


def _asking(node: Stateful) -> Number:
    """What makes an array's memory take part in a step."""
    return node if isinstance(node, Score) else Statistic("count", node)


_TIMES: tuple[When, ...] = ("frame", "step", "tick")


def _by_time(alerts: Mapping[str, Alerts]) -> dict[str, Alerts]:
    """In the order in which they are judged."""
    order = sorted(alerts, key=lambda name: _TIMES.index(alerts[name].rule.expression.when))
    return {name: alerts[name] for name in order}
