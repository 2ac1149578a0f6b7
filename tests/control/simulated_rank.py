"""A rank of the simulation: the real `Barrier`, under a made-up trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentinel.control.barrier import Barrier, Verdict
from sentinel.control.outcome import Outcome
from sentinel.wire import Remedies, Standing
from tests.control.promises import LEASE, require

if TYPE_CHECKING:
    from tests.control.simulation import World

Number = tuple[int, int]  # epoch and attempt


class Worker:
    """One rank that trains: it can end a step only once every rank has begun it."""

    def __init__(self, world: World, rank: int, attached: bool) -> None:
        self.world, self.rank = world, rank
        self.attached = attached
        self.online = attached and world.office.control is not None
        self.offline_since = 0.0
        self.refuses = self.fails = ""
        self.begun = 1  # collectives
        self.inside = True  # a step; else at a boundary
        self.step = 0  # optimizer steps done, as the trainer counts them
        self.standing: int | None = None
        self.told: Standing | None = None
        self.unsent: list[Outcome | Standing] = []
        self.stopped: int | None = None
        self.dead = self.finished = False
        self.accepted: set[Number] = set()
        self.applied: dict[Number, Remedies] = {}
        self.weights = ""  # what was loaded last
        self.stood: tuple[int, float] = (0, 0.0)  # an epoch, and when this stood in it first
        self.barrier: Barrier = world.barrier(
            world.register,
            rank,
            world.size,
            accept=self._accept,
            apply=self._apply,
            undo=self._undo,
            position=lambda: self.step,
            on_outcome=lambda outcome: self.say(outcome),
        )

    @property
    def over(self) -> bool:
        """Whether it does nothing any more."""
        return self.dead or self.finished or self.stopped is not None

    # The trainer.

    def _number(self) -> Number:
        seen = self.barrier.seen
        assert seen is not None
        return (seen.epoch, seen.attempt)

    def _accept(self, remedies: Remedies) -> str:
        if not self.refuses:
            self.accepted.add(self._number())
        return self.refuses

    def _apply(self, remedies: Remedies) -> str:
        number = self._number()
        lacking = [w.rank for w in self.world.workers if number not in w.accepted]
        if lacking:
            self.world.flaws.append(f"remedies begun before ranks {lacking} have accepted them")
        if number in self.applied:
            self.world.flaws.append("remedies of one attempt applied twice")
        self.world.elsewhere(self)  # this takes long
        if self.fails:
            return self.fails
        self.applied[number] = remedies
        if remedies.rollback:
            self.step, self.weights = int(remedies.rollback), f"{remedies.rollback}@{number}"
        return ""

    def _undo(self, remedies: Remedies) -> None:
        require(bool(self.applied), "something taken back that was never done")
        self.applied.popitem()

    def advance(self) -> None:
        """Do the next thing that this rank's training thread would do."""
        if self.over:
            return
        if self.standing is not None:
            self._poll()
        elif self.inside:
            others = self.world.workers
            if all(w.finished or w.begun >= self.begun - self.world.ahead for w in others):
                self.inside, self.step = False, self.step + 1
        elif self.step >= self.world.length:
            self.finished = True
            if self.attached:
                self.barrier.depart()
        elif not self.attached or self.barrier.leave(self.step):
            self._go_on()
        else:
            self.standing = self.step
            self.barrier.arrive(self.step, self.world.now)
            self.told = Standing(0, self.step)
            self.say(self.told)

    def _go_on(self) -> None:
        self.standing = self.told = None
        self.begun, self.inside = self.begun + 1, True

    def _poll(self) -> None:
        absent = 0.0 if self.online else self.world.now - self.offline_since
        verdict = self.barrier.poll(self.world.now, absent)
        seen = self.barrier.seen
        if verdict is Verdict.STAND or seen is None:
            self._check_lease()
            return
        self.world.obeyed(self, seen)
        if verdict is Verdict.STOP:
            self.stopped = self.standing
            return
        require(self.barrier.left == self.step, f"after {self.step} it left {self.barrier.left}")
        self._go_on()

    def _check_lease(self) -> None:
        outcome = self.world.outcome()
        if outcome is None or outcome.phase != "hold" or outcome.step != self.standing:
            return
        if self.stood[0] != outcome.epoch:
            self.stood = (outcome.epoch, self.world.now)
        waited = self.world.now - self.stood[1]
        require(
            waited <= LEASE or self.world.all_stand(),
            f"rank {self.rank} has stood for {waited:g} s while others train",
        )

    # The network.

    def say(self, message: Outcome | Standing) -> None:
        """Tell the daemon, if there is a connection."""
        if self.online:
            self.world.packets.append((self.rank, message))
        elif self.attached:
            self.unsent.append(message)

    def connect(self) -> None:
        """Greet the daemon, as `Watch.greeting` does."""
        office = self.world.office
        if office.control is None or not self.attached or self.dead:
            return
        self.barrier.refresh()
        self.online = True
        if self.barrier.seen is not None:  # with the first bytes, before anything is asked for
            office.hear(self.rank, self.barrier.seen)
        if self.told is not None:
            office.hear(self.rank, self.told)
        self.world.packets += [(self.rank, message) for message in self.unsent]
        self.unsent = []
        for send in office.control.pending():
            self.world.packets.append((self.rank, send.order))

    def attach(self) -> None:
        """Be watched from here on."""
        if not self.attached and not self.over:
            self.attached = True
            self.barrier.left = self.step
            self.connect()

    def die(self) -> None:
        """As `kill -9` does."""
        self.disconnect()
        self.dead = True

    def disconnect(self) -> None:
        """What is under way on this connection is lost."""
        if self.online:
            self.online, self.offline_since = False, self.world.now
            self.world.packets = [one for one in self.world.packets if one[0] != self.rank]
