"""The hold as a state machine that hypothesis drives; what must never be is in `simulation`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sentinel.wire import Remedies
from tests.control.promises import LEASE, NO_STEPS
from tests.control.simulation import World

RANKS = st.integers(0, 63)
REMEDIES = st.sampled_from(
    [
        Remedies(),
        Remedies(lr_scale=0.5, skip_batches=3),
        Remedies(checkpoint=True),
        Remedies(rollback="1", rewind=True),
        Remedies(rollback="2", lr_scale=0.1),
    ]
)


class Job(RuleBasedStateMachine):
    """A job of a few ranks, its daemon, and all that can befall them."""

    sizes = st.integers(1, 5)

    @initialize(
        data=st.data(),
        ahead=st.sampled_from([0, 0, 1, 10]),
        length=st.sampled_from([NO_STEPS, NO_STEPS, 25]),
        seed=st.integers(0, 2**32),
    )
    def launch(self, data: st.DataObject, ahead: int, length: int, seed: int) -> None:
        self.world = World(data.draw(self.sizes), ahead, length, seed)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.heal()

    @invariant()
    def nothing_is_seen_that_must_never_be(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def _worker(self, number: int) -> int:
        return number % self.world.size

    # Ranks.

    @rule(numbers=st.lists(RANKS, min_size=1, max_size=20))
    def train(self, numbers: list[int]) -> None:
        for number in numbers:
            self.world.act(self.world.workers[self._worker(number)])

    @rule(count=st.integers(1, 8))
    def train_all(self, count: int) -> None:
        for _ in range(count):
            for worker in self.world.workers:
                self.world.act(worker)

    @rule(number=RANKS)
    def beat(self, number: int) -> None:
        self.world.refresh(self.world.workers[self._worker(number)])

    @rule(
        number=RANKS,
        refuses=st.sampled_from(["", "no such tag"]),
        fails=st.sampled_from(["", "full"]),
    )
    def fall_ill(self, number: int, refuses: str, fails: str) -> None:
        worker = self.world.workers[self._worker(number)]
        worker.refuses, worker.fails = refuses, fails

    @rule(number=RANKS)
    def die(self, number: int) -> None:
        self.world.workers[self._worker(number)].die()

    @precondition(lambda self: any(w.dead or w.stopped for w in self.world.workers))
    @rule(late=st.integers(0, 1))
    def restart_the_job(self, late: int) -> None:
        """What an elastic launcher does: all ranks are new, and so is their store."""
        self.world.launch(late)

    @precondition(lambda self: not all(w.attached for w in self.world.workers))
    @rule()
    def attach(self) -> None:
        for worker in self.world.workers:
            worker.attach()

    # The network.

    @rule(lose=st.booleans(), twice=st.booleans(), count=st.integers(1, 6))
    def deliver(self, lose: bool, twice: bool, count: int) -> None:
        for _ in range(count):
            self.world.deliver(lose=lose, twice=twice)

    @rule(number=RANKS, up=st.booleans())
    def change_connection(self, number: int, up: bool) -> None:
        worker = self.world.workers[self._worker(number)]
        worker.connect() if up else worker.disconnect()

    @rule(seconds=st.sampled_from([0.01, 1.0, LEASE + 1, 31.0, 61.0, 301.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.office.tick()

    # The daemon, rules and people.

    @rule()
    def kill_the_daemon(self) -> None:
        self.world.office.kill()

    @precondition(lambda self: self.world.office.control is None)
    @rule(found_by=RANKS)
    def restart_the_daemon(self, found_by: int) -> None:
        self.world.office.open()
        self.world.workers[self._worker(found_by)].connect()

    @rule(
        then=st.sampled_from(["hold", "hold", "checkpoint", "stop"]),
        dies=st.sampled_from([False, False, False, True]),
        hold_for=st.sampled_from([30.0, 7200.0]),
        unattended=st.sampled_from(["resume", "stop", "hold"]),
    )
    def ask(self, then: str, dies: bool, hold_for: float, unattended: str) -> None:
        options = {"hold_for": hold_for, "unattended": unattended} if then == "hold" else {}
        self.world.hold(then, dies=dies, **options)

    @precondition(lambda self: self.world.office.control is not None)
    @rule(remedies=REMEDIES, dies=st.sampled_from([False, False, False, True]))
    def resume(self, remedies: Remedies, dies: bool) -> None:
        self.world.resume(remedies, dies=dies)


class LargeJob(Job):
    """The same with 64 ranks."""

    sizes = st.just(64)


_LIMITS = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
TestJob = Job.TestCase
TestJob.settings = settings(_LIMITS, max_examples=100, stateful_step_count=60)
TestLargeJob = LargeJob.TestCase
TestLargeJob.settings = settings(_LIMITS, max_examples=8, stateful_step_count=40)
