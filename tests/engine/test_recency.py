"""Rules that ask how long ago a signal was measured."""

from __future__ import annotations

from sentinel.engine.transition import AlertChanged
from sentinel.wire import Checkpoint, Goodbye, Heartbeat
from tests.engine.world import Job, alerts, rule

NAMES = ["loss", "logged/val_loss", "logged/accuracy", "layer_grad_norm/h.0"]
VALIDATED = rule('seconds_since(logged["val_loss"]) > 60', "NotValidated")


def _fired(job: Job) -> list[AlertChanged]:
    return [one for one in alerts(job.told) if one.state == "firing"]


def _resolved(job: Job) -> list[AlertChanged]:
    return [one for one in alerts(job.told) if one.state == "resolved"]


def test_an_alert_fires_once_a_signal_has_not_been_measured_for_long() -> None:
    job = Job([VALIDATED], NAMES, world_size=1)
    job.step(1, {"loss": 2.0})
    job.tick(after=100)
    assert not _fired(job), "what was never measured is missing"
    job.step(2, {"loss": 2.0, "logged/val_loss": 3.0})
    job.tick(after=59)
    job.step(3, {"loss": 2.0})
    assert not _fired(job)
    job.tick(after=3)
    (alert,) = _fired(job)
    assert 60 < alert.value < 63
    assert alert.labels == {}
    job.step(4, {"loss": 2.0, "logged/val_loss": 3.0})
    job.tick()
    assert [one.rule for one in _resolved(job)] == ["NotValidated"]


def test_each_label_of_a_signal_has_its_own_time() -> None:
    job = Job([rule("seconds_since(logged) > 60")], NAMES, world_size=1)
    job.step(1, {"logged/val_loss": 1.0})
    job.tick(after=50)
    job.step(2, {"logged/accuracy": 1.0})
    job.tick(after=12)
    assert [one.labels for one in _fired(job)] == [{"name": "val_loss"}]


def test_a_run_on_hold_or_at_its_end_is_not_blamed_for_measuring_nothing() -> None:
    job = Job([VALIDATED], NAMES, world_size=1)
    job.step(1, {"logged/val_loss": 1.0})
    for _ in range(10):
        job.engine.feed(0, Heartbeat(time=0.0, step=1, phase="held"), job.now)
        job.tick(after=30)
    job.tick(after=20)
    assert not _fired(job)
    job.engine.feed(0, Goodbye("finished"), job.now)
    job.tick(after=100)
    assert not _fired(job)


def test_another_job_by_the_same_name_has_measured_nothing_yet() -> None:
    job = Job([VALIDATED], NAMES, world_size=1)
    job.step(1, {"logged/val_loss": 1.0})
    job.engine.ended(job.now)
    job.hello(0, incarnation="b")
    job.tick(after=100)
    assert not _fired(job)


def test_what_the_clock_alone_says_spoils_no_checkpoint() -> None:
    overdue = rule("seconds_since(loss) > 30", severity="critical")
    job = Job([overdue], NAMES, world_size=1, clean_steps=2)
    job.step(1, {"loss": 1.0})
    job.engine.feed(0, Checkpoint(1, "step1", "/ckpt", 1.0, "", ("step1",)), job.now)
    job.tick(after=40)
    assert _fired(job)
    job.step(2, {})
    assert [one.state for one in job.engine.checkpoints.all()] == ["unproven"]
