"""When a step is judged: whom it waits for, and what happens to frames that come otherwise."""

from __future__ import annotations

import pytest

from sentinel.engine.run import MAX_OPEN
from sentinel.wire import Coverage, Frame, Goodbye, Heartbeat, Series
from tests.engine import world
from tests.engine.world import Job, states, steps

ALWAYS = world.rule("loss > -1", "Always")


def _job(world_size: int = 2, **options: float | bool) -> Job:
    return Job([ALWAYS], ["loss"], world_size, **options)  # type: ignore[arg-type]


def _latest(job: Job) -> float | None:
    return job.engine.latest.get(Series("loss"))


def test_a_step_is_judged_when_the_last_rank_has_reported_it() -> None:
    job = _job(3)
    assert job.frame(2, 1, {"loss": 1.0}) == []
    assert job.frame(0, 1, {"loss": 2.0}) == []
    assert (job.engine.step, job.engine.latest) == (0, {})
    assert states(job.frame(1, 1, {"loss": 6.0})) == [("Always", "firing", 1)]
    assert (job.engine.step, _latest(job)) == (1, 3.0)


def test_ranks_that_run_ahead_are_judged_in_order() -> None:
    job = _job()
    for step in (1, 2, 3):
        job.frame(0, step, {"loss": float(step)})
    assert job.engine.step == 0
    job.frame(1, 1, {"loss": 3.0})
    assert (job.engine.step, _latest(job)) == (1, 2.0)
    job.frame(1, 2, {"loss": 2.0})
    assert (job.engine.step, _latest(job)) == (2, 2.0)


def test_a_gap_in_a_ranks_sequence_is_known_as_lost_at_once() -> None:
    job = _job()
    job.frame(0, 1, {"loss": 4.0})
    job.lose(1)
    job.frame(0, 2, {"loss": 4.0})
    job.frame(1, 2, {"loss": 2.0})
    assert (job.engine.step, _latest(job), job.engine.gaps) == (2, 3.0, 0)
    job.lose(1, 3)
    job.frame(1, 6, {"loss": 2.0})
    assert job.engine.gaps == 3


def test_a_step_is_judged_without_a_rank_that_is_late_beyond_patience() -> None:
    job = _job(patience=5.0)
    job.step(1, {"loss": 1.0})
    job.frame(0, 2, {"loss": 2.0})
    job.tick(4.0)
    assert job.engine.step == 1
    job.tick(1.1)
    assert (job.engine.step, _latest(job)) == (2, 2.0)
    job.frame(0, 3, {"loss": 3.0})
    assert job.engine.step == 3, "it is not waited for again before it has caught up"


def test_a_late_frame_never_reopens_a_judged_step() -> None:
    job = _job(patience=5.0)
    job.frame(0, 1, {"loss": 2.0})
    job.tick(6.0)
    before = list(job.told)
    assert job.frame(1, 1, {"loss": 100.0}) == []
    assert (_latest(job), job.told, job.engine.refused) == (2.0, before, {"late": 1})


def test_a_rank_that_has_caught_up_is_waited_for_again() -> None:
    job = _job(patience=5.0)
    job.frame(0, 1, {"loss": 2.0})
    job.tick(6.0)
    job.frame(1, 1, {"loss": 2.0})
    job.frame(1, 2, {"loss": 4.0})
    assert job.engine.step == 1
    job.frame(0, 2, {"loss": 2.0})
    assert (job.engine.step, _latest(job)) == (2, 3.0)
    job.frame(0, 3, {"loss": 2.0})
    assert job.engine.step == 2


def test_a_rank_that_said_goodbye_is_not_waited_for() -> None:
    job = _job()
    job.frame(0, 1, {"loss": 2.0})
    job.engine.feed(1, Goodbye("finished"), job.now)
    assert job.engine.step == 1
    assert job.engine.ranks[1].goodbye == "finished"


def test_a_rank_whose_connection_ended_is_waited_for_until_it_is_lost() -> None:
    job = _job()
    job.engine.disconnected(1, job.now)
    job.frame(0, 1, {"loss": 2.0})
    job.tick(9.0)
    assert job.engine.step == 0
    job.tick(1.1)
    assert job.engine.step == 1
    assert job.engine.ranks[1].lost


def test_ranks_that_have_not_come_yet_are_waited_for_until_patience_ends() -> None:
    job = _job(greet=False, patience=5.0)
    job.hello(0)
    job.frame(0, 1, {"loss": 2.0})
    assert job.engine.step == 0
    job.hello(1)
    job.frame(1, 1, {"loss": 4.0})
    assert (job.engine.step, _latest(job)) == (1, 3.0)

    alone = _job(greet=False, patience=5.0)
    alone.hello(0)
    alone.frame(0, 1, {"loss": 2.0})
    alone.tick(6.0)
    assert (alone.engine.step, _latest(alone)) == (1, 2.0)
    alone.frame(0, 2, {"loss": 2.0})
    assert alone.engine.step == 2


