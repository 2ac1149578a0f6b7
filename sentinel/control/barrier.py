"""The ranks' half of the hold: how all of them come to stand after the same step.

The daemon proposes; the register that the ranks share decides. Pure but for that register: the
time is an argument, and waiting is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from threading import RLock

from sentinel.control.outcome import OPEN, UNATTENDED, Outcome, Phase, Register, decode, encode
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, StopOrder

NEVER = 1 << 62  # a step that no run reaches
MAX_LEAD = 4096  # steps
ABSENCE = 300.0  # s without a daemon after which a held run does what is set for `unattended`


class Verdict(str, Enum):
    """What a rank at a step boundary does now."""

    STAND = "stand"
    GO = "go"
    STOP = "stop"


@dataclass
class _Stand:
    """One rank standing at one boundary."""

    step: int
    since: float
    counted: int = 0  # the epoch in which this rank was counted as standing
    answered: tuple[int, int] = (0, 0)  # the epoch and attempt whose remedies it has accepted
    held_since: float | None = None
    accepting_since: float | None = None


@dataclass
class Barrier:
    """One rank's view of the register, and the rules by which it obeys and writes it.

    The training thread calls `leave` at every boundary, which compares two integers, and
    `poll` while it stands. Any thread may call `hear` and `refresh`. `accept` says why this rank
    cannot do some remedies, or nothing; `apply` does them.
    """

    register: Register
    rank: int
    world_size: int
    accept: Callable[[Remedies], str]
    apply: Callable[[Remedies], None]
    lease_limit: float = 60.0
    on_outcome: Callable[[Outcome], None] = lambda outcome: None
    target: int = NEVER  # stand after this step
    left: int = 0  # the last step whose boundary this rank has left
    seen: Outcome | None = None
    _value: bytes = b""  # the register as last read
    _applied: int = 0
    _stand: _Stand | None = None
    _lock: RLock = field(default_factory=RLock)

    # At a boundary: the training thread.

    def leave(self, step: int) -> bool:
        """Leave the boundary after `step`, unless an order is in force: False means stand."""
        self.left = step  # before looking at `target`: whoever sets that looks at `left` after
        return step < self.target

    def arrive(self, step: int, now: float) -> None:
        """Begin to stand after `step`; `poll` follows until it no longer says STAND."""
        with self._lock:
            self.left = step - 1
            self._stand = _Stand(step, now)

    def poll(self, now: float, absent: float = 0.0) -> Verdict:
        """Read the register and do what it asks of a rank that stands here.

        `absent` is for how many seconds this rank has been without a daemon.
        """
        with self._lock:
            stand = self._stand
            outcome = self.refresh()
            if stand is None or outcome is None:
                return self._go()
            if outcome.phase == "hold":
                return self._poll_hold(stand, outcome, now)
            if outcome.phase == "held":
                return self._poll_held(stand, outcome, now, absent)
            if outcome.phase == "accepting":
                return self._poll_accepting(stand, outcome, now)
            if outcome.phase == "stopped":
                return Verdict.STOP
            return self._go()

    def _poll_hold(self, stand: _Stand, outcome: Outcome, now: float) -> Verdict:
        if outcome.step > stand.step:
            return self._go()  # on to the later step that was agreed on
        if outcome.step < stand.step:
            self._move(outcome, stand.step)
            return Verdict.STAND
        name = f"{outcome.epoch}/standing"
        if stand.counted != outcome.epoch:
            stand.counted, stand.since = outcome.epoch, now
            standing = self.register.count(name, 1)
        else:
            standing = self.register.count(name, 0)
        if standing >= self.world_size:
            self._write(outcome, "stopped" if outcome.then == "stop" else "held")
        elif now - stand.since > outcome.lease:
            arrived = f"{standing} of {self.world_size} ranks stood within {outcome.lease:g} s"
            self._write(outcome, "released", refused=arrived)
        return Verdict.STAND

    def _poll_held(self, stand: _Stand, outcome: Outcome, now: float, absent: float) -> Verdict:
        stand.accepting_since = None
        if stand.held_since is None:
            stand.held_since = now
        unanswered = now - stand.held_since > outcome.hold_for
        deserted = self.rank == 0 and absent > ABSENCE and now - stand.held_since > ABSENCE
        if (unanswered or deserted) and outcome.unattended != "hold":
            phase: Phase = "stopped" if outcome.unattended == "stop" else "resumed"
            why = "nobody answered" if unanswered else "the daemon is gone"
            self._write(
                outcome,
                phase,
                by=f"{UNATTENDED}: {why}",
                remedied=outcome.epoch,
                remedies=Remedies(),
            )
        return Verdict.STAND

    def _poll_accepting(self, stand: _Stand, outcome: Outcome, now: float) -> Verdict:
        if stand.accepting_since is None:
            stand.accepting_since = now
        name = f"{outcome.epoch}/{outcome.attempt}/accepted"
        this = (outcome.epoch, outcome.attempt)
        if stand.answered != this:
            if reason := self.accept(outcome.remedies):
                self._write(outcome, "held", refused=f"rank {self.rank}: {reason}")
                return Verdict.STAND
            stand.answered = this
            accepted = self.register.count(name, 1)
        else:
            accepted = self.register.count(name, 0)
        if accepted >= self.world_size:
            self._write(outcome, "resumed", refused="")
        elif now - stand.accepting_since > outcome.lease:
            late = f"{accepted} of {self.world_size} ranks accepted within {outcome.lease:g} s"
            self._write(outcome, "held", refused=late)
        return Verdict.STAND

    def abandon(self) -> None:
        """Leave without the register, which does not answer any more."""
        with self._lock:
            self.target = NEVER
            self._go()

    def _go(self) -> Verdict:
        """Leave the place where this rank stands, after the remedies it has not done yet."""
        outcome = self.seen
        if outcome is not None and outcome.remedied > self._applied:
            self._applied = outcome.remedied
            self.apply(outcome.remedies)
        if self._stand is not None:
            self.left = self._stand.step
            self._stand = None
        return Verdict.GO

    # Orders and news: any thread.

    def hear(self, order: HoldOrder | ResumeOrder | StopOrder) -> None:
        """Write what the daemon asks for, if the run's state allows it."""
        with self._lock:
            outcome = self.refresh()
            if isinstance(order, HoldOrder):
                self._hear_hold(order, outcome)
            elif outcome is None or outcome.phase != "held" or order.epoch != outcome.epoch:
                return
            elif isinstance(order, StopOrder):
                self._write(outcome, "stopped", by=order.by, reason="", refused="")
            else:
                self._write(
                    outcome,
                    "accepting",
                    by=order.by,
                    attempt=outcome.attempt + 1,
                    remedied=outcome.epoch,
                    remedies=order.remedies,
                    refused="",
                )

    def _hear_hold(self, order: HoldOrder, before: Outcome | None) -> None:
        if before is not None and (
            before.phase in OPEN or before.phase == "stopped" or order.epoch <= before.epoch
        ):
            return
        outcome = Outcome(
            serial=before.serial + 1 if before else 1,
            epoch=order.epoch,
            phase="hold",
            step=max(order.step, self.left + max(order.lead, 1)),
            asked=order.asked,
            by=order.by,
            reason=order.reason,
            lead=order.lead,
            lease=min(order.lease, self.lease_limit),
            then=order.then,
            hold_for=order.hold_for,
            unattended=order.unattended,
            remedied=before.remedied if before else 0,
            remedies=before.remedies if before else Remedies(),
        )
        self._swap(outcome)

    def refresh(self) -> Outcome | None:
        """Read the register; move the hold when this rank is already past its step."""
        with self._lock:
            outcome = self._read()
            for _ in range(8):
                if outcome is None or outcome.phase != "hold" or self.left < outcome.step:
                    break
                outcome = self._move(outcome, self.left)
            return outcome

    def depart(self) -> None:
        """This rank will reach no further boundary: release a hold that would wait for it."""
        with self._lock:
            outcome = self._read()
            if outcome is not None and outcome.phase == "hold":
                self._write(outcome, "released", refused=f"rank {self.rank} has left the run")

    # The register.

    def _move(self, outcome: Outcome, step: int) -> Outcome | None:
        """Open a new epoch at a step that is ahead of this rank, with twice the lead."""
        lead = min(MAX_LEAD, 2 * max(outcome.lead, 1))
        return self._swap(
            outcome.next("hold", epoch=outcome.epoch + 1, step=step + lead, lead=lead)
        )

    def _write(self, outcome: Outcome, phase: Phase, **changes: object) -> None:
        self._swap(outcome.next(phase, **changes))

    def _swap(self, after: Outcome) -> Outcome | None:
        """Replace the value that was read last; whoever was faster, obey what stands there now."""
        self.register.swap(self._value, encode(after))
        return self._read()

    def _read(self) -> Outcome | None:
        self._value = self.register.read()
        outcome = decode(self._value)
        if outcome is not None:
            binding = outcome.phase in OPEN or outcome.phase == "stopped"
            self.target = outcome.step if binding else NEVER
            if self.seen is None or outcome.serial > self.seen.serial:
                self.seen = outcome
                self.on_outcome(outcome)
        return outcome
