"""Errors that ranks tell of: memory that ran out, and scripts that ended with an exception."""

from __future__ import annotations

import msgspec

from sentinel.engine.transition import Transition
from sentinel.wire import Finding, Goodbye
from tests.engine import world
from tests.engine.world import Job, Measured, alerts, default_rules, incidents, states

NAMES = ["loss", "out_of_memory", "host_oom_kills", "device_memory_retries"]
WELL: Measured = {"loss": 1.0, "out_of_memory": 0.0}
ERROR = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


def _ran_out(job: Job, rank: int, step: int, measured: Measured | None = None) -> list[Transition]:
    """A rank tells in the middle of a step that memory has run out."""
    job._sequence[rank] += 1
    frame = world.frame(
        step, job._sequence[rank], NAMES, {"out_of_memory": 1.0} if measured is None else measured
    )
    finding = Finding("out_of_memory", "backward", detail=ERROR)
    partial = msgspec.structs.replace(frame, partial=True, findings=(finding,))
    told = job.engine.feed(rank, partial, job.now)
    job.told += told
    return told


def test_memory_that_ran_out_is_told_at_once_with_rank_phase_and_sizes() -> None:
    job = Job(default_rules(), NAMES)
    job.step(1, WELL)
    told = _ran_out(job, 1, 2)
    (alert,) = alerts(told)
    assert (alert.rule, alert.severity, alert.step) == ("OutOfMemory", "critical", 2)
    assert alert.summary == f"rank 1 on host1 ran out of memory in step 2 (backward): {ERROR}"
    (incident,) = incidents(told)
    assert (incident.cause.rank, incident.cause.step) == (1, 2)
    assert incident.cause.device == "cuda:1"


def test_the_step_in_which_memory_ran_out_is_judged_when_it_ends_after_all() -> None:
    job = Job(default_rules(), NAMES)
    job.step(1, WELL)
    _ran_out(job, 1, 2)
    assert job.engine.step == 1, "nobody has ended step 2"
    told = job.step(2, WELL, {1: {"out_of_memory": 1.0, "loss": 3.0}})
    assert (told, job.engine.step, job.engine.refused, job.engine.gaps) == ([], 2, {}, 0)
    assert job.engine.latest[world.series("loss")] == 2.0
    for step in range(3, 24):
        assert job.step(step, WELL) == [] or step == 23
    assert states(job.told)[-1] == ("OutOfMemory", "resolved", 2)


def test_what_is_told_in_the_middle_of_a_step_is_no_step_of_those_that_count_steps() -> None:
    waits = world.rule("by_rank(loss) > 2", "Waits", holds=world.steps(2))
    atonce = world.rule("by_rank(loss) > 5", "AtOnce", keeps=world.steps(2))
    job = Job([waits, atonce], NAMES)
    job.step(1, {"loss": 3.0})
    assert _ran_out(job, 1, 2, {"loss": 3.0}) == []
    job.step(2, {"loss": 9.0})
    assert (
        states(job.told) == [(name, "firing", at) for name, at in [("Waits", 1), ("AtOnce", 2)]] * 2
    )
    job.told.clear()
    job.step(3, {"loss": 3.0})
    for _ in range(3):
        assert _ran_out(job, 1, 4, {"loss": 3.0}) == []


def test_a_rank_that_ends_with_an_exception_is_an_alert_with_its_error() -> None:
    job = Job(default_rules(), NAMES)
    job.step(7, WELL)
    told = job.engine.feed(1, Goodbye("exception", "ValueError: no such file"), job.now)
    (alert,) = alerts(told)
    assert (alert.rule, alert.severity, alert.labels) == ("RankFailed", "critical", {"rank": "1"})
    assert alert.summary == "the script of rank 1 on host1 ended with ValueError: no such file"
    assert incidents(told)[0].cause.rank == 1


