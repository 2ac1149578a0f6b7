"""What belongs to an incident, what continues it, and how often people hear of it."""

from __future__ import annotations

import math

import pytest

from sentinel.engine.run import RunEngine
from sentinel.engine.transition import IncidentChanged, Transition
from sentinel.wire import Frame, Goodbye, Heartbeat
from tests.engine import world
from tests.engine.world import Job, actions, alerts, incidents, states, steps

NAN = math.nan
NAMES = ["loss", "nonfinite_activation", "nonfinite_gradient", "nonfinite_update", "grad_norm"]
WELL = {
    "loss": 1.0,
    "nonfinite_activation": 0.0,
    "nonfinite_gradient": 0.0,
    "nonfinite_update": 0.0,
    "grad_norm": 1.0,
}
MANY = 512
TIMED_OUT = "RuntimeError: Watchdog caught collective operation timeout"


def _told(changes: list[Transition]) -> list[IncidentChanged]:
    """Those that people get a message of."""
    return [one for one in incidents(changes) if not one.silent]


@pytest.mark.parametrize("signal", ["nonfinite_update", "loss"])
def test_of_512_ranks_one_has_a_nan_and_the_others_time_out_one_by_one(signal: str) -> None:
    job = Job(world.default_rules(), NAMES, MANY)
    for step in (1, 2):
        job.step(step, WELL)
    bad = {"loss": NAN} if signal == "loss" else {signal: 1.0}
    job.now += 0.1
    for rank in (*range(200), 300, *range(200, 300)):
        job.frame(rank, 3, {**WELL, **(bad if rank == 300 else {})})
    (opened,) = incidents(job.told)
    assert (opened.cause.signal, opened.cause.rank, opened.cause.host) == (signal, 300, "host300")
    for rank in range(MANY):
        if rank != 300:
            job.now += 0.05
            job.told += job.engine.feed(rank, Goodbye("exception", TIMED_OUT), job.now)
            job.told += job.engine.disconnected(rank, job.now)
        if rank % 20 == 0:
            job.tick(0.1)
    job.tick(60.0)  # rank 300 says nothing any more
    job.told += job.engine.ended(job.now)
    assert {one.id for one in incidents(job.told)} == {opened.id}
    assert all(one.cause == opened.cause for one in incidents(job.told))
    became = [(one.change, one.severity) for one in _told(job.told)]
    if signal == "loss":  # a warning, which the death of the job makes worse, once
        assert became == [("opened", "warning"), ("updated", "critical")]
    else:
        assert became == [("opened", "critical")]
    assert {"RankFailed", "RankSilent"} <= {one.rule for one in alerts(job.told)}


@pytest.mark.parametrize("order", [range(MANY), range(MANY - 1, -1, -1)])
def test_a_gradient_that_is_bad_on_all_ranks_is_told_once_and_then_its_source(
    order: range,
) -> None:
    job = Job(world.default_rules(), NAMES, MANY)
    job.step(1, WELL)
    for rank in order:
        own = {"nonfinite_activation": 2.0, "loss": NAN} if rank == 77 else {}
        job.frame(rank, 2, {**WELL, "nonfinite_gradient": 5.0, **own})
    opened, *updates = _told(job.told)
    assert (opened.cause.signal, opened.cause.rank) == ("nonfinite_gradient", order[0])
    assert "may have come from another" in opened.certainty
    (found,) = updates
    assert (found.cause.signal, found.cause.rank) == ("nonfinite_activation", 77)
    assert found.certainty == "measured on this rank"


def test_what_waits_to_fire_counts_from_when_it_began() -> None:
    slow = world.rule("grad_norm > 5", "Norm", holds=steps(4))
    quick = world.rule("by_rank(loss) > 5", "Loss")
    job = Job([slow, quick], NAMES)
    job.step(1, {**WELL, "grad_norm": 9.0})
    job.step(2, {**WELL, "grad_norm": 9.0}, {1: {"loss": 9.0}})
    job.step(3, {**WELL, "grad_norm": 9.0})
    job.step(4, {**WELL, "grad_norm": 9.0})
    opened, updated = incidents(job.told)
    assert (opened.cause.rule, opened.cause.step) == ("Loss", 2)
    assert (updated.cause.rule, updated.cause.step) == ("Norm", 1)
    assert updated.certainty.startswith("not known on which rank")


