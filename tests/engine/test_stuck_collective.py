"""A rank that is alive, stands still, and is behind its group in collectives."""

from __future__ import annotations

from sentinel.wire import Goodbye, Heartbeat
from tests.engine import world
from tests.engine.world import Job, alerts, states

NAMES = ["loss"]
WELL = {"loss": 1.0}
STUCK = next(one for one in world.default_rules() if one.name == "CollectiveStuck")
DATA = "data:0-1"


def beat(
    job: Job, rank: int, entered: dict[str, int], *, step: int = 4, phase: str = "backward"
) -> None:
    collectives: dict[str, tuple[int, int | None]] = {
        group: (number, number - 1) for group, number in entered.items()
    }
    message = Heartbeat(step, phase, job.now, collectives=collectives)
    job.told += job.engine.feed(rank, message, job.now)


def watch(job: Job, seconds: int, of: dict[int, dict[str, int]], phase: str = "backward") -> None:
    """Every rank says the same each second."""
    for _ in range(seconds):
        job.now += 1.0
        for rank, entered in of.items():
            beat(job, rank, entered, phase=phase)
        job.told += job.engine.tick(job.now)


def test_the_rank_that_others_wait_for_in_a_collective_is_named() -> None:
    job = Job([STUCK], NAMES)
    job.step(4, WELL)
    watch(job, 179, {0: {DATA: 12}, 1: {DATA: 11}})
    assert job.told == []
    watch(job, 3, {0: {DATA: 12}, 1: {DATA: 11}})
    (alert,) = alerts(job.told)
    assert (alert.rule, alert.labels) == ("CollectiveStuck", {"rank": "1"})
    assert "rank 1 on host1 is alive but has not moved for 180 s" in alert.summary
    job.told.clear()
    watch(job, 1, {0: {DATA: 12}, 1: {DATA: 12}})
    assert states(job.told) == [("CollectiveStuck", "resolved", 4)]


def test_ranks_that_all_wait_in_the_same_collective_are_not_behind_one_another() -> None:
    job = Job([STUCK], NAMES)
    watch(job, 400, {0: {DATA: 12}, 1: {DATA: 12}})
    assert job.told == []


def test_a_rank_behind_that_still_moves_is_not_stuck() -> None:
    job = Job([STUCK], NAMES)
    for number in range(400):
        watch(job, 1, {0: {DATA: 900}, 1: {DATA: number}})
    assert job.told == []


def test_different_groups_are_not_compared() -> None:
    job = Job([STUCK], NAMES)
    watch(job, 400, {0: {"pipe:0,2": 90}, 1: {"pipe:1,3": 5}})
    assert job.told == []


def test_ranks_that_save_or_stand_held_are_not_stuck() -> None:
    for phase in ("checkpoint", "held"):
        job = Job([STUCK], NAMES)
        watch(job, 400, {0: {DATA: 12}, 1: {DATA: 11}}, phase)
        assert job.told == []


def test_what_a_rank_said_before_it_left_or_began_anew_is_not_held_against_others() -> None:
    job = Job([STUCK], NAMES)
    watch(job, 2, {0: {DATA: 12}, 1: {DATA: 11}})
    job.told += job.engine.feed(0, Goodbye("finished"), job.now)
    watch(job, 400, {1: {DATA: 11}})
    assert job.told == []
    job = Job([STUCK], NAMES)
    watch(job, 2, {0: {DATA: 500}, 1: {DATA: 500}})
    job.hello(0, "b")
    job.hello(1, "b")
    assert dict(job.engine.ranks[1].collectives) == {}
    watch(job, 400, {0: {DATA: 3}, 1: {DATA: 3}})
    assert job.told == []


def test_the_engine_keeps_what_each_rank_last_said() -> None:
    job = Job([], NAMES)
    beat(job, 1, {DATA: 11, "default:0-1": 1})
    assert job.engine.ranks[1].collectives == {DATA: (11, 10), "default:0-1": (1, 0)}
