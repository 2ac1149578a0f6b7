"""Whom a hang is asked about, once each, and how what they answer becomes evidence."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from sentinel.engine.inquiry import ANSWER_WITHIN
from sentinel.engine.transition import Evidence
from sentinel.wire import Goodbye, Heartbeat, Stack
from tests.engine import world
from tests.engine.world import Job, incidents, open_incident

NAMES = ["loss"]
STUCK = world.rule("by_rank(stall) > 20 and by_rank(collective_lag) > 0", "Stuck")
HANG = world.rule("collective_hang > 20", "Hang")
SILENT = world.rule("by_rank(silence) > 15", "Silent")
ANY = world.rule("loss > 5", "Spike")
DATA = "data:0-2"
Entered = dict[str, tuple[int, int | None]]
WAITS: Entered = {DATA: (12, 11)}
BEHIND: Entered = {DATA: (11, 11)}


def beat(job: Job, rank: int, collectives: Entered, phase: str = "backward") -> None:
    job.told += job.engine.feed(
        rank, Heartbeat(4, phase, job.now, collectives=collectives), job.now
    )


def stand(job: Job, of: dict[int, Entered], seconds: int = 23, phase: str = "backward") -> None:
    """All say the same each second; who is not mentioned says nothing."""
    for _ in range(seconds):
        job.now += 1.0
        for rank, collectives in of.items():
            beat(job, rank, collectives, phase)
        job.told += job.engine.tick(job.now)


def asked(job: Job) -> list[int]:
    """The ranks that are to be asked, for the open incident."""
    found = job.engine.inquiry.questions()
    assert {one.incident for _, one in found} <= {incidents(job.told)[-1].id}
    return [rank for rank, _ in found]


def answer(job: Job, rank: int, place: str = "data.py:8 read", text: str = "MainThread") -> None:
    stack = Stack(incidents(job.told)[-1].id, place, text)
    job.told += job.engine.feed(rank, stack, job.now)


def evidence(job: Job) -> list[tuple[str, int | None]]:
    return [(one.title, one.rank) for one in incidents(job.told)[-1].evidence]


def stuck() -> Job:
    """Of three ranks, rank 1 has not entered what the others stand in."""
    job = Job([STUCK], NAMES, 3)
    stand(job, {0: WAITS, 1: BEHIND, 2: WAITS})
    return job


def test_the_blamed_rank_and_the_lowest_that_waits_are_asked_once() -> None:
    job = stuck()
    assert asked(job) == [1, 0]
    stand(job, {0: WAITS, 1: BEHIND, 2: WAITS}, 60)
    assert asked(job) == []


def test_what_both_answer_is_told_at_once_and_the_blamed_rank_comes_first() -> None:
    job = stuck()
    asked(job)
    before = len(job.told)
    answer(job, 0, "c10d.py:3 all_reduce")
    assert len(job.told) == before
    answer(job, 1, text="MainThread:\n  data.py:8 read")
    (change,) = job.told[before:]
    assert incidents([change])[0].evidence == (
        Evidence("stack", "rank 1 stands in data.py:8 read", "MainThread:\n  data.py:8 read", 1),
        Evidence("stack", "rank 0 waits in c10d.py:3 all_reduce", "MainThread", 0),
    )
    for rank in range(3):
        answer(job, rank, "again")
    assert len(job.told) == before + 1


def test_what_nobody_has_asked_for_is_passed_over() -> None:
    job = stuck()
    asked(job)
    before = len(job.told)
    answer(job, 2)
    job.told += job.engine.feed(1, Stack("another", "x.py:1 f", ""), job.now)
    assert len(job.told) == before
    calm = Job([ANY], NAMES)
    assert calm.engine.feed(0, Stack("", "x.py:1 f", ""), calm.now) == []


def test_only_what_can_be_printed_is_kept() -> None:
    job = stuck()
    asked(job)
    answer(job, 0, "a\x1b[31m\u202eb.py:1 f", "one\x00\r\ntwo\x9b")
    answer(job, 1)
    last = incidents(job.told)[-1].evidence[-1]
    assert (last.title, last.text) == ("rank 0 waits in a?[31m?b.py:1 f", "one??\ntwo?")


def test_who_does_not_answer_is_said_with_what_the_other_told_and_may_answer_later() -> None:
    job = stuck()
    asked(job)
    answer(job, 0)
    before = len(job.told)
    stand(job, {0: WAITS, 2: WAITS}, int(ANSWER_WITHIN) + 5)
    assert len(incidents(job.told[before:])) == 1
    (silent, _), (waits, _) = evidence(job)
    assert silent.startswith("rank 1 does not answer: stopped, swapped out")
    assert waits == "rank 0 waits in data.py:8 read"
    answer(job, 1, "late.py:1 f")
    assert evidence(job)[2] == ("rank 1 stands in late.py:1 f", 1)
    assert asked(job) == []


def test_a_rank_that_leaves_before_it_answers_is_said_to_have_left() -> None:
    job = stuck()
    asked(job)
    answer(job, 0)
    job.told += job.engine.disconnected(1, job.now)
    stand(job, {0: WAITS, 2: WAITS}, int(ANSWER_WITHIN) + 1)
    assert evidence(job)[0][0].startswith("rank 1 left before it could say")


def test_a_rank_that_has_fallen_silent_is_asked_but_not_one_whose_connection_is_gone() -> None:
    for gone in (False, True):
        job = Job([SILENT], NAMES, 3)
        stand(job, {0: BEHIND, 1: BEHIND, 2: BEHIND}, 2)
        if gone:
            job.told += job.engine.disconnected(1, job.now)
        stand(job, {0: WAITS, 2: WAITS}, 20)
        assert asked(job) == ([] if gone else [1, 0])


def test_ranks_are_asked_anew_when_another_is_blamed_but_never_more_than_twice() -> None:
    job = Job([STUCK], NAMES, 3)
    of: dict[int, Entered] = {0: {DATA: (12, 12)}, 1: BEHIND, 2: {DATA: (13, 12)}}
    stand(job, of)
    opened = incidents(job.told)[0]
    assert asked(job) == [0, 2]  # of two that are behind, the incident names the first
    for blamed, expected in ((1, [1, 2]), (0, [0]), (1, [1]), (0, [])):
        answer(job, 0)
        change = replace(opened, change="updated", cause=replace(opened.cause, rank=blamed))
        job.engine.inquiry.note([change])
        stand(job, of, 1)
        assert asked(job) == expected


def test_a_rank_that_speaks_an_older_protocol_is_not_asked() -> None:
    job = Job([STUCK], NAMES, 3, greet=False)
    for rank in range(3):
        hello = world.hello(rank, 3, NAMES)
        old = msgspec.structs.replace(hello, version=(1, 2) if rank == 1 else hello.version)
        job.told += job.engine.feed(rank, old, job.now)
    stand(job, {0: WAITS, 1: BEHIND, 2: WAITS})
    assert asked(job) == [0]
    answer(job, 0)
    assert evidence(job) == [("rank 0 waits in data.py:8 read", 0)]


def test_a_hang_within_an_open_incident_is_inquired_into_as_well() -> None:
    job = Job([ANY, STUCK], NAMES, 3)
    job.step(4, {"loss": 9.0})
    stand(job, {0: WAITS, 1: BEHIND, 2: WAITS})
    assert incidents(job.told)[-1].cause.rule == "Spike"
    assert asked(job) == [1, 0]


def test_a_daemon_that_is_started_anew_asks_only_who_has_not_been_heard() -> None:
    for heard in (False, True):
        job = stuck()
        asked(job)
        for rank in (0, 1) if heard else ():
            answer(job, rank)
        again = Job([STUCK], NAMES, 3, greet=False)
        again.now = job.now
        again.told = [*job.told]
        again.engine.adopt(open_incident(job.told))
        for rank in range(3):
            again.hello(rank)
        again.tick()
        assert asked(again) == []  # nothing is known of collectives yet
        stand(again, {0: WAITS, 1: BEHIND, 2: WAITS}, 1)
        assert asked(again) == ([] if heard else [1, 0])


def test_where_nobody_is_to_blame_two_of_those_that_stand_are_asked() -> None:
    job = Job([HANG], NAMES, 3)
    stand(job, {0: WAITS, 1: WAITS, 2: WAITS})
    assert incidents(job.told)[-1].cause.rank is None
    assert asked(job) == [0, 1]
    answer(job, 0, "a.py:1 all_reduce")
    answer(job, 1, "a.py:9 barrier")
    assert evidence(job) == [
        ("rank 0 waits in a.py:1 all_reduce", 0),
        ("rank 1 waits in a.py:9 barrier", 1),
    ]


def test_a_rank_that_left_before_the_collective_the_others_stand_in_is_named() -> None:
    job = Job([HANG], NAMES, 3)
    stand(job, {0: BEHIND, 1: BEHIND, 2: BEHIND}, 1)
    job.told += job.engine.feed(1, Goodbye("finished"), job.now)
    job.told += job.engine.disconnected(1, job.now)
    stand(job, {0: WAITS, 2: WAITS})
    assert asked(job) == [0, 2]
    answer(job, 0)
    answer(job, 2)
    assert evidence(job)[0] == (
        "rank 1 has left (finished) before the collective the others stand in",
        1,
    )


@pytest.mark.parametrize(
    ("of", "phase"),
    [
        ({0: WAITS, 1: BEHIND, 2: WAITS}, "backward"),  # one is behind: another rule's business
        ({0: BEHIND, 1: BEHIND, 2: BEHIND}, "forward"),  # they evaluate or compile
        ({0: WAITS, 1: WAITS, 2: WAITS}, "checkpoint"),
        ({0: WAITS, 1: WAITS, 2: WAITS}, "held"),
        ({0: WAITS, 1: WAITS}, "backward"),  # one is silent
        ({0: {DATA: (12, None)}, 1: {DATA: (12, None)}, 2: {DATA: (12, None)}}, "backward"),
        ({0: {"a": (2, 1)}, 1: {"b": (2, 1)}, 2: {"c": (2, 1)}}, "backward"),  # alone in its group
    ],
)
def test_it_is_no_hang_of_all(of: dict[int, Entered], phase: str) -> None:
    job = Job([HANG], NAMES, 3)
    stand(job, of, 400, phase)
    assert job.told == []


def test_a_hang_of_all_is_over_when_they_come_further() -> None:
    job = Job([HANG], NAMES, 3)
    stand(job, {0: WAITS, 1: WAITS, 2: WAITS})
    assert [one.state for one in world.alerts(job.told)] == ["firing"]
    stand(job, {rank: {DATA: (12, 12)} for rank in range(3)}, 1)
    assert [one.state for one in world.alerts(job.told)] == ["firing", "resolved"]


def test_while_a_rank_of_the_job_is_still_to_come_nothing_is_said_of_all() -> None:
    job = Job([HANG], NAMES, 3, greet=False)
    job.hello(0)
    job.hello(1)
    stand(job, {0: WAITS, 1: WAITS}, 400)
    assert job.told == []


def test_of_two_groups_it_is_the_rank_that_does_not_wait_itself_that_is_blamed() -> None:
    """Rank 3 stands outside of collectives; 2 waits for it, and 0 for 2, and 1 for 3."""
    job = Job([STUCK], NAMES, 4)
    tensor, data = ("tensor:0-1", "tensor:2-3"), ("data:0,2", "data:1,3")
    stand(
        job,
        {
            0: {tensor[0]: (7, 7), data[0]: (5, 4)},
            1: {tensor[0]: (7, 7), data[1]: (5, 4)},
            2: {tensor[1]: (8, 7), data[0]: (4, 4)},
            3: {tensor[1]: (7, 7), data[1]: (4, 4)},
        },
    )
    assert [one.labels for one in world.alerts(job.told)] == [{"rank": "3"}]
    assert asked(job) == [3, 1]