def test_the_same_again_and_again_is_told_once() -> None:
    rule = world.rule("by_rank(loss) > 5", "High")
    job = Job([rule], NAMES, 8)
    for step in range(1, 60):
        job.step(step, WELL, {step % 8: {"loss": 9.0}})
    assert [one.change for one in incidents(job.told)] == ["opened"]
    assert len([one for one in alerts(job.told) if one.state == "firing"]) > 50


# Restarts.

APPLIED = world.rule(
    "by_rank(nonfinite_update) > 0",
    "Applied",
    severity="critical",
    actions=("pause",),
    keeps=steps(20),
)
GONE = world.rule("by_rank(lost) > 0", "Gone", severity="critical")


def _broken() -> Job:
    job = Job([APPLIED, GONE], NAMES)
    for step in range(1, 9):
        job.step(step, WELL)
    job.step(9, WELL, {1: {"nonfinite_update": 1.0}})
    return job


def _histories(changes: list[Transition]) -> list[str]:
    return [one.title for one in incidents(changes)[-1].evidence if one.kind == "history"]


def test_new_processes_go_on_with_the_incident_that_is_open() -> None:
    job = _broken()
    (opened,) = incidents(job.told)
    for rank in (0, 1):
        job.engine.disconnected(rank, job.now)
    job.tick(30.0)  # both are lost
    for rank in (0, 1):
        job.hello(rank, "b", step=6)
    (restart,) = _told(job.told)[1:]
    assert (restart.change, restart.id) == ("updated", opened.id)
    assert _histories(job.told) == ["the run was restarted at step 6"]
    assert "step 9" in restart.evidence[-1].text
    job.tick(1.0)
    for step in range(7, 20):
        job.step(step, WELL)
    assert [one.change for one in _told(job.told)] == ["opened", "updated", "resolved"]
    assert _histories(job.told) == ["the run was restarted at step 6"], "that it went back is that"


def test_what_the_new_processes_do_wrong_is_acted_on_anew() -> None:
    job = _broken()
    for rank in (0, 1):
        job.hello(rank, "b", step=6)
    job.step(7, WELL)
    assert len(actions(job.told)) == 1
    job.step(8, WELL, {1: {"nonfinite_update": 1.0}})
    assert len(actions(job.told)) == 2
    assert len({one.id for one in incidents(job.told)}) == 1


@pytest.mark.parametrize(
    ("reason", "after", "goes_on"),
    [
        ("exception", 60.0, True),
        ("stopped", 3000.0, True),
        ("", 60.0, True),
        ("exception", 4000.0, False),
        ("finished", 60.0, False),
    ],
)
def test_a_job_that_comes_back_soon_after_a_bad_end_is_the_same_one(
    reason: str, after: float, goes_on: bool
) -> None:
    job = _broken()
    first = incidents(job.told)[0].id
    if reason:
        for rank in (0, 1):
            job.told += job.engine.feed(rank, Goodbye(reason, "why"), job.now)
    job.told += job.engine.ended(job.now)
    job.now += after
    told = job.hello(0, "b") + job.tick(3.0) + job.hello(1, "b")
    (change,) = incidents(told)
    assert (change.change, change.id) == ("updated" if goes_on else "resolved", first)
    assert {one.state for one in alerts(told)} == {"resolved"}, "nobody misses the rank of before"
    job.step(1, WELL)
    job.step(2, WELL, {0: {"nonfinite_update": 1.0}})
    assert (incidents(job.told)[-1].id == first) == goes_on
    assert len(actions(job.told)) == 2


def test_a_rollback_is_part_of_the_incident_and_no_news() -> None:
    job = _broken()
    told = job.step(5, WELL)
    (back,) = incidents(told)
    assert back.silent
    assert _histories(told) == ["the run went back from step 9 to step 4"]


# The hardware.

