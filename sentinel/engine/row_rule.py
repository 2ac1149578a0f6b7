"""A rule over single numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sentinel.engine.change import Change, Moment
from sentinel.engine.evaluation.scalar import ScalarGraph
from sentinel.engine.evaluation.scalar_memory import Row
from sentinel.engine.language.expression import RANK_AXIS, readings
from sentinel.engine.rule import AT_ONCE, Alerts, Key


class RowRule:
    """A rule over single numbers: of one rank, or over all of them."""

    def __init__(self, alerts: Alerts, graph: ScalarGraph) -> None:
        self.alerts = alerts
        expression = alerts.rule.expression
        self.signals = frozenset(one.signal for one in readings(expression.root))
        self._is_by_rank = bool(expression.axes)
        self.condition = graph.condition(expression.root)
        self._value = graph.number(expression.value)
        self._score = graph.number(expression.score)

    def judge(
        self, row: Row, key: Key, step: int, now: float, *, partial: bool = False
    ) -> Sequence[Change]:
        holds = self.condition(row)
        alerts = self.alerts
        if partial and not (holds and alerts.rule.holds == AT_ONCE):
            return ()  # all else can wait for the frame of the whole step
        alert = alerts.live.get(key)
        kind = alerts.observe(key, holds, step, now)
        if kind is None:
            return ()
        alert = alerts.live.get(key, alert)
        assert alert is not None
        value, score = self._value(row), self._score(row)
        return (
            Change(
                alerts.rule,
                key,
                kind,
                alert,
                math.nan if value is None else value,
                math.nan if score is None else score,
            ),
        )

    def at(self, moment: Moment) -> Sequence[Change]:
        """Judge a step, of which this has single numbers."""
        key = (moment.axes[RANK_AXIS].labels[0],) if self._is_by_rank else ()
        return self.judge(moment.row, key, moment.step, moment.now)
