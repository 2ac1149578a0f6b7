"""Real processes in torch's own store, killed around a hold: nobody stands for ever alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from torch._C._distributed_c10d import PrefixStore, TCPStore

from sentinel.control.barrier import Barrier
from sentinel.control.outcome import Outcome, decode
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, StopOrder
from sentinel_hooks.job import StoreBoard
from tests.daemon.process import eventually

SCRIPT = Path(__file__).parent / "scripts" / "standing_job.py"
LEASE = 2.0  # s, as in the script
ROUNDS = 6  # of kills at random instants


class Nursery:
    """Where ranks come from; the store is this process's, so that it outlives them all."""

    def __init__(self) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.store.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.did: dict[tuple[str, int], list[str]] = defaultdict(list)
        self.pids: dict[tuple[str, int], int] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            one = json.loads(line)
            self.pids[one["case"], one["rank"]] = one["pid"]
            self.did[one["case"], one["rank"]].append(one["does"])

    def bear(self, case: str, size: int, slow: dict[int, str]) -> None:
        """Fork the ranks of a job."""
        assert self._process.stdin is not None
        for rank in range(size):
            order = {"case": case, "rank": rank, "size": size, "slow": slow.get(rank, "")}
            self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End all of them."""
        for pid in self.pids.values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """One for all tests here: torch is imported once."""
    made = Nursery()
    yield made
    made.close()


class Job:
    """A job of a few ranks, and the daemon's part in it."""

    def __init__(self, nursery: Nursery, case: str, size: int, **slow: str) -> None:
        self.nursery, self.case, self.size = nursery, case, size
        self.living = set(range(size))
        self._board = StoreBoard(PrefixStore(case, nursery.store), "job")
        self._daemon = Barrier(
            self._board, size, size, accept=lambda _: "", apply=lambda _: "", lease_limit=LEASE
        )
        nursery.bear(case, size, {int(rank[1:]): what for rank, what in slow.items()})
        eventually(lambda: all(self.did(rank) for rank in range(size)), "the job's start", 120.0)

    def did(self, rank: int) -> list[str]:
        """What a rank has said so far."""
        return self.nursery.did[self.case, rank]

    def tell(self, order: HoldOrder | ResumeOrder | StopOrder) -> None:
        """As a rank that hears of it would write it."""
        self._daemon.hear(order)

    def hold(self, step: int = 1) -> None:
        """Ask for a hold; ranks that are past this step move it."""
        self.tell(HoldOrder(1, 1, step, 2, LEASE, "rule R", "a NaN", hold_for=600.0))

    def kill(self, rank: int) -> None:
        """As the kernel does when memory runs out."""
        os.kill(self.nursery.pids[self.case, rank], signal.SIGKILL)
        self.living.discard(rank)

    def outcome(self) -> Outcome:
        """What the register says."""
        outcome = decode(self._board.read())
        assert outcome is not None
        return outcome

    def come_to(self, *phases: str) -> Outcome:
        """Wait for one of these."""
        eventually(lambda: self.outcome().phase in phases, f"{self.case}: {phases}", 90.0)
        return self.outcome()

    def all_do(self, what: str) -> None:
        """Wait until this was the last that every living rank has said."""
        eventually(
            lambda: all(self.did(rank)[-1] == what for rank in self.living),
            f"{self.case}: {what}",
            90.0,
        )


def test_a_rank_that_dies_while_held_leaves_the_others_held_until_somebody_decides(
    nursery: Nursery,
) -> None:
    job = Job(nursery, "held", 3)
    job.hold()
    epoch = job.come_to("held").epoch
    job.kill(1)
    job.tell(ResumeOrder(epoch, "user ada"))
    eventually(lambda: job.outcome().refused, "the refusal", 90.0)
    outcome = job.outcome()
    assert (outcome.phase, outcome.refused) == ("held", f"2 of 3 ranks accepted within {LEASE:g} s")
    assert [job.did(rank)[-1] for rank in sorted(job.living)] == ["stand", "stand"]
    job.tell(StopOrder(epoch, "user ada"))
    job.all_do("stop")


def test_a_rank_that_dies_before_it_stands_is_waited_for_no_longer_than_the_lease(
    nursery: Nursery,
) -> None:
    job = Job(nursery, "before", 3, r2="settle")
    job.hold(step=300)  # all have read of it long before they are there: nobody moves it
    eventually(lambda: job.did(2)[-1] == "settle", "the last rank's arrival", 90.0)
    job.kill(2)
    outcome = job.come_to("released")
    assert outcome.refused == f"2 of 3 ranks stood within {LEASE:g} s"
    job.all_do("broken")  # they are back in training, which ends as it would have without us


def test_a_rank_that_dies_at_its_remedies_is_missed_and_the_others_stay_held(
    nursery: Nursery,
) -> None:
    job = Job(nursery, "remedies", 2, r1="apply")
    job.hold()
    epoch = job.come_to("held").epoch
    job.tell(ResumeOrder(epoch, "user ada", Remedies(rollback="last")))
    eventually(lambda: job.did(1)[-1] == "apply", "the rollback", 90.0)
    assert job.outcome().phase == "applying"
    job.kill(1)
    outcome = job.come_to("held")
    assert "1 of 2 ranks have carried it out" in outcome.refused
    assert outcome.torn
    assert job.did(0)[-1] == "stand"


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_ranks_killed_at_random_instants_leave_nobody_standing_alone(
    nursery: Nursery, round_: int
) -> None:
    draw = Random(round_)
    job = Job(nursery, f"random {round_}", 3)
    job.hold()
    time.sleep(draw.uniform(0.0, 0.12))  # the instant, not a wait for anything
    job.kill(draw.randrange(3))
    outcome = job.come_to("held", "released")
    if outcome.phase == "held":
        job.all_do("stand")
        job.tell(StopOrder(outcome.epoch, "user ada"))
        job.all_do("stop")
    else:
        job.all_do("broken")
