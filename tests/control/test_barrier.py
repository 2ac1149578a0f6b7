"""The hold's protocol: many ranks in one process, the order of everything drawn at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.control.barrier import ABSENCE, Barrier, Verdict
from sentinel.control.outcome import Outcome, decode
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, StopOrder


@dataclass
class MemoryRegister:
    """A register as the job's store keeps it."""

    value: bytes = b""
    counts: dict[str, int] = field(default_factory=dict)
    history: list[bytes] = field(default_factory=list)
    between: Callable[[], None] = lambda: None  # what others do between a read and what follows

    def read(self) -> bytes:
        value = self.value
        self.between()
        return value

    def swap(self, expected: bytes, desired: bytes) -> bool:
        if self.value != expected:
            return False
        self.value = desired
        self.history.append(desired)
        return True

    def count(self, name: str, add: int) -> int:
        self.counts[name] = self.counts.get(name, 0) + add
        return self.counts[name]


class Worker:
    """One rank that trains: it can finish a step only once every rank has begun it."""

    def __init__(self, cluster: Cluster, rank: int) -> None:
        self.cluster = cluster
        self.refuses = ""
        self.applied: list[Remedies] = []
        self.begun = 1
        self.standing: int | None = None
        self.stopped: int | None = None
        self.inside = True  # a step; else at a boundary
        self.barrier = Barrier(
            cluster.register,
            rank,
            cluster.size,
            accept=lambda remedies: self.refuses,
            apply=self.applied.append,
        )

    def hear(self, order: HoldOrder | ResumeOrder | StopOrder) -> None:
        self.barrier.hear(order)

    def advance(self) -> None:
        """Do the next thing that this rank's training thread would do."""
        if self.stopped is not None:
            return
        if self.standing is not None:
            verdict = self.barrier.poll(self.cluster.now, self.cluster.absent)
            if verdict is Verdict.GO:
                self.standing, self.inside = None, True
                self.begun += 1
            elif verdict is Verdict.STOP:
                self.stopped = self.standing
        elif self.inside:
            if all(one.begun >= self.begun - self.cluster.ahead for one in self.cluster.workers):
                self.inside = False  # all collectives of this step are done
        elif self.barrier.leave(self.begun):
            self.begun += 1
            self.inside = True
        else:
            self.standing = self.begun
            self.barrier.arrive(self.begun, self.cluster.now)


class Cluster:
    def __init__(self, size: int, ahead: int = 0) -> None:
        self.size, self.ahead = size, ahead
        self.now = 0.0
        self.absent = 0.0
        self.register = MemoryRegister()
        self.workers: list[Worker] = []
        self.workers += [Worker(self, rank) for rank in range(size)]

    def outcome(self) -> Outcome | None:
        return decode(self.register.value)

    def check(self) -> None:
        """What must never be."""
        outcome = self.outcome()
        if outcome is not None and outcome.phase in ("held", "accepting"):
            assert {one.standing for one in self.workers} == {outcome.step}
        stopped = {one.stopped for one in self.workers} - {None}
        assert len(stopped) <= 1
        serials = [decoded.serial for value in self.register.history if (decoded := decode(value))]
        assert serials == list(range(1, len(serials) + 1))

    def run(self, rounds: int, seconds: float = 0.01) -> None:
        for _ in range(rounds):
            self.now += seconds
            for worker in self.workers:
                worker.advance()
                self.check()

    def tell(self, *orders: HoldOrder | ResumeOrder | StopOrder) -> None:
        for worker in self.workers:
            for order in orders:
                worker.barrier.hear(order)


def hold(epoch: int = 1, step: int = 1, lead: int = 2, **changes: object) -> HoldOrder:
    fields: dict[str, object] = {
        "epoch": epoch,
        "asked": epoch,
        "step": step,
        "lead": lead,
        "lease": 10.0,
        "by": "rule NonFiniteUpdate",
        "reason": "a NaN",
    }
    return HoldOrder(**(fields | changes))  # type: ignore[arg-type]  # a table of mixed values


