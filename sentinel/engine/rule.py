"""A rule, and the life of its alerts: inactive -> pending -> firing -> resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sentinel.engine.annotation import Template
from sentinel.engine.language.expression import Expression
from sentinel.engine.transition import Asked, Severity
from sentinel.wire import HOLD_FOR

Unattended = Literal["resume", "stop", "hold"]
Key = tuple[str, ...]  # the values of the labels of the rule's expression, in its order

MAX_LIVE = 64  # alerts of one rule and run that are followed at a time
_MAX_BEYOND = 100_000


@dataclass(frozen=True)
class Span:
    """How long: a number of judged steps, or of seconds."""

    amount: float
    unit: Literal["steps", "seconds"]

    def over(self, count: int, seconds: float) -> bool:
        """Whether it is over after this many judgements, or this much time."""
        return (count if self.unit == "steps" else seconds) >= self.amount


AT_ONCE = Span(0, "steps")
NO_TEXT = Template("")


@dataclass(frozen=True)
class Rule:
    """One rule of a rule file.

    An alert fires when the expression has held for `holds` (with steps, this one included), and
    resolves when it has not held for longer than `keeps`. A run that it pauses is held for
    `hold_for` seconds without an answer before `unattended` happens.
    """

    name: str
    group: str
    expression: Expression
    holds: Span = AT_ONCE
    keeps: Span = AT_ONCE
    severity: Severity = "warning"
    actions: tuple[Asked, ...] = ()
    unattended: Unattended = "resume"
    hold_for: float = HOLD_FOR
    summary: Template = NO_TEXT
    advice: Template = NO_TEXT
    file: str | None = None
    line: int | None = None


@dataclass
class Alert:
    """One pending or firing alert.

    `step` and `since` are where and when the condition came to hold; `trues` and `falses` count
    the judgements in a row, the latter since `cleared`. One that is `acknowledged` resolves with
    the next judgement that finds its condition gone, so that it can fire, and act, anew.
    """

    step: int
    since: float
    firing: bool = False
    fired_step: int = 0
    trues: int = 0
    falses: int = 0
    cleared: float = 0.0
    acknowledged: bool = False

    @property
    def still_true(self) -> bool:
        """Whether the condition held when it was last judged."""
        return self.falses == 0


class Alerts:
    """The live alerts of one rule in one run.

    What cannot be judged, because it was not measured, neither advances an alert nor resolves it.
    At most `MAX_LIVE` are followed, and such as begin at an earlier step than all of these: frames
    come in any order, and the first to break may be heard last. `beyond` are the others whose
    condition holds.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.live: dict[Key, Alert] = {}
        self.beyond: dict[Key, None] = {}  # a set that keeps its order, so that replay does

    def observe(
        self, key: Key, holds: bool | None, step: int, now: float
    ) -> Literal["fired", "resolved"] | None:
        """Judge one element. Returns what became of its alert, which is still in `live` if fired.

        `holds` is None where it was not measured.
        """
        if holds is None:
            return None
        if not holds:
            self.beyond.pop(key, None)
            return self._clear(key, now)
        alert = self.live.get(key)
        if alert is None:
            if self._is_full(step):
                if len(self.beyond) < _MAX_BEYOND:
                    self.beyond[key] = None
                return None
            alert = self.live[key] = Alert(step, now)
            self.beyond.pop(key, None)
        alert.trues += 1
        alert.falses = 0
        if alert.firing or not self.rule.holds.over(alert.trues, now - alert.since):
            return None
        alert.firing = True
        alert.fired_step = step
        return "fired"

    def _is_full(self, step: int) -> bool:
        """Whether an alert that begins at this step is one too many."""
        if len(self.live) < MAX_LIVE:
            return False
        first = min(alert.step for alert in self.live.values())
        return step >= first or len(self.live) >= 2 * MAX_LIVE

    def _clear(self, key: Key, now: float) -> Literal["resolved"] | None:
        alert = self.live.get(key)
        if alert is None:
            return None
        if alert.firing:
            alert.cleared = alert.cleared if alert.falses else now
            alert.falses += 1
            kept = not self.rule.keeps.over(alert.falses - 1, now - alert.cleared)
            if kept and not alert.acknowledged:
                return None
        del self.live[key]
        return "resolved" if alert.firing else None

    def interrupt(self, key: Key | None = None) -> None:
        """Drop what is only pending (of one element, or all): its steps no longer follow on."""
        for pending in [k for k, a in self.live.items() if not a.firing and key in (None, k)]:
            del self.live[pending]

    def acknowledge(self) -> None:
        """Somebody has dealt with what fires now."""
        for alert in self.live.values():
            alert.acknowledged = alert.firing

    def finish(self) -> list[Key]:
        """The run has ended: the firing alerts whose condition no longer held, now resolved."""
        over = [key for key, alert in self.live.items() if alert.firing and not alert.still_true]
        for key in over:
            del self.live[key]
        return over

    def drop(self) -> list[Key]:
        """Another job begins: forget all alerts. Returns those that were firing."""
        firing = [key for key, alert in self.live.items() if alert.firing]
        self.live.clear()
        self.beyond.clear()
        return firing

    def adopt(self, key: Key, alert: Alert) -> None:
        """Go on with an alert that an earlier daemon saw fire."""
        self.live[key] = alert


def labels_of(rule: Rule, key: Key) -> Mapping[str, str]:
    """The labels of the alert with this key."""
    return dict(zip(rule.expression.axes, key, strict=True))