XID = ["loss", "gpu_xid", "gpu_lost", "gpu_slowdown", "gpu_ecc_uncorrected_new"]
SOUND = dict.fromkeys(XID, 0.0) | {"loss": 1.0}
SPIKE = world.rule("loss > 5", "Spike")
OWN = world.rule("by_rank(loss) > 5", "Own")


def _hardware(changes: list[Transition]) -> list[str]:
    return [one.title for one in incidents(changes)[-1].evidence if one.kind == "hardware"]


def test_what_befell_the_gpu_of_the_named_rank_speaks_for_it() -> None:
    job = Job([OWN], XID, 4)
    job.step(1, SOUND)
    job.step(2, SOUND, {3: {"gpu_slowdown": 1.0}})
    job.now += 12.0
    job.step(3, SOUND, {3: {"loss": 9.0, "gpu_slowdown": 1.0}, 1: {"gpu_slowdown": 1.0}})
    assert _hardware(job.told) == [
        "GPU of rank 3 was slowed down by heat or by its own protection 12 s before"
    ]
    job.now += 5.0
    job.step(4, SOUND, {3: {"loss": 9.0, "gpu_xid": 79.0}})
    for step in range(5, 8):  # a frame carries an Xid for a minute
        job.step(step, SOUND, {3: {"loss": 9.0, "gpu_xid": 79.0}})
    assert _hardware(job.told)[1:] == ["GPU of rank 3 reported Xid 79 5 s after"]
    assert [one.change for one in _told(job.told)] == ["opened", "updated"]


def test_a_minute_later_hardware_has_nothing_to_do_with_it() -> None:
    job = Job([OWN], XID, 2)
    job.step(1, SOUND, {1: {"gpu_xid": 79.0}})
    job.now += 90.0
    job.step(2, SOUND, {1: {"loss": 9.0}})
    job.now += 90.0
    job.step(3, SOUND, {1: {"loss": 9.0, "gpu_ecc_uncorrected_new": 2.0}})
    assert _hardware(job.told) == []


def test_an_incident_without_a_rank_names_the_one_whose_gpu_alone_failed() -> None:
    job = Job([SPIKE], XID, 4)
    job.step(1, SOUND)
    alarm = Heartbeat(1, "forward", job.now, alarms={"gpu_xid": 48.0})
    job.told += job.engine.feed(2, alarm, job.now)
    job.now += 7.0
    told = job.step(2, {**SOUND, "loss": 9.0}, {2: {"gpu_xid": 48.0}})
    (opened,) = incidents(told)
    assert (opened.cause.rule, opened.cause.rank) == ("Spike", 2)
    assert (opened.cause.host, opened.cause.device) == ("host2", "cuda:2")
    assert opened.certainty.startswith("inferred: the GPU of this rank alone failed")
    assert _hardware(told) == ["GPU of rank 2 reported Xid 48 7 s before"]


@pytest.mark.parametrize("bad", [{1: 48.0, 2: 48.0}, {2: 13.0}])
def test_two_gpus_that_failed_or_one_that_did_not_name_nobody(bad: dict[int, float]) -> None:
    job = Job([SPIKE], XID, 4)
    job.step(1, SOUND, {rank: {"gpu_xid": code} for rank, code in bad.items()})
    told = job.step(2, {**SOUND, "loss": 9.0})
    assert incidents(told)[0].cause.rank is None
    assert len(_hardware(told)) == (2 if len(bad) == 2 else 0)


def test_the_gpu_of_another_rank_than_the_named_one_is_told_of_too() -> None:
    job = Job([OWN], XID, 4)
    job.step(1, SOUND, {0: {"gpu_lost": 1.0}})
    job.now += 3.0
    told = job.step(2, SOUND, {3: {"loss": 9.0}})
    assert incidents(told)[0].cause.rank == 3
    assert _hardware(told) == [
        "GPU of rank 0, which is not the one named, was lost by the driver 3 s before"
    ]


def test_fatal_codes_are_those_of_the_rule() -> None:
    from sentinel.engine.hardware import FATAL_XIDS

    (rule,) = [one for one in world.default_rules() if one.name == "GpuXidFatal"]
    assert {f"by_rank(gpu_xid) == {code}" for code in FATAL_XIDS} == {
        part.strip() for part in rule.expression.text.split(" or ")
    }


