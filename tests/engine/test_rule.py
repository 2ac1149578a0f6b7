"""The life of an alert, held against a naive account of the same history."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sentinel.engine.rule import MAX_LIVE, Alerts, Span
from tests.engine import world
from tests.engine.world import seconds, steps

KEY = ("0",)
History = list[tuple[bool | None, float]]  # condition, time; one a judgement


def _play(holds: Span, keeps: Span, history: History) -> list[str | None]:
    alerts = Alerts(world.rule("by_rank(loss) > 1", holds=holds, keeps=keeps))
    return [alerts.observe(KEY, true, at, now) for at, (true, now) in enumerate(history)]


def _naive(holds: Span, keeps: Span, history: History) -> list[str | None]:
    """Look back over the whole history at every judgement."""
    told: list[str | None] = []
    firing = False
    for at in range(len(history)):
        told.append(None)
        known = [(true, now) for true, now in history[: at + 1] if true is not None]
        if history[at][0] is None:
            continue
        latest, now = known[-1]
        row = []  # the judgements in a row that agree with the latest, its own included
        for true, when in reversed(known):
            if true is not latest:
                break
            row.append(when)
        if latest and not firing:
            long_enough = (
                len(row) >= holds.amount if holds.unit == "steps" else now - row[-1] >= holds.amount
            )
            if long_enough:
                firing, told[-1] = True, "fired"
        elif not latest and firing:
            long_enough = (
                len(row) > keeps.amount if keeps.unit == "steps" else now - row[-1] >= keeps.amount
            )
            if long_enough:
                firing, told[-1] = False, "resolved"
    return told


_SPANS = st.builds(Span, st.integers(0, 5).map(float), st.sampled_from(["steps", "seconds"]))
_HISTORIES = st.lists(
    st.tuples(st.sampled_from([True, True, False, None]), st.sampled_from([0.0, 1.0, 2.0])),
    max_size=40,
)


@given(holds=_SPANS, keeps=_SPANS, pauses=_HISTORIES)
def test_alerts_live_as_a_naive_account_says(holds: Span, keeps: Span, pauses: History) -> None:
    now = 0.0
    history: History = []
    for true, pause in pauses:
        now += pause
        history.append((true, now))
    assert _play(holds, keeps, history) == _naive(holds, keeps, history)


def test_for_three_fires_at_the_third_step_in_a_row() -> None:
    history: History = [(true, 0.0) for true in (True, True, False, True, None, True, True, True)]
    assert _play(steps(3), steps(0), history) == [None] * 6 + ["fired", None]


def test_keep_firing_for_two_resolves_at_the_third_quiet_step() -> None:
    history: History = [
        (true, 0.0) for true in (True, False, False, True, False, None, False, False)
    ]
    assert _play(steps(0), steps(2), history) == ["fired"] + [None] * 6 + ["resolved"]


def test_what_was_acknowledged_resolves_at_the_first_quiet_step_and_fires_anew() -> None:
    alerts = Alerts(world.rule("by_rank(loss) > 1", holds=steps(1), keeps=steps(20)))
    assert alerts.observe(KEY, True, 1, 0.0) == "fired"
    alerts.acknowledge()
    assert alerts.observe(KEY, True, 2, 0.0) is None, "what lasts is no news"
    assert alerts.observe(KEY, None, 3, 0.0) is None
    assert alerts.observe(KEY, False, 4, 0.0) == "resolved"
    assert alerts.observe(KEY, True, 5, 0.0) == "fired"
    assert alerts.observe(KEY, False, 6, 0.0) is None, "this one nobody has acknowledged"


def test_durations_count_time_whatever_the_number_of_steps() -> None:
    history: History = [(True, 0.0), (True, 4.9), (True, 5.0), (False, 6.0), (False, 9.0)]
    assert _play(seconds(5), seconds(3), history) == [None, None, "fired", None, "resolved"]


class LiveAlerts(RuleBasedStateMachine):
    """Many elements at once: never more than the bound, and none forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.alerts = Alerts(world.rule("by_rank(loss) > 1", holds=steps(2), keeps=steps(1)))
        self.true: dict[int, bool] = {}
        self.at = 0

    @rule(first=st.integers(0, 80), count=st.integers(1, 80), true=st.booleans())
    def judge(self, first: int, count: int, true: bool) -> None:
        self.at += 1
        for rank in range(first, first + count):
            self.true[rank] = true
            self.alerts.observe((str(rank),), true, self.at, float(self.at))

    @rule()
    def interrupt(self) -> None:
        self.alerts.interrupt()
        assert all(alert.firing for alert in self.alerts.live.values())
        self.true = {
            rank: true for rank, true in self.true.items() if (str(rank),) in self._followed()
        }

    def _followed(self) -> set[tuple[str, ...]]:
        return {*self.alerts.live, *self.alerts.beyond}

    @invariant()
    def the_bound_holds(self) -> None:
        assert len(self.alerts.live) <= MAX_LIVE
        assert not self.alerts.live.keys() & self.alerts.beyond.keys()

    @invariant()
    def whatever_holds_is_followed_or_counted(self) -> None:
        for rank, true in self.true.items():
            if true:
                assert (str(rank),) in self._followed()
            else:
                assert (str(rank),) not in self.alerts.beyond


TestLiveAlerts = LiveAlerts.TestCase


@dataclass
class _Case:
    firing: bool
    true: bool
    stays: bool


@pytest.mark.parametrize(
    "case", [_Case(True, True, True), _Case(True, False, False), _Case(False, True, True)]
)
def test_at_the_end_of_a_run_what_no_longer_holds_resolves(case: _Case) -> None:
    alerts = Alerts(
        world.rule("by_rank(loss) > 1", holds=steps(0 if case.firing else 2), keeps=steps(9))
    )
    alerts.observe(KEY, True, 1, 0.0)
    alerts.observe(KEY, case.true, 2, 0.0) if case.firing else None
    assert alerts.finish() == ([] if case.stays else [KEY])
    assert (KEY in alerts.live) is case.stays