def held_cluster(size: int = 4) -> Cluster:
    cluster = Cluster(size)
    cluster.run(7)
    cluster.tell(hold())
    cluster.run(40)
    outcome = cluster.outcome()
    assert outcome is not None
    assert outcome.phase == "held"
    return cluster


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 8),
    ahead=st.sampled_from([0, 0, 1, 10]),
    lead=st.integers(0, 4),
)
def test_ranks_stand_together_or_go_on_whatever_is_lost_late_or_doubled(
    seed: int, size: int, ahead: int, lead: int
) -> None:
    draw = random.Random(seed)
    cluster = Cluster(size, ahead)
    in_flight: list[tuple[int, HoldOrder | ResumeOrder | StopOrder]] = []
    busy: list[Worker] = []

    def interleave() -> None:
        others = [one for one in cluster.workers if one not in busy]
        if others and len(busy) < 3 and draw.random() < 0.2:
            act(draw.choice(others), Worker.advance)

    def act(worker: Worker, what: Callable[[Worker], object]) -> None:
        busy.append(worker)
        what(worker)
        busy.pop()

    cluster.register.between = interleave
    for turn in range(400):
        worker = draw.choice(cluster.workers)
        event = draw.random()
        outcome = cluster.outcome()
        if event < 0.7:
            act(worker, Worker.advance)
        elif event < 0.8:
            act(worker, lambda one: one.barrier.refresh())
        elif event < 0.83:
            cluster.now += draw.choice([0.01, 1.0, 11.0])
        elif event < 0.86:
            epoch = (outcome.epoch if outcome else 0) + draw.choice([0, 1, 1, 2])
            step = max(one.begun for one in cluster.workers) - draw.choice([0, 1, 5])
            order = hold(epoch, max(step, 0), lead)
            in_flight += [(rank, order) for rank in range(size)]
        elif event < 0.88 and outcome is not None and outcome.phase == "held":
            resume = ResumeOrder(outcome.epoch, "user", Remedies(lr_scale=1 + turn / 1000))
            in_flight += [(rank, resume) for rank in range(size)]
        elif in_flight:
            at = draw.randrange(len(in_flight))
            rank, arriving = in_flight[at]
            if draw.random() < 0.6:
                in_flight.pop(at)  # else it will arrive once more
            if draw.random() < 0.8:
                act(cluster.workers[rank], partial(Worker.hear, order=arriving))
        cluster.check()
    cluster.register.between = lambda: None
    # From here on the network is well and time passes: nobody may be left standing alone.
    cluster.run(200, seconds=0.5)
    outcome = cluster.outcome()
    if outcome is not None and outcome.phase == "held":
        cluster.tell(ResumeOrder(outcome.epoch, "user"))
    before = min(one.begun for one in cluster.workers)
    cluster.run(200, seconds=0.5)
    assert all(one.begun > before for one in cluster.workers)
    assert len({tuple(one.applied) for one in cluster.workers}) == 1


def test_64_ranks_are_held_at_the_same_step_and_go_on() -> None:
    cluster = held_cluster(64)
    outcome = cluster.outcome()
    assert outcome is not None
    assert {one.standing for one in cluster.workers} == {outcome.step}
    cluster.tell(ResumeOrder(1, "user", Remedies(lr_scale=0.5, skip_batches=8)))
    cluster.run(20)
    assert all(one.standing is None for one in cluster.workers)
    assert all(one.applied == [Remedies(0.5, 8)] for one in cluster.workers)


def test_an_order_that_reaches_one_rank_only_holds_all_of_them() -> None:
    cluster = Cluster(4)
    cluster.run(5)
    cluster.workers[2].barrier.hear(hold())
    for worker in cluster.workers:
        worker.barrier.refresh()  # as every heartbeat does
    cluster.run(40)
    assert (outcome := cluster.outcome()) is not None
    assert outcome.phase == "held"


def test_a_rank_that_is_past_the_step_moves_the_hold_ahead() -> None:
    cluster = Cluster(2)
    cluster.run(5)
    slow, fast = cluster.workers
    slow.barrier.hear(hold(lead=1))
    asked = slow.barrier.seen
    assert asked is not None
    fast.barrier.left = asked.step
    moved = fast.barrier.refresh()
    assert moved is not None
    assert (moved.epoch, moved.asked) == (2, 1)
    assert moved.step > asked.step
    assert moved.lead == 2 * asked.lead


