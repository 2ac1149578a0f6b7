"""A job, its daemon and the network between them, in one thread and in made-up time.

The ranks run the real `Barrier` and the daemon the real `RunControl`. Who does what next is the
caller's choice; what must never be is looked at after every move, and raises `Broken`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from sentinel.control.barrier import SILENCE, Barrier, Verdict
from sentinel.control.hold import Effect, Record, RunControl, Send
from sentinel.control.outcome import OPEN, UNATTENDED, Outcome, decode
from sentinel.errors import ControlError
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, Standing, StopOrder

Order = HoldOrder | ResumeOrder | StopOrder
Number = tuple[int, int]  # epoch and attempt

NO_REMEDY = Remedies()
LEASE = 10.0  # s
LAPSE_AFTER = 30.0  # s, as in `daemon.orders`
NO_STEPS = 10_000  # steps of a job that does not end by itself
OFFERS = frozenset(
    {"scale_lr", "skip_batches", "save_checkpoint", "load_checkpoint", "rewind_data"}
)


class Broken(AssertionError):  # noqa: N818 - a promise was broken
    """Something was seen that must never be."""


def require(holds: bool, what: str) -> None:
    """Raises `Broken` with what was seen."""
    if not holds:
        raise Broken(what)


class MemoryRegister:
    """A register as the job's store keeps it."""

    def __init__(self) -> None:
        self.value = b""
        self.counts: dict[str, int] = {}
        self.history: list[Outcome] = []
        self.between: Callable[[], None] = lambda: None  # what others do before what follows a read

    def read(self) -> bytes:
        """See `control.outcome.Register`."""
        value = self.value
        self.between()
        return value

    def swap(self, expected: bytes, desired: bytes) -> bool:
        """See `control.outcome.Register`."""
        if self.value != expected:
            return False
        self.write(desired)
        return True

    def write(self, desired: bytes) -> None:
        """Replace the value."""
        self.value = desired
        outcome = decode(desired)
        assert outcome is not None
        self.history.append(outcome)

    def count(self, name: str, add: int) -> int:
        """See `control.outcome.Register`."""
        self.counts[name] = self.counts.get(name, 0) + add
        return self.counts[name]


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


class Office:
    """The daemon: `disk` is what outlives it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.control: RunControl | None = None
        self.disk: dict[str, Record] = {}
        self.issued: list[Order] = []  # all that was ever sent
        self._lapse_at: float | None = None
        self._restarted = 0.0
        self.open()

    def open(self) -> None:
        """Start; what an earlier daemon asked for is left to what the ranks tell."""
        self.control = RunControl("job", self.world.size, offers=OFFERS)
        self._restarted = self.world.now
        self._lapse_at = self.world.now + LAPSE_AFTER if self.disk else None

    def kill(self) -> None:
        """As `kill -9` does."""
        self.control = None
        for worker in self.world.workers:
            worker.disconnect()

    def ask(self, action: str, *, dies: bool = False, **options: object) -> bool:
        """Somebody asks for this. `dies`: the daemon does, with it on the record and not sent."""
        control = self.control
        if control is None or not any(worker.online for worker in self.world.workers):
            return False
        try:
            getattr(copy.deepcopy(control), action)(**options)
            effects: list[Effect] = getattr(control, action)(**options)
        except ControlError:
            return False
        self._carry_out(effects, dies=dies)
        return True

    def hear(self, rank: int, message: Outcome | Standing) -> None:
        """A rank has said this."""
        if self.control is None:
            return
        if isinstance(message, Standing):
            self.control.standing(rank, message)
        else:
            self._carry_out(self.control.report(message, self.world.now))

    def tick(self) -> None:
        """As once a second."""
        if self.control is None:
            return
        self._carry_out(self.control.tick(self.world.now))
        settled = self.control.state in ("running", "held")
        if settled and self._lapse_at is not None and self.world.now >= self._lapse_at:
            self._lapse()

    def _lapse(self) -> None:
        self._lapse_at = None
        for id_, record in self.disk.items():
            if record.state == "requested" and record.at <= self._restarted:
                self.disk[id_] = replace(record, state="lapsed")

    def ended(self) -> None:
        """All ranks are gone."""
        if self.control is not None:
            self._carry_out(self.control.ended(self.world.now))
            if self._lapse_at is not None:
                self._lapse()
            states = {id_: record.state for id_, record in self.disk.items()}
            require("requested" not in states.values(), f"never settled on the record: {states}")

    def forget(self) -> None:
        """Another job begins, whose orders are counted anew."""
        self.disk, self.issued = {}, []

    def _carry_out(self, effects: list[Effect], *, dies: bool = False) -> None:
        for effect in effects:
            if isinstance(effect, Record):
                self.disk[effect.id] = effect
        if dies:
            self.kill()
            return
        for effect in effects:
            if isinstance(effect, Send):
                self.issued.append(effect.order)
                for worker in self.world.workers:
                    if worker.online:
                        self.world.packets.append((worker.rank, effect.order))


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


def fates(history: list[Outcome]) -> dict[str, set[str]]:
    """What must be on the record of a run whose register had these values, by the records' ids."""
    truth: dict[str, set[str]] = {}
    for one in history:
        action = {"hold": "pause", "stop": "stop", "checkpoint": "checkpoint"}[one.then]
        whole = f"{one.asked}/{action}"
        if one.phase == "released":
            truth[whole] = {"lapsed", "failed"}  # failed: asked for once more, and nobody answered
        elif one.then == "checkpoint" and one.phase == "resumed":
            truth[whole] = {"failed" if one.refused else "done"}
        elif one.then == "hold" and one.phase == "held":
            truth[whole] = {"done"}
            if one.attempt:
                truth[f"{one.asked}/resume/{one.attempt}"] = {"failed", "lapsed"}
        elif one.then == "hold" and one.phase == "resumed":
            number = 0 if one.by.startswith(UNATTENDED) else one.attempt
            truth[f"{one.asked}/resume/{number}"] = {"done"}
        elif one.phase == "stopped":
            truth[f"{one.asked}/stop"] = {"done"}
    return truth


