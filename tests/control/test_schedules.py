"""The hold under a thousand random schedules, and that these would find a protocol that is wrong.

Every schedule is a job of a few ranks with its daemon: orders and reports that are late, lost,
doubled and out of order, ranks that join late, finish, fail at their remedies or die, hosts that
run ahead, a daemon that is killed and comes back, a job that is started anew. What must never be
is in `simulation`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import msgspec
import pytest

from sentinel.control.barrier import Barrier, Verdict, Work
from sentinel.control.outcome import Outcome
from sentinel.control.stand import Attempt, Stand
from sentinel.wire import HoldOrder, ResumeOrder, StopOrder
from tests.control.chance import wander
from tests.control.promises import NO_STEPS, Broken, MemoryRegister
from tests.control.simulation import World

SCHEDULES = 1000
BUDGET = 300  # schedules within which every mutant must be caught
TURNS = 120

Order = HoldOrder | ResumeOrder | StopOrder


def schedule(seed: int, mutant: Mutant | None = None) -> World:
    """One job's life. Raises `Broken` when something is seen that must never be."""
    draw = Random(seed)
    world = World(
        size=draw.choice([1, 2, 2, 3, 4, 5]),
        ahead=draw.choice([0, 0, 1, 10]),
        length=draw.choice([NO_STEPS, NO_STEPS, 25]),
        seed=seed,
        barrier=mutant.barrier if mutant else Barrier,
        register_type=mutant.register if mutant else MemoryRegister,
    )
    wander(world, TURNS)
    world.heal()
    return world


def test_nothing_that_must_never_be_is_seen_in_a_thousand_schedules() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        try:
            world = schedule(seed)
        except Broken as broken:
            pytest.fail(f"schedule {seed}: {broken}")
        seen.update(outcome.phase for outcome in world.register.history)
        seen["moved"] += any(one.epoch > one.asked for one in world.register.history)
        seen["torn"] += any(one.torn for one in world.register.history)
        seen["failed"] += any(one.phase == "held" and one.attempt for one in world.register.history)
    # The schedules are worth something only if all of this happens in them.
    for what in ("held", "applying", "resumed", "released", "stopped", "moved", "torn", "failed"):
        assert seen[what] >= 10, (what, seen)


def test_nothing_that_must_never_be_is_seen_with_64_ranks() -> None:
    for seed in range(3):
        world = World(64, ahead=3, seed=seed)
        wander(world, 1500)
        world.heal()


# Protocols that are wrong, each in one way.


class NoCompareAndSet(MemoryRegister):
    """Whoever writes last wins."""

    def swap(self, expected: bytes, desired: bytes) -> bool:
        self.write(desired)
        return True


class NoLease(Barrier):
    """A rank stands for as long as it takes."""

    def hear(self, order: Order) -> None:
        self.lease_limit = 1e9
        if isinstance(order, HoldOrder):
            order = msgspec.structs.replace(order, lease=1e9)
        super().hear(order)


class NoSecondKey(Barrier):
    """A rank that has accepted the remedies begins with them."""

    def _await_acceptance(self, mine: Attempt, outcome: Outcome, now: float) -> None:
        self._write(outcome, "applying" if outcome.remedies.names() else "resumed", refused="")


class NoLead(Barrier):
    """A hold is put where the rank that hears of it is."""

    def _swap(self, after: Outcome) -> Outcome | None:
        if after.phase == "hold":
            after = msgspec.structs.replace(after, step=self.left, lead=0)
        return super()._swap(after)


class NoEpoch(Barrier):
    """Every order is obeyed, whichever hold it is about."""

    def hear(self, order: Order) -> None:
        if self.seen is not None and isinstance(order, HoldOrder):
            order = msgspec.structs.replace(order, epoch=self.seen.epoch + 1)
        elif self.seen is not None:
            order = msgspec.structs.replace(order, epoch=self.seen.epoch)
        super().hear(order)


class NoAttempt(Barrier):
    """Every order to resume is obeyed, also when it comes a second time."""

    def hear(self, order: Order) -> None:
        if self.seen is not None and isinstance(order, ResumeOrder):
            order = msgspec.structs.replace(order, attempt=self.seen.attempt + 1)
        super().hear(order)


class NoWaitForOthers(Barrier):
    """A rank that has done its remedies goes on."""

    def _await_finish(self, mine: Attempt, outcome: Outcome, now: float) -> None:
        self._write(outcome, "resumed", done=mine.number)


class NoUndo(Barrier):
    """What was done for nothing stays."""

    def _take_back(self, mine: Attempt) -> None:
        mine.applied = False


class NoMemoryOfRemedies(Barrier):
    """A rank does what it reads, however often it reads it."""

    def _look_at_attempt(self, stand: Stand, outcome: Outcome, now: float) -> Verdict | Work:
        if stand.attempt is not None:
            stand.attempt.begun = False
        return super()._look_at_attempt(stand, outcome, now)


class NoMemoryOfStanding(Barrier):
    """A rank counts itself as standing at every look."""

    def _look_at_hold(self, stand: Stand, outcome: Outcome, now: float) -> Verdict:
        stand.counted = 0
        return super()._look_at_hold(stand, outcome, now)


class NoWayBack(Barrier):
    """A rollback changes nothing for the boundaries to come."""

    def _carry_out(self, stand: Stand, mine: Attempt) -> None:
        self.position = None
        super()._carry_out(stand, mine)


@dataclass(frozen=True)
class Mutant:
    """A protocol that is wrong."""

    barrier: type[Barrier] = Barrier
    register: type[MemoryRegister] = MemoryRegister


MUTANTS = {
    "no compare-and-set": Mutant(register=NoCompareAndSet),
    "lease never checked": Mutant(NoLease),
    "no second key for remedies": Mutant(NoSecondKey),
    "lead fixed at 0": Mutant(NoLead),
    "epoch ignored": Mutant(NoEpoch),
    "attempt ignored": Mutant(NoAttempt),
    "end of remedies not waited for": Mutant(NoWaitForOthers),
    "nothing taken back": Mutant(NoUndo),
    "remedies done at every look": Mutant(NoMemoryOfRemedies),
    "counted as standing at every look": Mutant(NoMemoryOfStanding),
    "step after a rollback not asked for": Mutant(NoWayBack),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_protocol_that_is_wrong_is_caught(mutant: Mutant) -> None:
    for seed in range(BUDGET):
        try:
            schedule(seed, mutant)
        except Broken:
            return
    pytest.fail(f"not caught in {BUDGET} schedules")
