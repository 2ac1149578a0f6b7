"""Replay a run up to a step, and explain a rule at it.

The rule is judged by an engine as any other is; an observer looks at the parts of its expression
meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sentinel.engine.change import Axes
from sentinel.engine.coverage import BlindSpot
from sentinel.engine.evaluation.operators import Graph
from sentinel.engine.evaluation.values import Source
from sentinel.engine.explanation import Explanation, evaluate, explain
from sentinel.engine.rule import Alert, Alerts, Key, Rule
from sentinel.engine.run import RunEngine
from sentinel.engine.snapshot import Snapshots
from sentinel.errors import ReplayError
from sentinel.replay.messages import Moment, Replay


@dataclass(frozen=True)
class Explained:
    """A rule of a run at a step.

    `explanation` is of the last of the `times` that it was judged there; 0 where a rule of the
    clock was judged before that step, and not at it. `first` is the step with which the record
    begins, `began` its time; `blind` is what the rule lacked then and why.
    """

    rule: Rule
    run: str
    explanation: Explanation
    times: int
    first: int
    began: float
    blind: tuple[BlindSpot, ...]


def explain_run(
    run: str,
    moments: Iterable[Moment],
    rule: Rule,
    step: int,
    *,
    labels: Mapping[str, str],
    clock: bool = True,
) -> Explained:
    """Why the rule fired at this step of the run, or did not. Raises `ReplayError`."""
    replay = Replay(run, [rule], clock=clock)
    watcher = _Watcher(rule, step, labels, clock)
    for moment in moments:
        watcher.follow(replay.engine)
        replay.take(moment)
    if watcher.found is None:
        raise ReplayError(watcher.absence(run))
    return Explained(
        rule=rule,
        run=run,
        explanation=watcher.found,
        times=watcher.times,
        first=watcher.first or 0,
        began=watcher.began,
        blind=watcher.blind,
    )


@dataclass
class _Watcher:
    """Looks on while one rule is judged, and keeps how it stood at one step."""

    rule: Rule
    step: int
    labels: Mapping[str, str]
    clock: bool
    found: Explanation | None = None
    times: int = 0
    first: int | None = None
    began: float = 0.0
    blind: tuple[BlindSpot, ...] = ()
    _last: int = 0
    _before: int | None = None  # the nearest steps to the one that is asked for
    _after: int | None = None
    _engine: RunEngine | None = None
    _alerts: Alerts | None = None
    _framed: dict[Key, Alert] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        """Know nothing of earlier steps, as an engine that has just begun."""
        self._graph = Graph()  # all is evaluated as arrays here
        self._snapshots = Snapshots([self._graph])  # at the same steps as the engine's

    def follow(self, engine: RunEngine) -> None:
        """Look on at this engine from now on."""
        if engine is not self._engine:
            self._engine = engine
            self._alerts = engine.watch(self)[self.rule.name]
            self._begin()

    def framed(self, key: Key, step: int) -> None:
        """See `Observer`: other ranks come to the step when this one may be far beyond it."""
        if step == self.step and self._alerts is not None:
            self._framed.pop(key, None)
            if alert := self._alerts.live.get(key):
                self._framed[key] = replace(alert)

    def stepped(self, source: Source, axes: Axes, step: int, now: float) -> None:
        """See `Observer`."""
        self._note(step, now)
        if self.rule.expression.when == "tick":
            return
        found = evaluate(self.rule, self._graph, source)
        self._graph.learn(source)
        self._snapshots.judged(step)
        if step == self.step and self._alerts is not None:
            of_frames = self.rule.expression.when == "frame"
            alerts = self._framed if of_frames else self._alerts.live
            self._keep(explain(self.rule, found, axes, alerts, step, now, labels=self.labels))
            self.times += 1

    def ticked(self, source: Source, axes: Axes, step: int, now: float) -> None:
        """See `Observer`: the clock may not have looked at every step, and at some often."""
        if self.rule.expression.when != "tick" or self._alerts is None:
            return
        if step == self.step or (step < self.step and not self.times):
            found, alerts = evaluate(self.rule, self._graph, source), self._alerts.live
            self._keep(explain(self.rule, found, axes, alerts, step, now, labels=self.labels))
            self.times = int(step == self.step)

    def went_back(self, step: int) -> None:
        """See `Observer`."""
        self._snapshots.go_back(step)

    def _keep(self, explanation: Explanation) -> None:
        self.found = explanation
        self.blind = ()
        if self._engine is not None and explanation.missing:
            self.blind = self._engine.coverage().rules[0].blind

    def _note(self, step: int, now: float) -> None:
        if self.first is None:
            self.first, self.began = step, now
        self._last = max(self._last, step)
        if step < self.step:
            self._before = max(step, step if self._before is None else self._before)
        elif step > self.step:
            self._after = min(step, step if self._after is None else self._after)

    def absence(self, run: str) -> str:
        """Why there is nothing to explain."""
        if self.first is None:
            return f"no step of run {run!r} was judged"
        near = [f"step {one}" for one in (self._before, self._after) if one is not None]
        if self.rule.expression.when == "tick" and not self.clock:
            return f"{self.rule.name} goes by the clock, which a log does not have"
        return (
            f"step {self.step} of run {run!r} was not judged: there are steps from {self.first} to "
            f"{self._last}, the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"
        )
