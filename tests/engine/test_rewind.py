"""Runs that go back to an earlier step: what their baselines are then, and what alerts do."""

from __future__ import annotations

import random

import pytest

from sentinel.engine.detectors import DETECTORS
from sentinel.engine.rule import Rule
from sentinel.replay.explaining import explain_run
from sentinel.replay.messages import Moment
from sentinel.wire import Goodbye
from tests.engine.world import Job, alerts, frame, hello, rule, states, steps

_SPIKE = rule("robust_z(loss, window=64) > 8 and loss > 1.2 * median(loss[64])", "Spike")
_RANK_SPIKE = rule("by_rank(loss) > 1.3 * median(by_rank(loss)[64])", "RankSpike")


def _loss(step: int) -> float:
    """A falling loss: what a step measures is the same each time it is done."""
    return 2.0 + 2.0 / (1 + step / 100) + 0.02 * random.Random(step).gauss(0, 1)


def _run(job: Job, first: int, last: int, over: float = 0.0) -> None:
    for step in range(first, last + 1):
        job.step(step, {"loss": _loss(step) + over})


def _fired(job: Job) -> list[tuple[str, int]]:
    return [(one.rule, one.fired_step) for one in alerts(job.told) if one.state == "firing"]


def _job(*rules: Rule, world_size: int = 2) -> Job:
    return Job(rules or (_SPIKE, _RANK_SPIKE), ["loss"], world_size)


@pytest.mark.parametrize("back_to", [101, 299])
def test_after_a_rollback_the_first_step_can_be_judged(back_to: int) -> None:
    job = _job()
    _run(job, 1, 300)
    job.step(back_to, {"loss": 9.0})
    assert _fired(job) == [
        ("Spike", back_to),
        ("RankSpike", back_to),
        ("RankSpike", back_to),
    ]


def test_before_the_first_snapshot_it_warms_up_anew() -> None:
    job = _job()
    _run(job, 1, 80)
    _run(job, 10, 41)  # 32 values
    assert _fired(job) == []
    job.step(42, {"loss": 9.0})
    assert ("Spike", 42) in _fired(job)


def test_an_excursion_that_the_run_went_back_for_is_not_in_its_baseline() -> None:
    """Where it is, a second one is no news."""
    slow = rule("loss > 1.2 * median(loss[64])", "High")
    job = _job(slow, world_size=1)
    _run(job, 1, 160)
    _run(job, 161, 300, over=2.0)
    assert len(_fired(job)) == 1
    _run(job, 140, 170)
    assert states(job.told)[-1][:2] == ("High", "resolved")
    job.step(171, {"loss": _loss(171) + 2.0})
    assert _fired(job)[1:] == [("High", 171)]


def test_a_firing_alert_neither_repeats_nor_resolves_because_the_run_went_back() -> None:
    kept = rule("loss > 1.2 * median(loss[64])", "High", keeps=steps(5))
    job = _job(kept, world_size=1)
    _run(job, 1, 160)
    _run(job, 161, 170, over=2.0)
    assert len(alerts(job.told)) == 1
    _run(job, 130, 140, over=2.0)  # it is as bad as before
    assert len(alerts(job.told)) == 1
    _run(job, 50, 75, over=2.0)  # before any snapshot: nobody can say
    assert len(alerts(job.told)) == 1


def test_a_pending_alert_does_not_count_the_steps_before_the_rewind() -> None:
    job = _job(rule("loss > 5", "High", holds=steps(3)))
    _run(job, 1, 20)
    _run(job, 21, 22, over=5.0)
    _run(job, 15, 16, over=5.0)
    assert _fired(job) == []
    _run(job, 17, 17, over=5.0)
    assert _fired(job) == [("High", 17)]


def test_all_detectors_go_on_from_where_they_were_as_if_nothing_had_come_between() -> None:
    """Twice the same values from a snapshot on, once after others: the same alerts."""
    whole = {
        name: ", ".join(
            f"{key}={one.lowest:g}" for key, one in kind.parameters.items() if one.whole
        )
        for name, kind in DETECTORS.items()
    }
    rules = [rule(f"{name}(loss, {given}) != 0", name) for name, given in whole.items()]
    straight, back = _job(*rules, world_size=1), _job(*rules, world_size=1)
    _run(straight, 1, 450)
    _run(back, 1, 200)
    _run(back, 201, 240, over=3.0)
    told = len(back.told)
    _run(back, 201, 450)
    later = [one for one in alerts(straight.told) if one.fired_step > 202]
    assert later
    assert {(o.rule, o.state, o.fired_step) for o in later if o.state == "firing"} == {
        (o.rule, o.state, o.fired_step)
        for o in alerts(back.told[told:])
        if o.state == "firing" and o.fired_step > 202
    }


def test_a_job_that_is_started_again_from_a_checkpoint_keeps_its_baseline() -> None:
    """New processes of the same run, while the daemon still knew the old ones."""
    job = _job()
    _run(job, 1, 200)
    for rank in (0, 1):
        job.hello(rank, "b", step=150)
    job.step(151, {"loss": 9.0})
    assert ("Spike", 151) in _fired(job)


def _end(job: Job) -> None:
    for rank in (0, 1):
        job.engine.feed(rank, Goodbye("exception"), job.now)
        job.engine.disconnected(rank, job.now)
    job.told += job.engine.ended(job.now)


@pytest.mark.parametrize("checkpoint", [150, 200])
def test_so_does_one_that_is_started_again_after_the_first_has_ended(checkpoint: int) -> None:
    job = _job()
    _run(job, 1, 200)
    _end(job)
    for rank in (0, 1):
        job.hello(rank, "b", step=checkpoint)
    job.step(checkpoint + 1, {"loss": 9.0})
    assert ("Spike", checkpoint + 1) in _fired(job)


def test_a_job_of_the_same_name_that_begins_at_the_beginning_warms_up_anew() -> None:
    job = _job()
    _run(job, 1, 200)
    _end(job)
    for rank in (0, 1):
        job.hello(rank, "b")
    _run(job, 1, 60, over=10.0)
    assert _fired(job) == []


def test_a_restart_with_more_ranks_keeps_the_baselines_of_those_that_were_there() -> None:
    grown = Job((_RANK_SPIKE,), ["loss"], 4, greet=False)
    grown.world_size = 2
    for rank in (0, 1):
        grown.hello(rank)
    _run(grown, 1, 150)
    grown.world_size = 4
    for rank in range(4):
        grown.hello(rank, "b", step=120)
    grown.step(121, {"loss": 9.0})
    assert [one.labels["rank"] for one in alerts(grown.told)] == ["0", "1"]


def test_going_back_again_and_again_takes_no_more_memory() -> None:
    job = _job(world_size=1)
    snapshots = job.engine._judging._snapshots
    for _ in range(4):
        _run(job, 1, 250)
        assert snapshots.steps == [100, 200]


def test_who_explains_a_rule_afterwards_knows_what_it_went_by() -> None:
    """As when it is explained why it fired at a step to which the run went back."""
    names = ["loss"]
    told = [*range(1, 221), *range(150, 171)]
    moments = [Moment(0.0, 0, hello(0, 1, names))]
    for at, step in enumerate(told, 1):
        loss = 9.0 if at == len(told) else _loss(step)
        moments.append(Moment(float(at), 0, frame(step, at, names, {"loss": loss})))
    explained = explain_run("run", moments, _SPIKE, 170, labels={})
    assert explained.times == 2
    assert (explained.explanation.holding, explained.explanation.missing) == (1, 0)