# Comparisons with other ranks.

WAIT = "exposed_communication_seconds"
WAITS = ["step_seconds", WAIT]


def _waits(**own: float) -> dict[str, float]:
    return {"step_seconds": 1.0, WAIT: 0.6, **own}


def test_a_straggler_is_told_by_what_the_others_wait_and_by_what_it_waited_before() -> None:
    job = Job(world.default_rules(), WAITS, 4)
    for step in range(1, 81):
        job.step(step, _waits(), {2: _waits(**({WAIT: 0.05} if step > 20 else {}))})
    (opened,) = incidents(job.told)
    assert (opened.cause.rule, opened.cause.rank) == ("Straggler", 2)
    assert opened.certainty.startswith("inferred: the others wait")
    (compared,) = opened.evidence
    assert (compared.kind, compared.rank) == ("comparison", 2)
    assert compared.title == (
        "rank 2 waits 0.05 s a step, the others 0.6 (median); before, it was 0.6 and 0.6"
    )


def test_a_rank_that_has_always_waited_least_is_no_news() -> None:
    job = Job(world.default_rules(), WAITS, 4)
    for step in range(1, 200):
        hiccup = {WAIT: 0.9} if step % 50 == 0 else {}
        job.step(step, _waits(), {0: _waits(**{WAIT: 0.05} | hiccup)})
    assert job.told == []


SAME = world.rule("disagrees(replica_checksum, tolerance=0)", "Replica")


def _replicas(said: dict[int, float], group: str = "0-4") -> dict[int, dict[str, float]]:
    return {rank: {f"replica_checksum/{group}": value} for rank, value in said.items()}


def test_a_rank_that_disagrees_with_most_is_named_and_when_it_last_did_not() -> None:
    job = Job([SAME], ["replica_checksum/0-4"], 5)
    job.step(20, {}, _replicas(dict.fromkeys(range(5), 7.0)))
    job.step(21, {}, _replicas({}))
    told = job.step(40, {}, _replicas({**dict.fromkeys(range(5), 9.0), 3: 8.0}))
    (opened,) = incidents(told)
    assert opened.cause.rank == 3
    assert opened.certainty.startswith("inferred: most of those")
    (compared,) = opened.evidence
    assert compared.title == (
        "all 4 others agree with one another at step 40, rank 3 does not; it last did at step 20"
    )


def test_where_two_differ_nobody_is_named() -> None:
    job = Job([SAME], ["replica_checksum/0-1"], 2)
    told = job.step(20, {}, _replicas({0: 1.0, 1: 2.0}, "0-1"))
    (opened,) = incidents(told)
    assert (opened.cause.rank, opened.cause.host, opened.cause.device) == (None, None, None)
    assert opened.certainty.startswith("not known which rank")
    assert opened.evidence == ()


def test_replicas_of_different_weights_are_not_compared() -> None:
    names = {rank: [f"replica_checksum/{'0,2' if rank % 2 == 0 else '1,3'}"] for rank in range(4)}
    job = Job([SAME], names, 4)
    even, odd = _replicas({0: 1.0, 2: 1.0}, "0,2"), _replicas({1: 2.0, 3: 2.0}, "1,3")
    assert job.step(20, {}, {**even, **odd}) == []


def test_an_engine_that_is_told_nothing_of_the_kind_finds_no_evidence() -> None:
    engine = RunEngine("run", [OWN])
    engine.feed(0, world.hello(0, 1, ["loss"]), 1.0)
    frame: Frame = world.frame(1, 1, ["loss"], {"loss": 9.0})
    (opened,) = incidents(engine.feed(0, frame, 2.0))
    assert opened.evidence == ()


def test_alerts_of_one_moment_say_how_many_others_there_are() -> None:
    job = Job([world.rule("by_rank(loss) > 5 and loss > 0", "High")], NAMES, 4)
    told = job.step(1, WELL, {1: {"loss": 9.0}, 3: {"loss": 9.0}})
    (opened,) = incidents(told)
    assert opened.certainty == "measured on this rank (and on 1 other at the same step)"
    assert states(told) == [("High", "firing", 1)] * 2
