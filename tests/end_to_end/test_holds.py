"""Holds for real: ranks over gloo under every ZeRO stage, and what they are doing when it comes.

Four jobs stand for a minute, with process groups that wait for ten seconds and no longer; all
other tests of this file run in that minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.daemon.process import Daemon, eventually, sentinel
from tests.end_to_end.fleet import PATIENCE, Job, Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("standing"),
]

TIMEOUT = 10.0  # s, of every process group of the jobs that stand for long
LONG = 60.0  # s
HOLDS = 20

Start = Callable[..., Running]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts jobs under one daemon."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon")).start()
    running: list[Running] = []

    def start(name: str, stage: int | None, *points: str, **options: object) -> Running:
        folder = tmp_path_factory.mktemp(name)
        job = Job(name, folder, str(daemon.place), stage, **options)  # type: ignore[arg-type]
        running.append(Running(job, daemon).wait_at(*points).start())
        return running[-1]

    try:
        yield start
    finally:
        for job in running:
            job.kill()
        daemon.kill()


@dataclass(frozen=True)
class Standing:
    """A held job, the number of the order, the step, and since when it is held at the latest."""

    job: Running
    order: int
    step: int
    since: float


@pytest.fixture(scope="module")
def standing(start: Start) -> list[Standing]:
    """A held job under each ZeRO stage."""
    jobs = [
        start(f"zero{stage}", stage, "accumulation", timeout=TIMEOUT, unagreed=True)
        for stage in range(4)
    ]
    for job in jobs:
        job.met("accumulation")
    orders = [job.pausing() for job in jobs]
    for job in jobs:
        job.go("accumulation")
    return [
        Standing(job, order, job.held(order), time.monotonic())
        for job, order in zip(jobs, orders, strict=True)
    ]


def undisturbed(job: Running, steps: int) -> None:
    """The job ends well after so many steps, with the losses of a run that nobody watched."""
    for result in job.finish():
        assert result.watched == result.undisturbed
        assert len(result.watched) == steps * job.job.accumulate
    assert job.status()["state"] == "finished"


def test_a_plain_loop_is_held_and_resumed_from_the_command_line(start: Start) -> None:
    job = start("ddp", None, accumulate=2)
    job.await_(lambda: min(job.begun()) > 4, "its third step")
    place = ("ddp", "--state", job.daemon.state)
    held = sentinel("pause", *place)
    assert held.returncode == 0, held.stderr
    step = int(held.stdout.removeprefix("ddp: held after step "))
    job.stands(step)
    job.end(after=step + 3)
    resumed = sentinel("resume", *place)
    assert resumed.returncode == 0, resumed.stderr
    undisturbed(job, step + 3)


def test_an_order_that_comes_before_the_last_rank_has_attached_holds_all_four(start: Start) -> None:
    job = start("late", 2, "attach", ranks=4)
    job.met("attach", [3])
    job.await_(job.status, "the first rank")
    order = job.pausing()
    job.go("attach")
    job.held(order)
    job.resume()
    step = job.pause()
    job.end(after=step + 3)
    job.resume()
    undisturbed(job, step + 3)


def test_an_order_amid_accumulation_saving_or_evaluation_holds_at_the_end_of_a_step(
    start: Start,
) -> None:
    job = start("amid", 3, "accumulation", ranks=4, accumulate=4)
    step = 0
    for point, following in (("accumulation", "save"), ("save", "evaluation"), ("evaluation", "")):
        job.met(point)
        order = job.pausing()
        begun = job.begun()
        assert begun == [begun[0]] * 4
        assert begun[0] == 1 if point == "accumulation" else begun[0] % 4 == 0
        job.go(point)
        before, step = step, job.held(order)
        assert step > before
        assert step * 4 > begun[0]
        if following:
            job.wait_at(following)
        else:
            job.end(after=step + 3)
        job.resume()
    assert [*(job.job.folder / "checkpoints").iterdir()]
    undisturbed(job, step + 3)


def test_twenty_holds_in_a_row_are_each_at_one_step_of_all_ranks(start: Start) -> None:
    job = start("often", 1)
    job.await_(lambda: min(job.begun()) > 2, "its second step")
    steps = [job.pause()]
    for _ in range(HOLDS - 1):
        job.resume()
        steps.append(job.pause())
    assert steps == sorted(set(steps))
    job.end(after=steps[-1] + 3)
    job.resume()
    undisturbed(job, steps[-1] + 3)


def test_a_hold_of_a_minute_outlasts_its_daemon_and_the_timeout_of_every_group(
    standing: list[Standing],
) -> None:
    daemon = standing[0].job.daemon
    daemon.kill()
    daemon.start()
    for one in standing:
        assert one.job.held(one.order) == one.step  # as soon as its ranks are back
        eventually(lambda since=one.since: time.monotonic() - since > LONG, "the minute", 2 * LONG)  # type: ignore[misc]
        one.job.stands(one.step)
        one.job.end(after=one.step + 3)
        one.job.resume()
    for one in standing:
        for result in one.job.results():
            assert result.watched == result.undisturbed
            assert len(result.watched) == one.step + 3
            assert len(result.timeouts) > 1  # of the default group, and of what DeepSpeed makes
            assert set(result.timeouts.values()) == {TIMEOUT}
        one.job.met("unagreed")
    for one in standing:
        waiting_for, standing_still = one.job.ranks
        waiting_for.join(PATIENCE)
        assert waiting_for.exitcode == 1
        assert f"Timed out waiting {TIMEOUT * 1000:.0f}ms" in one.job.log()
        assert standing_still.exitcode is None
