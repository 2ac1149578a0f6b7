"""How runs stand, what was judged of them, and how well they can be seen."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from sentinel.daemon.metrics import families
from sentinel.daemon.metrics.page import Page, escaped
from sentinel.daemon.run import Run
from sentinel.engine.checkpoint import State
from sentinel.engine.coverage import SignalState
from sentinel.signals import DROPS
from sentinel.store.shapes import RunState
from sentinel.wire import Series

_RUN_STATES = get_args(RunState)
_CHECKPOINT_STATES = get_args(State)
_SIGNAL_STATES = get_args(SignalState)  # from the best to the worst


def add_run(page: Page, run: Run, now: float) -> None:
    """All about a run but its signals: as many series as there are rules, never one for a rank."""
    _standing(page, run, now)
    _judgment(page, run)
    _checkpoints(page, run)
    _coverage(page, run)
    _hooks(page, run)


def _standing(page: Page, run: Run, now: float) -> None:
    engine, name = run.engine, run.name
    page.add(families.RUN_STEP, engine.step, name)
    if run.active and engine.step:
        page.add(families.RUN_STEP_AGE, max(0.0, now - engine.judged_at), name)
    for state in _RUN_STATES:
        page.add(families.RUN_STATE, run.state == state, name, state)
    for how, number in _ranks(run).items():
        page.add(families.RANKS, number, name, how)
    page.add(families.HOLD, run.state in ("held", "resuming"), name)
    page.add(families.STEPS_SKIPPED, engine.skipped, name)


def _ranks(run: Run) -> dict[str, int]:
    """How many ranks are in each state. One that stands is held, though it is connected too."""
    states = {"connected": 0, "held": 0, "lost": 0, "finished": 0}
    held = run.state in ("held", "resuming")
    for number, rank in run.ranks.items():
        if rank.goodbye is not None:
            states["finished"] += 1
        elif number in run.connected:
            states["held" if held else "connected"] += 1
        else:
            states["lost"] += 1
    return states


def _judgment(page: Page, run: Run) -> None:
    alerts = Counter((rule, severity) for (rule, _), severity in run.firing.items())
    for (rule, severity), number in sorted(alerts.items()):
        page.add(families.ALERTS_FIRING, number, run.name, rule, severity)
    for rule, number in run.engine.unfollowed.items():
        page.add(families.ALERTS_UNFOLLOWED, number, run.name, rule)
    for severity, number in sorted(run.incidents.items()):
        page.add(families.INCIDENTS, number, run.name, severity)
    if (opened := run.opened) is not None:
        page.add(families.INCIDENT_OPEN, 1, run.name, opened.id, opened.cause.rule, opened.severity)


def _checkpoints(page: Page, run: Run) -> None:
    known = run.engine.checkpoints
    if (last := known.last_good) and last.step is not None:
        page.add(families.LAST_GOOD_STEP, last.step, run.name)
    states = Counter(one.state for one in known.all())
    for state in _CHECKPOINT_STATES:
        page.add(families.CHECKPOINTS, states[state], run.name, state)


def _coverage(page: Page, run: Run) -> None:
    report = run.seen or run.engine.coverage()
    worst: dict[str, int] = {}
    for line in report.signals:
        at = _SIGNAL_STATES.index(line.state)
        worst[line.signal] = max(worst.get(line.signal, 0), at)
    numbers = Counter(worst.values())
    for at, state in enumerate(_SIGNAL_STATES):
        page.add(families.SIGNALS, numbers[at], run.name, state)
    lines, template, name = (
        page.lines(families.RULE_BLIND),
        families.RULE_BLIND.template,
        escaped(run.name),
    )
    for rule in report.rules:
        lines.append(template % (name, escaped(rule.rule), int(rule.state == "blind")))


def _hooks(page: Page, run: Run) -> None:
    """What the part of Sentinel that runs in the training processes costs and loses."""
    engine, name = run.engine, run.name
    for family, signal in (
        (families.SELF_COST, "monitor_share"),
        (families.SELF_QUEUE, "monitor_queue"),
    ):
        value = engine.latest.get(Series(signal))
        if value is not None and run.active:
            page.add(family, value, name)
    lost: Counter[str] = Counter()
    for rank in run.ranks.values():
        lost.update(rank.dropped)
    for reason in DROPS:
        page.add(families.SELF_DROPPED, lost[reason], name, reason)
    page.add(families.FRAMES_MISSED, engine.gaps, name)
    page.add(families.OVERRUNS, engine.overrun, name)
