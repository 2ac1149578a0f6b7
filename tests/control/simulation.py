"""A job, its daemon and the network between them, in one thread and in made-up time.

The ranks run the real `Barrier` and the daemon the real `RunControl`. Who does what next is the
caller's choice; what must never be is looked at after every move, and raises `Broken`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from sentinel.control.barrier import SILENCE, Barrier
from sentinel.control.outcome import OPEN, UNATTENDED, Outcome
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, Standing
from tests.control.promises import LEASE, NO_STEPS, MemoryRegister, fates, require
from tests.control.simulated_daemon import LAPSE_AFTER, Office, Order
from tests.control.simulated_rank import Number, Worker

NO_REMEDY = Remedies()


@dataclass
class World:
    """Everything. `ahead`: how many steps a host may be ahead of the others."""

    size: int
    ahead: int = 0
    length: int = NO_STEPS
    seed: int = 0
    barrier: type[Barrier] = Barrier
    register_type: type[MemoryRegister] = MemoryRegister
    nesting: float = 0.15  # how often another acts between a read of the register and what follows
    now: float = 0.0
    packets: list[tuple[int, Order | Outcome | Standing]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = Random(self.seed)
        self._busy: list[Worker] = []
        self.workers: list[Worker] = []
        self.office = Office(self)
        self.launch()

    def launch(self, late: int = 0) -> None:
        """Start the job, in a store of its own; `late` of its ranks attach only later.

        This is also what an elastic launcher does when one rank has died: it ends the others, and
        starts all of them anew.
        """
        self.office.ended()
        self.office.forget()
        self.register = self.register_type()
        self.register.between = self._interleave
        self.packets = []
        self.flaws: list[str] = []  # seen where raising would be taken for a trainer's failure
        self._checked = 0  # how much of its history was looked at
        self._obeyed: dict[int, tuple[str, int]] = {}
        self.workers = []
        for rank in range(self.size):
            self.workers.append(Worker(self, rank, attached=rank < self.size - late))
        if self.office.control is not None:
            self.office.open()

    def outcome(self) -> Outcome | None:
        """What the register says."""
        return self.register.history[-1] if self.register.history else None

    def all_stand(self) -> bool:
        """Whether no rank that lives is inside a step."""
        return all(w.standing is not None or w.over for w in self.workers)

    # What can happen.

    def act(self, worker: Worker, what: Callable[[Worker], None] = Worker.advance) -> None:
        """A rank does this; others may do something in between. Then all is looked at."""
        if worker in self._busy or worker.dead:
            return
        self._busy.append(worker)
        try:
            what(worker)
        finally:
            self._busy.pop()
        if not self._busy:
            self.check()

    def refresh(self, worker: Worker) -> None:
        """As every heartbeat does: look at the register, and tell the daemon."""

        def beat(one: Worker) -> None:
            if one.attached and not one.over:
                one.barrier.refresh()
                if one.barrier.seen is not None:
                    one.say(one.barrier.seen)

        self.act(worker, beat)

    def _interleave(self) -> None:
        if len(self._busy) in (1, 2) and self.draw.random() < self.nesting:
            self.act(self.draw.choice(self.workers))

    def elsewhere(self, worker: Worker) -> None:
        """Things go on while this rank carries out remedies: its own heartbeat, and others."""
        worker.barrier.refresh()
        if len(self._busy) < 3:
            if self.nesting and self.draw.random() < 0.1:
                self.now += SILENCE + 1
            for other in self.draw.sample(self.workers, min(2, self.size)):
                self.act(other)

    def deliver(self, *, lose: bool = False, twice: bool = False) -> None:
        """Any message that is under way arrives; an order may be lost, or come once more.

        What a rank says comes in the order in which it said it, or is lost with its connection.
        """
        if not self.packets:
            return
        at = self.draw.randrange(len(self.packets))
        rank, message = self.packets[at]
        if isinstance(message, Outcome | Standing):
            first = next(packet for packet in self.packets if self._is_report_of(packet, rank))
            self.packets.remove(first)
            self.office.hear(*first)  # type: ignore[arg-type]  # a report
            return
        if not twice:
            self.packets.pop(at)
        if lose:
            return
        order = message
        worker = self.workers[rank]
        if worker.attached and not worker.over:
            self.act(worker, lambda one: one.barrier.hear(order))

    @staticmethod
    def _is_report_of(packet: tuple[int, Order | Outcome | Standing], rank: int) -> bool:
        return packet[0] == rank and isinstance(packet[1], Outcome | Standing)

    def hold(self, then: str = "hold", *, dies: bool = False, **options: object) -> bool:
        """A rule or a person asks for a hold, a stop or a checkpoint."""
        common: dict[str, object] = {
            "by": "rule R",
            "step": self.draw.choice(self.workers).step,
            "step_seconds": self.draw.choice([0.0, 0.03, 10.0]),
            "now": self.now,
            "lease": LEASE,
            **options,
        }
        if then == "checkpoint":
            return self.office.ask("checkpoint", dies=dies, reason="to be safe", **common)
        if then == "stop":
            return self.office.ask("stop", dies=dies, **common)
        return self.office.ask("pause", dies=dies, reason="a NaN", **common)

    def resume(self, remedies: Remedies = NO_REMEDY, *, dies: bool = False) -> bool:
        """A person asks to go on, who knows that a failed rollback needs another."""
        outcome = self.outcome()
        if outcome is not None and outcome.torn and not remedies.rollback:
            remedies = Remedies(rollback="1")
        return self.office.ask(
            "resume", dies=dies, by="user ada", remedies=remedies, force=True, now=self.now
        )

    def tell(self, *orders: Order) -> None:
        """Every rank hears these orders at once."""
        self.office.issued += orders
        for order in orders:
            for worker in self.workers:
                worker.barrier.hear(order)

    def round(self, seconds: float = 0.01) -> None:
        """Every rank does something, every message arrives, and time passes."""
        self.now += seconds
        for worker in self.workers:
            self.act(worker)
        self.office.tick()
        while self.packets:
            self.deliver()

    def rounds(self, count: int, seconds: float = 0.01) -> None:
        """The same several times."""
        for _ in range(count):
            self.round(seconds)

    # What must never be.

    def obeyed(self, worker: Worker, outcome: Outcome) -> None:
        """A rank leaves a hold because of this."""
        if outcome.phase not in OPEN:  # else it was moved, or slept through the end of its hold
            what = (outcome.phase, outcome.step)
            first = self._obeyed.setdefault(outcome.epoch, what)
            same = first == what
            require(same, f"in epoch {outcome.epoch} one rank obeyed {first}, another {what}")
        if outcome.phase == "stopped":
            return
        require(
            [*worker.applied] == self._carried_out(),
            f"rank {worker.rank} goes on after {worker.applied}, agreed were {self._carried_out()}",
        )
        if outcome.phase == "resumed" and outcome.by.startswith(UNATTENDED):
            loaded = {w.weights for w in self.workers if not w.dead}
            require(len(loaded) == 1, f"ranks go on with different weights: {loaded}")

    def _carried_out(self) -> list[Number]:
        """The attempts to resume whose remedies have succeeded on every rank."""
        numbers = dict.fromkeys(outcome.done for outcome in self.register.history)
        return [number for number in numbers if number != (0, 0)]

    def check(self) -> None:
        """Look at everything."""
        require(not self.flaws, "; ".join(self.flaws))
        outcome = self.outcome()
        if outcome is not None and outcome.phase in ("held", "accepting", "applying"):
            steps = {w.standing for w in self.workers if not w.dead}
            require(steps <= {outcome.step}, f"{outcome.phase} at {outcome.step}, but at {steps}")
        stopped = {w.stopped for w in self.workers}
        require(len(stopped) <= 2, f"ranks stopped after different steps: {stopped}")
        if len(self.register.history) != self._checked:
            self._checked = len(self.register.history)
            self._check_history()

    def _check_history(self) -> None:
        history = self.register.history
        after = history[-1]
        before = history[-2] if len(history) > 1 else None
        require(after.serial == len(history), "outcomes do not form one sequence")
        if after.phase == "hold" and (before is None or before.phase not in OPEN):
            fresh = before is None or after.epoch > before.epoch
            known = any(isinstance(o, HoldOrder) and o.epoch == after.epoch for o in self._orders())
            require(fresh and known, f"a hold that nobody has asked for, in epoch {after.epoch}")
        if after.phase == "accepting" and after.then == "hold" and before is not None:
            order = ResumeOrder(after.epoch, after.by, after.remedies, after.attempt)
            require(order in self._orders(), f"a resume that nobody has asked for: {order}")
        moves = sum(one.asked == after.asked and one.phase == "hold" for one in history[-64:])
        asks = sum(isinstance(o, HoldOrder) and o.asked == after.asked for o in self._orders())
        require(moves <= asks * (self.size + 4), f"a hold was moved {moves} times")

    def _orders(self) -> list[Order]:
        return self.office.issued

    # The end.

    def heal(self) -> None:
        """From here on everything is well, and time passes: nobody may be left behind."""
        self.nesting = 0.0
        for worker in self.workers:
            worker.refuses = worker.fails = ""
            worker.attach()
        if self.office.control is None:
            self.office.open()
        for worker in self.workers:
            worker.disconnect()
            worker.connect()
        self.rounds(self.ahead + 8)
        for seconds in (LEASE + 1, LEASE + 1, LAPSE_AFTER, 61.0, 61.0, 61.0):
            self.round(seconds)
            for worker in self.workers:
                self.refresh(worker)
            self.rounds(5)
        for _ in range(300):  # a hold may be many steps ahead
            if not self._alone():
                break
            self.round()
        require(not self._alone(), f"ranks {self._alone()} stand alone")
        if any(worker.dead for worker in self.workers):
            self.office.ended()  # the others wait inside a collective, or until somebody comes
            return
        if self.office.control is not None and self.office.control.state == "held":
            require(self.resume(), "a run that is held cannot be resumed")
        before = [worker.begun for worker in self.workers]
        self.rounds(self.ahead + 8)
        for seconds in (LEASE + 1, LEASE + 1):
            self.round(seconds)
            self.rounds(5)
        for worker, begun in zip(self.workers, before, strict=True):
            require(worker.over or worker.begun > begun, f"rank {worker.rank} does not go on")
        self.check_record()

    def _alone(self) -> list[int]:
        standing = [w.rank for w in self.workers if w.standing is not None and not w.over]
        outcome = self.outcome()
        agreed = outcome is not None and outcome.phase == "held"
        return [] if agreed and self.all_stand() else standing

    def check_record(self) -> None:
        """What the daemon has on record is what the ranks did."""
        if all(worker.over for worker in self.workers):
            self.office.ended()
        disk = self.office.disk
        states = {id_: record.state for id_, record in disk.items()}
        require("requested" not in states.values(), f"never settled on the record: {states}")
        truth = fates(self.register.history)
        for id_, allowed in truth.items():
            state = states.get(id_)
            require(state in allowed, f"{id_} is {state} on the record, and was {allowed}")
        claimed = {id_ for id_, state in states.items() if state == "done"}
        require(claimed <= truth.keys(), f"on the record and never done: {claimed - truth.keys()}")
