"""Ranks that are silent or lost: judged by the clock."""

from __future__ import annotations

from sentinel.wire import Goodbye, Heartbeat
from tests.engine import world
from tests.engine.world import Job, alerts, states

NAMES = ["loss"]
WELL = {"loss": 1.0}
SILENT = world.rule("by_rank(silence) > 30", "Silent", severity="critical")
GONE = world.rule("by_rank(lost) > 0", "Gone", severity="critical")


def test_a_rank_that_is_not_heard_of_is_silent() -> None:
    job = Job([SILENT, GONE], NAMES)
    job.step(4, WELL)
    for _ in range(31):
        job.now += 1.0
        job.engine.feed(0, Heartbeat(4, "held", job.now), job.now)
        job.told += job.engine.tick(job.now)
    assert [(one.rule, one.labels, one.step) for one in alerts(job.told)] == [
        ("Silent", {"rank": "1"}, 4)
    ]
    job.engine.feed(1, Heartbeat(4, "held", job.now), job.now)
    assert states(job.tick()) == [("Silent", "resolved", 4)]


def test_nobody_is_silent_or_late_while_it_was_the_daemon_that_stood_still() -> None:
    job = Job([SILENT], NAMES, patience=30.0)
    job.tick(1.0)
    job.frame(0, 1, WELL)
    job.now += 1000.0
    job.told += job.engine.tick(job.now)
    assert (job.told, job.engine.step) == ([], 0)
    job.frame(1, 1, WELL)
    assert job.engine.step == 1
    assert job.tick(29.0) == []
    assert len(states(job.tick(4.0))) == 2


def test_a_rank_that_does_not_come_back_is_lost() -> None:
    job = Job([GONE], NAMES)
    job.engine.disconnected(1, job.now)
    assert job.tick(9.0) == []
    assert states(job.tick(1.5)) == [("Gone", "firing", 0)]
    job.hello(1)
    assert states(job.tick()) == [("Gone", "resolved", 0)]


def test_a_rank_that_comes_back_in_time_was_never_lost() -> None:
    job = Job([GONE], NAMES)
    job.engine.disconnected(1, job.now)
    job.tick(9.0)
    job.hello(1)
    assert job.tick(60.0) == []


def test_a_rank_that_said_goodbye_is_neither_silent_nor_lost() -> None:
    job = Job([SILENT, GONE], NAMES)
    for rank in (0, 1):
        job.engine.feed(rank, Goodbye("finished"), job.now)
        job.engine.disconnected(rank, job.now)
    assert job.tick(1000.0) == []
    assert job.engine.ended(job.now + 1) == []
