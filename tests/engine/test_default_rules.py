"""What the shipped pack says of runs that are well, and of those that are not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from sentinel.wire import Goodbye
from tests.engine.world import Job, Measured, actions, alerts, default_rules, incidents

NAN = math.nan
NAMES = [
    *("loss", "lr", "grad_norm", "nonfinite_activation", "nonfinite_gradient"),
    *("nonfinite_update", "skipped", "overflow", "loss_scale_at_floor", "step_seconds"),
    *("host_memory_used_bytes", "host_memory_limit_bytes", "host_memory_process_bytes"),
    "exposed_communication_seconds",
    *("device_memory_peak_bytes", "device_memory_limit_bytes"),
    *("device_memory_retries", "host_oom_kills", "out_of_memory"),
]
WELL: Measured = {
    "loss": 2.5,
    "lr": 1e-3,
    "grad_norm": 1.0,
    "nonfinite_activation": 0.0,
    "nonfinite_gradient": 0.0,
    "nonfinite_update": 0.0,
    "skipped": 0.0,
    "step_seconds": 0.1,
    "host_memory_used_bytes": 30e9,
    "host_memory_limit_bytes": 64e9,
    "host_memory_process_bytes": 3e9,
    "exposed_communication_seconds": 0.03,
}
SKIPPED: Measured = {**WELL, "grad_norm": math.inf, "skipped": 1.0}


def _job(world_size: int = 2) -> Job:
    return Job(default_rules(), NAMES, world_size)


def _rules(job: Job) -> list[str]:
    return [one.rule for one in alerts(job.told) if one.state == "firing"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("length", [30, 60, 400])
def test_a_short_healthy_run_raises_nothing(seed: int, length: int) -> None:
    """Loss that falls fast, a warm-up of the learning rate, huge first gradient norms."""
    noise = random.Random(seed)
    job = _job()
    scale = noise.choice([0.02, 0.1, 0.3])
    for step in range(1, length + 1):
        loss = 1.5 + 9.0 * math.exp(-step / noise.choice([5.0, 8.0])) + noise.gauss(0, scale)
        norm = (60.0 * math.exp(-step / 6) + 1.0) * math.exp(noise.gauss(0, 0.3))
        own = {rank: {"loss": loss + noise.gauss(0, scale)} for rank in (0, 1)}
        job.step(step, {**WELL, "grad_norm": norm, "lr": 1e-3 * min(1, step / 20)}, own)
        job.told += job.engine.tick(job.now)
    for rank in (0, 1):
        job.engine.feed(rank, Goodbye("finished"), job.now)
        job.engine.disconnected(rank, job.now)
    assert [*job.told, *job.engine.ended(job.now + 60)] == []


def test_a_nan_that_was_applied_asks_for_a_pause_and_names_the_module() -> None:
    job = _job()
    for step in range(1, 6):
        job.step(step, WELL)
    bad = {**WELL, "nonfinite_gradient": 12.0, "nonfinite_update": 1.0, "grad_norm": NAN}
    job.frame(0, 6, bad)
    job.frame(
        1,
        6,
        {**bad, "loss": NAN, "nonfinite_activation": 9.0},
        {"nonfinite_activation": "transformer.h.3.mlp"},
    )
    assert {(one.action, one.rule, one.unattended) for one in actions(job.told)} == {
        ("pause", "NonFiniteUpdate", "stop")
    }
    last = incidents(job.told)[-1]
    cause = last.cause
    assert (cause.rule, cause.step, cause.rank) == ("NonFiniteActivation", 6, 1)
    assert (cause.module, last.severity) == ("transformer.h.3.mlp", "critical")
    assert len({one.id for one in incidents(job.told)}) == 1
    summary = next(one.summary for one in alerts(job.told) if one.rule == "NonFiniteActivation")
    assert "transformer.h.3.mlp" in summary
    assert "rank 1 at step 6" in summary


def test_one_skipped_step_warns_and_nothing_else() -> None:
    job = _job()
    for step in range(1, 40):
        job.step(step, SKIPPED if step == 10 else WELL, {1: {"loss": NAN}} if step == 10 else {})
    assert sorted(_rules(job)) == ["NonFiniteLoss", "SkippedStep"]
    assert {one.severity for one in alerts(job.told)} == {"warning"}
    assert actions(job.told) == []
    assert incidents(job.told)[-1].cause.rule == "NonFiniteLoss"


def test_three_skipped_steps_in_a_row_ask_for_a_pause_once() -> None:
    job = _job()
    for step in range(1, 20):
        job.step(step, SKIPPED if step >= 10 else WELL)
        expected = ["pause"] if step >= 12 else []
        assert [one.action for one in actions(job.told)] == expected, step
    assert sorted(_rules(job)) == ["SkippedStep", "SkippedSteps"]
    assert len([one for one in incidents(job.told) if one.change == "opened"]) == 1


def test_a_loss_scaler_at_work_is_no_alert_until_it_goes_on_and_on() -> None:
    job = _job()
    overflow = {**WELL, "grad_norm": math.inf, "nonfinite_gradient": 50.0, "overflow": 1.0}
    fp16 = {**WELL, "overflow": 0.0}
    for step in range(1, 100):
        job.step(step, overflow if step % 7 < 2 else fp16)
    assert job.told == []
    for step in range(100, 121):
        job.step(step, overflow)
    assert _rules(job) == ["OverflowPersists"]
    assert actions(job.told) == []


def test_an_overflow_with_the_loss_scale_at_its_floor_tells_at_once() -> None:
    job = _job()
    job.step(1, {**WELL, "overflow": 1.0, "loss_scale_at_floor": 0.0})
    job.step(2, {**WELL, "overflow": 0.0, "loss_scale_at_floor": 1.0})
    assert job.told == []
    job.step(3, {**WELL, "overflow": 1.0, "loss_scale_at_floor": 1.0})
    (alert,) = alerts(job.told)
    assert (alert.rule, alert.step, alert.severity) == ("OverflowAtFloor", 3, "critical")
    assert actions(job.told) == []


def test_a_gradient_that_is_not_finite_warns_where_no_scaler_made_it() -> None:
    for own in ({}, {"overflow": 0.0}):
        job = _job()
        job.step(1, {**WELL, **own, "nonfinite_gradient": 3.0})
        assert _rules(job) == ["NonFiniteGradient", "NonFiniteGradient"]


def test_a_norm_that_is_not_finite_tells_where_layers_are_not_looked_at() -> None:
    job = Job(default_rules(), ["loss", "grad_norm"], 1)
    job.step(1, {"loss": 1.0, "grad_norm": math.inf})
    assert _rules(job) == ["NonFiniteGradientNorm"]
    job = _job()
    job.step(1, {**WELL, "grad_norm": math.inf})
    assert _rules(job) == []


def _falling(step: int) -> Measured:
    """A run that learns: one that stands still for long is a plateau."""
    return {**WELL, "loss": 3.5 - 0.002 * step}


def test_a_loss_spike_warns_at_its_first_step() -> None:
    noise = random.Random(1)
    job = _job()
    for step in range(1, 110):
        spike = 1.2 if 100 <= step < 105 else 0.0
        job.step(step, {**WELL, "loss": 2.5 + spike + noise.gauss(0, 0.05)})
    (spike_alert,) = [one for one in alerts(job.told) if one.state == "firing"]
    assert (spike_alert.rule, spike_alert.step, spike_alert.fired_step) == ("LossSpike", 100, 100)
    assert spike_alert.score > 5
    assert actions(job.told) == []


def _lose_on_ranks(spiking: set[int], extra: float) -> Job:
    noise = random.Random(3)
    job = _job(8)
    for step in range(1, 110):
        own: dict[int, Measured] = {}
        for rank in range(8):
            spike = extra if step >= 100 and rank in spiking else 0.0
            own[rank] = {"loss": 2.5 + spike + noise.gauss(0, 0.1)}
        job.step(step, WELL, own)
    return job


def test_one_bad_rank_cannot_hide_in_the_mean_of_eight() -> None:
    job = _lose_on_ranks({5}, 1.0)
    (alert,) = [one for one in alerts(job.told) if one.state == "firing"]
    assert (alert.rule, alert.labels, alert.step) == ("RankLossSpike", {"rank": "5"}, 100)
    assert alert.value > 3
    job = _lose_on_ranks({5}, NAN)
    (alert,) = [one for one in alerts(job.told) if one.state == "firing"]
    assert (alert.rule, alert.labels, alert.step) == ("NonFiniteLoss", {"rank": "5"}, 100)


def test_a_spike_of_all_ranks_tells_once() -> None:
    assert _rules(_lose_on_ranks(set(range(8)), 1.2)) == ["LossSpike"]


def test_a_gradient_explosion_warns() -> None:
    noise = random.Random(2)
    job = _job()
    for step in range(1, 110):
        job.step(step, {**WELL, "grad_norm": (30.0 if step >= 100 else 1.0) + noise.gauss(0, 0.1)})
    assert _rules(job) == ["GradientExplosion"]


def test_memory_near_its_limit_warns_for_the_rank_that_has_it() -> None:
    job = _job()
    full = {"device_memory_peak_bytes": 78e9, "device_memory_limit_bytes": 80e9}
    some = {"device_memory_peak_bytes": 50e9, "device_memory_limit_bytes": 80e9}
    for step in range(1, 6):
        job.step(step, WELL, {0: {**some, "host_memory_used_bytes": 63e9}, 1: full})
    fired = [(one.rule, one.labels["rank"]) for one in alerts(job.told)]
    assert fired == [("HostOOMRisk", "0"), ("DeviceOOMRisk", "1")]


LEAK = 10e6  # bytes a step: 34e9 that are free are full in 3,400


def test_a_process_that_takes_more_memory_at_every_step_is_named_early() -> None:
    job = _job()
    for step in range(1, 120):
        leaked = LEAK * max(0, step - 40)
        job.step(step, WELL, {1: {"host_memory_process_bytes": 3e9 + leaked}})
    (alert,) = alerts(job.told)
    assert (alert.rule, alert.labels) == ("HostMemoryGrowth", {"rank": "1"})
    assert alert.fired_step < 100  # 0.6e9 of 34e9
    assert "1e+07 bytes more memory at every step" in alert.summary or alert.score < LEAK
    assert actions(job.told) == []


@pytest.mark.parametrize(
    "taken",
    [
        lambda step: 20e9 if step > 60 else 0.0,  # in one go
        lambda step: 5e9 * (step // 60),  # a piece with each checkpoint
        lambda step: 2e9 * (step % 20) / 20,  # taken and given back
        lambda step: LEAK * min(step, 12),  # while training gets under way
        lambda step: 0.1e6 * step,  # what an allocator does by itself
        lambda step: 3e6 * step,  # as large as it may be: there is room for 11,000 such steps
    ],
)
def test_memory_that_does_not_run_away_is_no_alert(taken: Callable[[int], float]) -> None:
    job = _job()
    for step in range(1, 400):
        job.step(step, {**_falling(step), "host_memory_process_bytes": 3e9 + taken(step)})
    assert job.told == []


def _waits(job: Job, steps: range, waits: Callable[[int], tuple[float, ...]]) -> None:
    for step in steps:
        own = {
            rank: {"step_seconds": 0.4, "exposed_communication_seconds": wait}
            for rank, wait in enumerate(waits(step))
        }
        job.step(step, _falling(step), own)


def test_the_rank_that_makes_others_wait_is_named_and_no_other() -> None:
    job = _job(4)
    _waits(job, range(1, 130), lambda step: (0.2, 0.19, 0.02 if step >= 80 else 0.2, 0.21))
    (alert,) = alerts(job.told)
    assert (alert.rule, alert.labels) == ("Straggler", {"rank": "2"})
    assert 96 <= alert.step <= alert.fired_step <= 106
    assert "the others waited 0.18 s longer for it" in alert.summary
    assert actions(job.told) == []


def _now_and_then(step: int) -> tuple[float, ...]:
    noise = random.Random(step)
    return tuple(0.02 if noise.random() < 0.2 else 0.25 for _ in range(4))


@pytest.mark.parametrize(
    "waits",
    [
        _now_and_then,
        lambda step: (0.0 if step % 100 < 15 else 0.2, 0.2, 0.2, 0.2),  # what only rank 0 does
        lambda step: (0.13, 0.2, 0.2, 0.2),  # a little slower than the others, all the time
        lambda step: (0.2, 0.01 if step % 40 else 0.3, 0.2, 0.2),  # much, but it always was
    ],
)
def test_a_rank_that_is_a_little_slow_or_now_and_then_is_no_straggler(
    waits: Callable[[int], tuple[float, ...]],
) -> None:
    job = _job(4)
    _waits(job, range(1, 300), waits)
    assert job.told == []


def test_a_killed_rank_is_told_and_nothing_is_paused() -> None:
    job = _job()
    job.step(1, WELL)
    job.engine.disconnected(1, job.now)
    for _ in range(12):
        job.now += 1
        job.engine.feed(0, Goodbye("finished"), job.now)
        job.told += job.engine.tick(job.now)
    (alert,) = alerts(job.told)
    assert (alert.rule, alert.labels, alert.severity) == ("RankSilent", {"rank": "1"}, "critical")
    assert actions(job.told) == []


def test_every_text_of_the_pack_says_something() -> None:
    for rule in default_rules():
        assert rule.summary.text
        assert rule.advice.text


def _hardware(*names: str) -> Job:
    return Job(default_rules(), ["loss", *names], 2)


def _fired(job: Job) -> list[tuple[str, str, str]]:
    return [
        (one.rule, one.severity, one.labels["rank"])
        for one in alerts(job.told)
        if one.state == "firing"
    ]


@pytest.mark.parametrize(
    ("code", "rule", "severity"),
    [
        *((code, "GpuXidFatal", "critical") for code in (46, 48, 62, 64, 74, 79)),
        *((code, "GpuXidFatal", "critical") for code in (94, 95, 119, 120, 140)),
        *((code, "GpuXid", "warning") for code in (13, 31, 43, 45, 63, 92, 141)),
    ],
)
def test_an_xid_is_critical_where_the_gpu_cannot_be_relied_on(
    code: int, rule: str, severity: str
) -> None:
    job = _hardware("gpu_xid", "gpu_lost")
    well = {"loss": 2.0, "gpu_xid": 0.0, "gpu_lost": 0.0}
    for step in range(1, 40):
        job.step(step, well, {1: {"gpu_xid": float(code)}} if 10 <= step < 15 else {})
    assert _fired(job) == [(rule, severity, "1")]
    assert f"Xid {code} on the GPU of rank 1, host1" in alerts(job.told)[0].summary
    assert [one.state for one in alerts(job.told)] == ["firing", "resolved"]
    assert actions(job.told) == []


def test_a_lost_gpu_is_critical_at_once_and_one_that_is_not_measured_is_not() -> None:
    job = _hardware("gpu_lost")
    job.step(1, {"loss": 2.0, "gpu_lost": 0.0})
    job.step(2, {"loss": 2.0})
    assert job.told == []
    job.frame(1, 3, {"loss": 2.0, "gpu_lost": 1.0})
    assert _fired(job) == [("GpuLost", "critical", "1")]


def test_new_uncorrectable_errors_are_told_each_time_there_are_more() -> None:
    job = _hardware("gpu_ecc_uncorrected_new")
    for step in range(1, 60):
        errors = {"gpu_ecc_uncorrected_new": float((step >= 10) + (step >= 50))}
        job.step(step, {"loss": 2.0, "gpu_ecc_uncorrected_new": 0.0}, {1: errors})
    assert _fired(job) == [("UncorrectableEcc", "critical", "1")] * 2
    assert [one.step for one in alerts(job.told) if one.state == "firing"] == [10, 50]


def test_a_failure_to_remap_is_told_once_when_it_happens_or_when_the_run_begins_with_it() -> None:
    job = _hardware("gpu_row_remap_failure")
    for step in range(1, 60):
        failed = {"gpu_row_remap_failure": float(step >= 10)}
        job.step(step, {"loss": 2.0, "gpu_row_remap_failure": 1.0}, {1: failed})
    assert _fired(job) == [
        ("RowRemapFailure", "critical", "0"),
        ("RowRemapFailure", "critical", "1"),
    ]
    assert [one.step for one in alerts(job.told) if one.state == "firing"] == [1, 10]


def test_a_slowdown_warns_when_it_lasts() -> None:
    job = _hardware("gpu_slowdown")
    for step in range(1, 400):
        slow = {"gpu_slowdown": float(step % 50 == 0 or step > 100)}
        job.now += 0.9
        job.step(step, {"loss": 3.5 - 0.002 * step, "gpu_slowdown": 0.0}, {1: slow})
    assert _fired(job) == [("GpuSlowdown", "warning", "1")]
    assert alerts(job.told)[0].step == 100