def test_a_hold_that_one_rank_never_reaches_is_released_when_the_lease_ends() -> None:
    cluster = Cluster(3, ahead=100)  # nothing makes the others wait for the third
    standing = cluster.workers[:2]
    cluster.tell(hold())
    for _ in range(20):
        for worker in standing:
            worker.advance()
    assert all(one.standing is not None for one in standing)
    cluster.now += 20
    for _ in range(2):
        for worker in standing:
            worker.advance()
    assert (outcome := cluster.outcome()) is not None
    assert outcome.phase == "released"
    assert "2 of 3 ranks" in outcome.refused
    assert all(one.standing is None for one in standing)


def test_a_resume_that_one_rank_cannot_do_leaves_all_held_and_says_which() -> None:
    cluster = held_cluster()
    cluster.workers[3].refuses = "the trainer does not offer skip_batches"
    cluster.tell(ResumeOrder(1, "user", Remedies(skip_batches=5)))
    cluster.run(20)
    assert (outcome := cluster.outcome()) is not None
    assert outcome.phase == "held"
    assert outcome.refused == "rank 3: the trainer does not offer skip_batches"
    assert not any(one.applied for one in cluster.workers)
    cluster.tell(ResumeOrder(1, "user", Remedies(lr_scale=0.1)))
    cluster.workers[3].refuses = ""
    cluster.run(20)
    assert all(one.applied == [Remedies(lr_scale=0.1)] for one in cluster.workers)


def test_remedies_reach_a_rank_that_slept_through_the_resume_and_into_the_next_hold() -> None:
    cluster = held_cluster(2)
    awake, asleep = cluster.workers
    cluster.tell(ResumeOrder(1, "user", Remedies(lr_scale=0.5)))
    for worker in cluster.workers:
        worker.advance()  # both accept
    awake.advance()  # writes resumed
    awake.advance()  # goes on
    assert awake.standing is None
    awake.barrier.hear(hold(epoch=2))
    assert asleep.standing is not None
    cluster.run(40)
    assert asleep.applied == awake.applied == [Remedies(lr_scale=0.5)]


def test_stop_ends_every_rank_at_the_same_step_held_or_not() -> None:
    cluster = held_cluster()
    cluster.tell(StopOrder(1, "user"))
    cluster.run(5)
    assert len({one.stopped for one in cluster.workers} - {None}) == 1
    running = Cluster(4)
    running.run(9)
    running.tell(hold(then="stop"))
    running.run(40)
    assert None not in {one.stopped for one in running.workers}
    assert len({one.stopped for one in running.workers}) == 1


@pytest.mark.parametrize(
    ("unattended", "phase"), [("resume", "resumed"), ("stop", "stopped"), ("hold", "held")]
)
def test_nobody_answering_does_what_the_rule_says(unattended: str, phase: str) -> None:
    cluster = Cluster(2)
    cluster.run(5)
    cluster.tell(hold(unattended=unattended, hold_for=100.0))
    cluster.run(40)
    cluster.now += 101
    cluster.run(5)
    assert (outcome := cluster.outcome()) is not None
    assert outcome.phase == phase
    assert outcome.by.startswith("unattended") == (unattended != "hold")


def test_a_daemon_that_stays_away_counts_as_nobody_answering() -> None:
    cluster = held_cluster(2)
    cluster.absent = ABSENCE + 1
    cluster.run(5)
    assert (outcome := cluster.outcome()) is not None
    assert outcome.phase == "held", "an absence that began before the hold says nothing yet"
    cluster.now += ABSENCE
    cluster.run(5)
    assert (outcome := cluster.outcome()) is not None
    assert outcome.phase == "resumed"


def test_a_rank_that_leaves_the_run_releases_a_hold_that_would_wait_for_it() -> None:
    cluster = Cluster(2)
    cluster.run(5)
    cluster.tell(hold())
    cluster.workers[1].barrier.depart()
    assert (outcome := cluster.outcome()) is not None
    assert outcome.phase == "released"
    assert outcome.refused == "rank 1 has left the run"


@pytest.mark.parametrize("epoch", [0, 1])
def test_orders_of_an_epoch_that_is_over_are_ignored(epoch: int) -> None:
    cluster = held_cluster(2)
    cluster.tell(ResumeOrder(1, "user"))
    cluster.run(10)
    serial = len(cluster.register.history)
    cluster.tell(hold(epoch=epoch), ResumeOrder(epoch, "user"), StopOrder(epoch, "user"))
    assert len(cluster.register.history) == serial