def test_a_script_that_is_interrupted_or_taken_down_has_not_failed() -> None:
    job = Job(default_rules(), NAMES)
    job.step(7, WELL)
    for rank, reason in enumerate(("interrupted", "taken down")):
        job.engine.feed(rank, Goodbye(reason, "KeyboardInterrupt:"), job.now)
        job.engine.disconnected(rank, job.now)
    assert job.tick(60.0) == job.engine.ended(job.now) == []


def test_of_ranks_that_fail_one_after_the_other_the_first_is_the_cause() -> None:
    job = Job(default_rules(), NAMES)
    job.step(7, WELL)
    for rank in (1, 0):
        job.engine.disconnected(rank, job.now)
        job.now += 0.1
        job.told += job.engine.feed(rank, Goodbye("exception", f"error {rank}"), job.now)
    assert [one.labels["rank"] for one in alerts(job.told)] == ["1", "0"]
    (incident,) = incidents(job.told)
    assert (incident.cause.rule, incident.cause.rank) == ("RankFailed", 1)


def test_a_rank_that_died_without_a_word_is_the_cause_of_those_that_fail_after_it() -> None:
    job = Job(default_rules(), NAMES)
    job.step(7, WELL)
    job.engine.disconnected(1, job.now)
    told = job.engine.feed(0, Goodbye("exception", "RuntimeError: connection closed"), job.now)
    assert told == [], "it is not known yet what became of rank 1"
    told = job.tick(11.0)
    assert [one.rule for one in alerts(told)] == ["RankSilent", "RankFailed"]
    (incident,) = incidents(told)
    assert (incident.cause.rule, incident.cause.rank) == ("RankSilent", 1)


def test_a_rank_that_is_taken_down_after_one_failed_is_not_its_cause() -> None:
    job = Job(default_rules(), NAMES)
    job.step(7, WELL)
    job.told += job.engine.feed(1, Goodbye("exception", "ValueError"), job.now)
    job.engine.disconnected(0, job.now)
    job.tick(11.0)
    assert states(job.told) == [("RankFailed", "firing", 7), ("RankSilent", "firing", 7)]
    assert incidents(job.told)[-1].cause.rank == 1


def test_an_error_that_ends_the_script_belongs_to_the_memory_that_ran_out() -> None:
    job = Job(default_rules(), NAMES)
    job.step(7, WELL)
    _ran_out(job, 1, 8)
    job.told += job.engine.feed(1, Goodbye("exception", ERROR), job.now)
    job.told += job.engine.feed(0, Goodbye("exception", "connection closed"), job.now)
    assert [one.change for one in incidents(job.told)] == ["opened"]
    assert incidents(job.told)[0].cause.rule == "OutOfMemory"
    assert [one.rule for one in alerts(job.told)] == ["OutOfMemory", "RankFailed", "RankFailed"]


def test_a_rank_that_is_started_again_has_failed_no_more() -> None:
    job = Job(default_rules(), NAMES)
    job.step(7, WELL)
    job.told += job.engine.feed(1, Goodbye("exception", "ValueError"), job.now)
    job.hello(1, incarnation="b")
    assert states(job.tick()) == [("RankFailed", "resolved", 7)]


def test_a_kill_by_the_kernel_is_told_of_the_ranks_whose_group_it_was() -> None:
    job = Job(default_rules(), NAMES)
    job.step(1, WELL, {0: {"host_oom_kills": 2.0}, 1: {"host_oom_kills": 5.0}})
    job.step(2, WELL)  # it is not read at every step
    told = job.step(3, WELL, {0: {"host_oom_kills": 2.0}, 1: {"host_oom_kills": 6.0}})
    (alert,) = alerts(told)
    assert (alert.rule, alert.labels, alert.value) == ("HostOutOfMemoryKill", {"rank": "1"}, 6.0)


def test_a_device_so_full_that_its_cache_is_emptied_at_every_step_warns() -> None:
    job = Job(default_rules(), NAMES)
    for step, retries in enumerate((0, 1, 1, 2, 3, 4), start=1):
        job.step(step, WELL, {0: {"device_memory_retries": float(retries)}})
    assert states(job.told) == [("DeviceOOMRiskRetries", "firing", 4)]