def test_too_many_open_steps_are_judged_without_the_slow_rank() -> None:
    job = _job()
    job.frame(1, 1, {"loss": 4.0})
    for step in range(1, MAX_OPEN + 2):
        job.frame(0, step, {"loss": 2.0})
    assert job.engine.step == 1
    job.frame(0, MAX_OPEN + 2, {"loss": 2.0})
    assert (job.engine.step, job.engine.overrun) == (MAX_OPEN + 2, 1)
    job.frame(1, 2, {"loss": 4.0})
    assert job.engine.refused == {"late": 1}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Frame(5, 9, 0.0, b"\0" * 7), "wrong length"),
        (Frame(5, 9, 0.0, b"\0" * 16), "wrong length"),
        (Frame(5, 9, 0.0, b""), "wrong length"),
        (Frame(5, 9, 0.0, b"\0" * 8, b"\0\0"), "wrong length"),
        (Frame(5, 1, 0.0, b"\0" * 8), "old sequence"),
    ],
)
def test_frames_that_are_not_whole_or_not_next_are_refused(message: Frame, reason: str) -> None:
    job = _job(1)
    job.step(1, {"loss": 1.0})
    assert job.engine.feed(0, message, job.now) == []
    assert (job.engine.refused, job.engine.step, job.engine.frames) == ({reason: 1}, 1, 1)


def test_only_a_rank_that_said_hello_is_heard() -> None:
    job = _job()
    job.engine.feed(7, Heartbeat(1, "data", 0.0), job.now)
    job.engine.feed(0, world.hello(1, 2, ["loss"]), job.now)
    job.engine.feed(2, world.hello(2, 2, ["loss"]), job.now)
    job.engine.feed(1, world.hello(1, 2, ["loss", "loss"]), job.now)
    assert job.engine.refused == {
        "no hello": 1,
        "another rank": 1,
        "rank outside of its world": 1,
        "series announced twice": 1,
    }


def test_an_earlier_incarnation_of_a_rank_is_refused() -> None:
    job = _job()
    job.hello(1, "b")
    assert job.engine.refusal(world.hello(1, 2, ["loss"], incarnation="a")) == "earlier incarnation"
    assert job.engine.refusal(world.hello(1, 2, ["loss"], incarnation="b")) is None
    job.hello(1, "a")
    assert job.engine.refused == {"earlier incarnation": 1}
    assert job.engine.ranks[1].incarnation == "1b"


def test_a_rank_that_reconnects_goes_on_where_it_was() -> None:
    job = _job()
    job.step(1, {"loss": 1.0})
    job.engine.disconnected(1, job.now)
    job.frame(0, 2, {"loss": 1.0})
    job.hello(1)
    job.frame(1, 2, {"loss": 3.0})
    assert (job.engine.step, _latest(job), job.engine.refused) == (2, 2.0, {})


def test_a_restart_from_a_checkpoint_is_judged_from_there() -> None:
    job = _job()
    for step in range(1, 11):
        job.step(step, {"loss": 1.0})
    job.frame(0, 11, {"loss": 1.0})
    for rank in (1, 0):
        job.hello(rank, "b", step=5)
    for step in (6, 7):
        job.step(step, {"loss": 2.0})
    assert (job.engine.step, _latest(job), job.engine.refused) == (7, 2.0, {})


def test_a_restart_is_joined_by_a_rank_that_was_not_as_far() -> None:
    job = _job()
    job.step(1, {"loss": 1.0})
    job.frame(0, 2, {"loss": 1.0})
    job.hello(1, "b", step=1)  # rank 1 lost nothing, rank 0 goes back one step
    job.hello(0, "b", step=1)
    job.step(2, {"loss": 5.0})
    assert (job.engine.step, _latest(job)) == (2, 5.0)


def test_a_job_that_restarts_again_and_again_is_judged() -> None:
    job = _job()
    job.step(1, {"loss": 1.0})
    for life in "bcd":
        for rank in (0, 1):
            job.hello(rank, life, step=1)
        if life == "c":
            job.frame(0, 2, {"loss": 3.0})
    job.step(2, {"loss": 5.0})
    assert (job.engine.step, _latest(job)) == (2, 5.0)


def test_a_rollback_within_the_processes_is_judged_from_there() -> None:
    job = _job()
    for step in range(1, 11):
        job.step(step, {"loss": 1.0})
    job.frame(0, 6, {"loss": 3.0})
    job.frame(0, 7, {"loss": 3.0})
    job.frame(1, 11, {"loss": 1.0})  # rank 1 still tells of a step from before
    job.frame(1, 6, {"loss": 3.0})
    assert (job.engine.step, _latest(job)) == (6, 3.0)
    job.frame(1, 7, {"loss": 5.0})
    assert (job.engine.step, _latest(job)) == (7, 4.0)


