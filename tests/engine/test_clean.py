"""Which steps are clean, in a run that an engine judges by the shipped rules, and what follows."""

from __future__ import annotations

import math

import pytest

from sentinel import wire
from tests.engine.world import Job, Measured, alerts, default_rules

NAMES = [
    *("loss", "grad_norm", "nonfinite_local_gradient", "nonfinite_gradient", "nonfinite_update"),
    *("skipped", "overflow", "gpu_ecc_uncorrected_new", "loss_scale_at_floor"),
]
WELL: Measured = dict.fromkeys(NAMES, 0.0) | {"loss": 2.0, "grad_norm": 1.0}


class Saving(Job):
    """Two ranks that save now and then."""

    def __init__(self, clean_steps: int = 2) -> None:
        super().__init__(default_rules(), NAMES, clean_steps=clean_steps)
        self.present: list[str] = []

    def save(self, step: int, keep: int = 9) -> None:
        self.present = [*self.present, f"step{step}"][-keep:]
        for rank in (0, 1):
            present = () if rank else tuple(self.present)
            message = wire.Checkpoint(step, f"step{step}", "/ckpt", 1.0, "", present)
            self._note(self.engine.feed(rank, message, self.now))

    @property
    def states(self) -> dict[str, str]:
        return {one.tag: one.state for one in self.engine.checkpoints.all()}


def _after(own: Measured) -> tuple[str, str]:
    """State of a checkpoint, and why, after a step like this and good ones, the last of them."""
    job = Saving()
    job.step(1, WELL)
    job.save(1)
    job.step(2, WELL, {1: own})
    for step in range(3, 30):
        job.step(step, WELL)
    (one,) = job.engine.checkpoints.all()
    return one.state, one.why


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"loss": math.nan}, "the loss was not finite at step 2"),
        ({"nonfinite_update": 1.0}, "a non-finite update was applied at step 2"),
        ({"grad_norm": math.inf}, "the gradient norm was not finite at step 2"),
        ({"nonfinite_gradient": 3.0}, "a gradient was not finite at step 2"),
        ({"nonfinite_local_gradient": 1.0}, "a gradient was not finite at step 2"),
        ({"skipped": 1.0}, "the optimizer skipped it at step 2"),
        ({"loss": math.inf, "overflow": 1.0}, "the loss was not finite at step 2"),
        ({"overflow": 1.0, "loss_scale_at_floor": 1.0}, "OverflowAtFloor at step 2"),
    ],
)
def test_a_step_that_went_wrong_on_one_rank_taints_what_was_saved_just_before(
    own: Measured, why: str
) -> None:
    assert _after(own) == ("tainted", why)


def test_a_critical_alert_taints_whatever_it_is_about() -> None:
    job = Saving()
    for step in range(1, 40):
        job.step(step, WELL)
    job.save(39)
    job.step(40, WELL, {1: {"gpu_ecc_uncorrected_new": 1.0}})
    assert job.states == {"step39": "tainted"}


def test_a_step_that_a_loss_scaler_skips_taints_nothing_and_does_not_count() -> None:
    scaled = {"overflow": 1.0, "nonfinite_gradient": 5.0, "grad_norm": math.inf}
    assert _after(scaled) == ("healthy", "2 clean steps after it")
    job = Saving()
    job.step(1, WELL)
    job.save(1)
    for step in (2, 3, 4):
        job.step(step, {**WELL, **scaled})
    assert job.states == {"step1": "unproven"}


def test_after_going_back_an_alert_that_only_keeps_firing_taints_nothing() -> None:
    job = Saving()
    for step in range(1, 10):
        job.step(step, WELL)
        job.save(step)
    job.step(10, {**WELL, "nonfinite_update": 1.0})
    assert [job.states[f"step{n}"] for n in (6, 7, 8, 9)] == [
        *("healthy", "healthy", "tainted", "tainted")
    ]
    for step in range(8, 40):
        job.step(step, WELL)
        if step == 20:
            job.save(step)
    assert [job.states[f"step{n}"] for n in (7, 20)] == ["healthy", "healthy"]


def test_ranks_that_come_and_go_taint_nothing() -> None:
    job = Saving()
    job.step(1, WELL)
    job.save(1)
    job.engine.disconnected(1, job.now)
    job.tick(40.0)
    assert "RankSilent" in {one.rule for one in alerts(job.told)}
    job.hello(1, "b", step=1)
    job.frame(0, 2, WELL)
    job.frame(1, 2, WELL)
    assert job.states == {"step1": "unproven"}
    job.tick()
    for step in range(3, 6):
        job.step(step, WELL)
    assert job.states == {"step1": "healthy"}


def test_people_are_warned_before_the_last_good_one_goes_and_when_it_is_gone() -> None:
    job = Saving(clean_steps=4)
    for step in range(1, 21):
        job.step(step, WELL)
        if step % 5 == 0:
            job.save(step, keep=2)
            job.tick()
    assert alerts(job.told) == []
    job.step(21, {**WELL, "skipped": 1.0})
    job.told.clear()
    job.tick()
    (risk,) = alerts(job.told)
    assert (risk.rule, risk.severity, risk.labels) == ("LastGoodAtRisk", "warning", {})
    assert "remove step15 (step 15), the newest healthy checkpoint" in risk.summary
    assert "sentinel checkpoint" in risk.advice
    job.step(22, WELL)
    job.save(22, keep=2)
    job.tick()
    gone = alerts(job.told)[-1]
    assert (gone.rule, gone.state) == ("LastGoodGone", "firing")
    assert "has removed step15 (step 15)" in gone.summary
