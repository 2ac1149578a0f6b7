"""What is no fault and looks like one: how runs begin, restarts, another cadence, missing values.

Over detectors at their usual limits, and over the whole of the default pack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from sentinel.engine.detectors import build
from tests.engine.traces import Trace, beginning, cadence, gradient_norms, restarts, warm_up
from tests.engine.world import Job, actions, alerts, default_rules, rule

_LIMITS = {"robust_z": 6.0, "ewma_z": 6.0, "cusum": 1.0, "spike_score": 0.0}
_Z_SCORES = pytest.mark.parametrize("name", ["robust_z", "ewma_z"])
_SEEDS = pytest.mark.parametrize("seed", range(3))


def _alarms(name: str, trace: Sequence[float]) -> list[int]:
    """The rows at which the detector, with its own parameters, is beyond its usual limit."""
    detector = build(name, {})
    return [row for row, value in enumerate(trace) if detector.update(value) > _LIMITS[name]]


@pytest.mark.parametrize("name", _LIMITS)
@pytest.mark.parametrize("trace", [beginning, warm_up, gradient_norms])
@_SEEDS
def test_a_run_may_begin_as_runs_do(
    name: str, trace: Callable[[int, int], Trace], seed: int
) -> None:
    assert _alarms(name, trace(600, seed)) == []


@pytest.mark.parametrize("name", ["robust_z", "ewma_z", "cusum"])
@_SEEDS
def test_a_restart_of_the_learning_rate_is_over_within_a_window(name: str, seed: int) -> None:
    """It does lift the loss, by ten deviations, so that an alarm at its first rows is right."""
    alarms = _alarms(name, restarts(1600, seed, period=400))
    assert all(row >= 400 and row % 400 < 200 for row in alarms)


@_Z_SCORES
@_SEEDS
def test_a_spike_between_restarts_is_found(name: str, seed: int) -> None:
    trace = restarts(1600, seed, period=400)
    for row in (750, 1180, 1590):
        trace[row] += 0.5
    assert {750, 1180, 1590} <= set(_alarms(name, trace))


@pytest.mark.parametrize("name", _LIMITS)
@_SEEDS
def test_a_log_that_becomes_sparser_and_less_noisy_is_no_alarm(name: str, seed: int) -> None:
    assert _alarms(name, cadence(1200, seed, before=1, after=100)) == []


@pytest.mark.parametrize("name", ["robust_z", "ewma_z", "cusum"])
@pytest.mark.parametrize("before", [10, 100])
@_SEEDS
def test_a_log_that_becomes_denser_and_noisier_is_the_new_baseline(
    name: str, before: int, seed: int
) -> None:
    alarms = _alarms(name, cadence(2000, seed, before, after=1))
    assert all(1000 <= row < 1500 for row in alarms)


@_Z_SCORES
@pytest.mark.parametrize(("before", "after"), [(1, 100), (100, 1)])
@_SEEDS
def test_a_spike_is_found_at_the_new_cadence(name: str, before: int, after: int, seed: int) -> None:
    trace = cadence(2000, seed, before, after)
    trace[1900] += 2.4 / math.sqrt(after)  # 12 deviations
    assert 1900 in _alarms(name, trace)


def test_steps_without_a_value_are_not_there_for_windows_and_detectors() -> None:
    """As in a log that has the loss at every third step: 40 values are 118 steps."""
    rules = [
        rule("robust_z(loss, window=64) > 8", "RobustZ"),
        rule("ewma_z(loss, window=64) > 8", "EwmaZ"),
        rule("loss > 1.5 * max(loss[40])", "Window"),
    ]
    job = Job(rules, ["loss", "lr"], 1)
    for at, loss in enumerate([*warm_up(140, 1)[100:], 30.0]):
        job.step(3 * at, {"loss": loss, "lr": 1e-3})
        for step in (3 * at + 1, 3 * at + 2):
            job.step(step, {"lr": 1e-3})
    fired = [(one.rule, one.fired_step) for one in alerts(job.told)]
    assert fired == [("RobustZ", 120), ("EwmaZ", 120), ("Window", 120)]
    assert {one.state for one in alerts(job.told)} == {"firing"}  # at 121 nobody could say


def _judged(losses: Trace, norms: Trace, every: int = 1) -> Job:
    """What the default pack says of a run that measures both at every so many steps."""
    job = Job(default_rules(), ["loss", "grad_norm", "lr"], 1)
    for at, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        for step in range(every * at + 1, every * at + every):
            job.step(step, {"lr": 1e-3})
        job.step(every * (at + 1), {"loss": loss, "grad_norm": norm, "lr": 1e-3})
    return job


@pytest.mark.parametrize(("trace", "every"), [(beginning, 1), (warm_up, 1), (beginning, 3)])
def test_the_default_pack_says_nothing_of_a_run_that_begins(
    trace: Callable[[int, int], Trace], every: int
) -> None:
    count = 180 // every
    job = _judged(trace(count, 5), gradient_norms(count, 6), every)
    assert job.told == []


@pytest.mark.parametrize(
    "losses",
    [restarts(500, 7, period=230), cadence(500, 8, 100, 1), cadence(500, 9, 1, 100)],
    ids=["restarts", "denser", "sparser"],
)
def test_the_default_pack_never_pauses_for_what_is_no_fault_and_is_quiet_in_the_end(
    losses: Trace,
) -> None:
    falling = [value - 0.001 * at for at, value in enumerate(losses)]  # else it learns nothing
    job = _judged(falling, gradient_norms(500, 10))
    told = alerts(job.told)
    assert actions(job.told) == []
    assert "critical" not in {one.severity for one in told}
    states = {(one.rule, tuple(one.labels.items())): one.state for one in told}
    assert "firing" not in states.values()
