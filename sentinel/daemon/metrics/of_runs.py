"""How runs stand, what was judged of them, and how well they can be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from sentinel.daemon.metrics import families
from sentinel.daemon.metrics.family import Family
from sentinel.daemon.metrics.form import Form
from sentinel.daemon.metrics.page import Page, escaped
from sentinel.daemon.run import Run
from sentinel.engine.checkpoint import State
from sentinel.engine.coverage import RuleCoverage, SignalCoverage, SignalState
from sentinel.signals import DROPS
from sentinel.store.shapes import RunState
from sentinel.wire import Series

_RUN_STATES = get_args(RunState)
_CHECKPOINT_STATES = get_args(State)
_SIGNAL_STATES = get_args(SignalState)  # from the best to the worst
_RANK_STATES = ("connected", "held", "lost", "finished")
_BY_STATE: Sequence[
    tuple[Family, Sequence[str]]
] = (  # what every run has, in the order of `_counts`
    (families.RUN_STEP, ("",)),
    (families.HOLD, ("",)),
    (families.STEPS_SKIPPED, ("",)),
    (families.FRAMES_MISSED, ("",)),
    (families.OVERRUNS, ("",)),
    (families.RUN_STATE, _RUN_STATES),
    (families.RANKS, _RANK_STATES),
    (families.CHECKPOINTS, _CHECKPOINT_STATES),
    (families.SELF_DROPPED, DROPS),
)
_OF_HOOKS = (
    (families.SELF_COST, Series("monitor_share")),
    (families.SELF_QUEUE, Series("monitor_queue")),
)


class StandingOfRun:
    """Adds all about a run but its signals: as many series as there are rules, none for a rank."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._form = Form(_samples(run.name))
        self._sight = _Sight(run.name, (), ())

    def add(self, page: Page, now: float) -> None:
        """All that is known at this moment."""
        run, engine = self._run, self._run.engine
        self._form.fill(page, [*map(str, _counts(run))])
        if (seen := run.seen) is not None:
            if not self._sight.is_of(seen.signals, seen.rules):
                self._sight = _Sight(run.name, seen.signals, seen.rules)
            page.lines(families.SIGNALS).extend(self._sight.states)
            page.lines(families.RULE_BLIND).extend(self._sight.rules)
        if run.active:
            if engine.step:
                page.add(families.RUN_STEP_AGE, max(0.0, now - engine.judged_at), run.name)
            for family, series in _OF_HOOKS:
                if (value := engine.latest.get(series)) is not None:
                    page.add(family, value, run.name)
        if (last := engine.checkpoints.last_good) and last.step is not None:
            page.add(families.LAST_GOOD_STEP, last.step, run.name)
        _add_judgment(page, run)


class _Sight:
    """What can be seen of a run, as text: most of a run's series, and it hardly ever changes."""

    def __init__(
        self, run: str, signals: tuple[SignalCoverage, ...], rules: tuple[RuleCoverage, ...]
    ) -> None:
        self._of = signals, rules
        worst: dict[str, int] = {}
        for line in signals:
            at = _SIGNAL_STATES.index(line.state)
            worst[line.signal] = max(worst.get(line.signal, 0), at)
        numbers, run = Counter(worst.values()), escaped(run)
        count, blind = families.SIGNALS.template, families.RULE_BLIND.template
        self.states = [count % (run, state, numbers[at]) for at, state in enumerate(_SIGNAL_STATES)]
        self.rules = [blind % (run, escaped(one.rule), int(one.state == "blind")) for one in rules]

    def is_of(self, signals: object, rules: object) -> bool:
        """Whether it is these that it was made of, and not others that may be equal."""
        return self._of[0] is signals and self._of[1] is rules


def _samples(run: str) -> Iterator[tuple[Family, Sequence[str]]]:
    head = f'run="{escaped(run)}"'
    for family, values in _BY_STATE:
        for value in values:
            more = f',{family.labels[1]}="{value}"' if value else ""
            yield family, (f"{family.name}{{{head}{more}}} ", "")


def _counts(run: Run) -> Iterator[int]:
    engine, state, ranks = run.engine, run.state, run.ranks
    held = state in ("held", "resuming")
    yield from (engine.step, int(held), engine.skipped, engine.gaps, engine.overrun)
    for one in _RUN_STATES:
        yield int(one == state)
    connected = run.connected
    standing = Counter(
        "finished"
        if rank.goodbye is not None
        else "lost"
        if number not in connected
        else "held"  # though it is connected too
        if held
        else "connected"
        for number, rank in ranks.items()
    )
    for one in _RANK_STATES:
        yield standing[one]
    known = Counter(one.state for one in engine.checkpoints.all())
    for one in _CHECKPOINT_STATES:
        yield known[one]
    for reason in DROPS:
        yield sum(rank.dropped.get(reason, 0) for rank in ranks.values())


def _add_judgment(page: Page, run: Run) -> None:
    alerts = Counter((rule, severity) for (rule, _), severity in run.firing.items())
    for (rule, severity), number in sorted(alerts.items()):
        page.add(families.ALERTS_FIRING, number, run.name, rule, severity)
    for rule, number in run.engine.unfollowed.items():
        page.add(families.ALERTS_UNFOLLOWED, number, run.name, rule)
    for severity, number in sorted(run.incidents.items()):
        page.add(families.INCIDENTS, number, run.name, severity)
    if (opened := run.opened) is not None:
        page.add(families.INCIDENT_OPEN, 1, run.name, opened.id, opened.cause.rule, opened.severity)