def test_ranks_that_disagree_about_a_rollback_find_each_other_again() -> None:
    job = _job(patience=5.0)
    job.step(10, {"loss": 1.0})
    job.frame(0, 5, {"loss": 3.0})
    job.frame(0, 3, {"loss": 3.0})  # goes back twice; of rank 1, only the second is heard
    for step in range(4, 8):
        job.step(step, {"loss": 3.0})
    job.tick(6.0)
    job.step(8, {"loss": 3.0})
    job.step(9, {"loss": 3.0})
    assert (job.engine.step, _latest(job)) == (9, 3.0)
    assert not job.engine.ranks[0].late
    assert not job.engine.ranks[1].late


def test_windows_warm_up_anew_when_steps_go_backwards() -> None:
    above = world.rule("loss > mean(loss[2])", "Above", holds=steps(2))
    job = Job([above], ["loss"], 1)
    for step, loss in enumerate((1.0, 1.0, 9.0), 1):
        job.step(step, {"loss": loss})
    for step in (2, 3):
        job.step(step, {"loss": 20.0})
    assert job.told == [], "neither the window nor what was pending outlives the way back"
    job.step(4, {"loss": 21.0})
    assert states(job.step(5, {"loss": 30.0})) == [("Above", "firing", 4)]


def test_a_world_of_another_size_forgets_the_ranks_beyond_it() -> None:
    job = Job([world.rule("layer_grad_norm > 0")], ["layer_grad_norm/a"], 3)
    for rank in (0, 1):
        job.engine.feed(rank, world.hello(rank, 2, ["layer_grad_norm/a"], incarnation="b"), job.now)
    assert (job.engine.world_size, sorted(job.engine.ranks)) == (2, [0, 1])
    names = ["layer_grad_norm/a"]
    for rank in (0, 1):
        job.engine.feed(rank, world.frame(1, 1, names, {names[0]: 8.0}), job.now)
    assert job.engine.latest == {Series("layer_grad_norm", "a"): 4.0}


def test_a_rank_may_come_back_with_other_series() -> None:
    job = Job([ALWAYS], ["loss", "layer_grad_norm/a"])
    job.step(1, {"loss": 1.0, "layer_grad_norm/a": 8.0})
    names = ["layer_grad_norm/b", "loss"]
    job.engine.feed(1, world.hello(1, 2, names, incarnation="b", step=1), job.now)
    job.engine.feed(0, world.hello(0, 2, ["loss"], incarnation="b", step=1), job.now)
    job.engine.feed(0, world.frame(2, 1, ["loss"], {"loss": 1.0}), job.now)
    measured = {"loss": 2.0, "layer_grad_norm/b": 9.0}
    job.engine.feed(1, world.frame(2, 1, names, measured), job.now)
    assert job.engine.latest == {Series("loss"): 1.5, Series("layer_grad_norm", "b"): 3.0}


def test_coverage_says_why_a_signal_is_missing() -> None:
    job = _job()
    job.engine.feed(1, Coverage(3, "grad_norm", "its probe failed"), job.now)
    job.engine.feed(1, Coverage(3, "no such signal", "?"), job.now)
    assert job.engine.ranks[1].coverage.missing == {"grad_norm": "its probe failed"}
    job.engine.feed(1, Coverage(4, "grad_norm", "", 1), job.now)
    assert job.engine.ranks[1].coverage.missing == {}


def test_heartbeats_tell_where_a_rank_is() -> None:
    job = _job()
    job.now += 3
    job.engine.feed(1, Heartbeat(7, "backward", 0.0, {"queue full": 3}), job.now)
    rank = job.engine.ranks[1]
    assert (rank.step, rank.phase, rank.dropped) == (7, "backward", {"queue full": 3})
    assert (rank.last_seen, rank.host, rank.pid) == (job.now, "host1", 1001)


def test_an_alarm_is_judged_in_the_step_that_the_rank_is_in_and_by_fitting_rules_alone() -> None:
    expressions = (
        "by_rank(gpu_xid) == 79",
        "by_rank(gpu_lost) > 0",
        "by_rank(gpu_xid) > 0 and missing(by_rank(loss))",
        "missing(by_rank(loss))",
    )
    rules = [world.rule(expression, expression) for expression in expressions]
    patient = world.rule("by_rank(gpu_xid) > 0", "patient", holds=world.steps(2))
    job = Job([*rules, patient], ["loss", "gpu_xid"])
    job.step(4, {"loss": 1.0, "gpu_xid": 0.0})
    beat = Heartbeat(4, "backward", 0.0, alarms={"gpu_xid": 79.0, "no such signal": 1.0})
    told = [one for _ in range(5) for one in job.engine.feed(1, beat, job.now)]
    assert world.states(told) == [("by_rank(gpu_xid) == 79", "firing", 5)]
    (fired,) = world.alerts(told)
    assert fired.labels == {"rank": "1"}
    told = job.step(5, {"loss": 1.0, "gpu_xid": 79.0})
    assert {(one.rule, one.labels["rank"]) for one in world.alerts(told)} == {
        ("by_rank(gpu_xid) == 79", "0"),
        ("patient", "1"),  # the alarm counted for one step, and the frame for the next
    }