def wander(world: World, turns: int) -> None:
    """Let anything happen, this many times."""
    draw = world.draw
    for _ in range(turns):
        happen(world, draw.choice(world.workers), draw.random(), draw)


def happen(world: World, worker: Worker, chance: float, draw: Random) -> None:
    """One thing: most often a rank does what it does next."""
    if chance < 0.06:
        world.rounds(3)
    elif chance < 0.62:
        world.act(worker)
    elif chance < 0.72:
        world.refresh(worker)
    elif chance < 0.88:
        world.deliver(lose=draw.random() < 0.1, twice=draw.random() < 0.1)
    elif chance < 0.90:
        world.now += draw.choice([0.01, 0.01, 1.0, 1.0, LEASE + 1, LEASE + 1, 61.0, 301.0])
        world.office.tick()
    elif chance < 0.94:
        ask(world, draw)
    elif chance < 0.96:
        world.resume(any_remedies(draw), dies=draw.random() < 0.1)
    elif chance < 0.985:
        worker.refuses = draw.choice(["", "", "no such tag"])
        worker.fails = draw.choice(["", "", "disk full"])
    else:
        misfortune(world, worker, draw)
    world.check()


def ask(world: World, draw: Random) -> bool:
    """Somebody asks for a hold of any kind."""
    then = draw.choice([*["hold"] * 6, *["checkpoint"] * 3, "stop"])
    dies = draw.random() < 0.1
    if then != "hold":
        return world.hold(then, dies=dies)
    return world.hold(
        dies=dies,
        hold_for=draw.choice([30.0, 7200.0]),
        unattended=draw.choice(["resume", "resume", "stop", "hold"]),
    )


def any_remedies(draw: Random) -> Remedies:
    """What a person might choose."""
    return draw.choice(
        [
            Remedies(),
            Remedies(lr_scale=0.5, skip_batches=3),
            Remedies(checkpoint=True),
            Remedies(rollback="1"),
            Remedies(rollback="1", rewind=True),
            Remedies(rollback="2", lr_scale=0.1),
        ]
    )


def misfortune(world: World, worker: Worker, draw: Random) -> None:
    """A connection breaks or comes back, the daemon or a rank dies, the job is started anew."""
    chance = draw.random()
    if all(one.over for one in world.workers):
        world.launch()
    elif chance < 0.5:
        worker.connect() if draw.random() < 0.7 else worker.disconnect()
        worker.attach()
    elif chance < 0.8:
        if world.office.control is None:
            world.office.open()
            for one in world.workers:
                one.connect()
        else:
            world.office.kill()
    elif chance < 0.9:
        worker.die()
    else:
        world.launch(late=draw.choice([0, 0, 1]))
