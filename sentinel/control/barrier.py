"""The ranks' half of the hold: how all of them come to stand after the same step, and go on.

The daemon proposes; the register that the ranks share decides. Pure but for that register: the
time is an argument, and waiting is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from threading import RLock

from sentinel.control.outcome import OPEN, UNATTENDED, Outcome, Phase, Register, decode, encode
from sentinel.control.stand import Attempt, Stand
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, StopOrder

NEVER = 1 << 62  # a step that no run reaches
MAX_LEAD = 4096  # steps
ABSENCE = 300.0  # s without a daemon after which a held run does what is set for `unattended`
SILENCE = 60.0  # s without a sign of life of any rank that is still busy with remedies
LABOR = 3600.0  # s that a rank which has done its remedies waits for others that live

Work = Callable[[], None]


class Verdict(str, Enum):
    """What a rank at a step boundary does now."""

    STAND = "stand"
    GO = "go"
    STOP = "stop"


@dataclass
class Barrier:
    """One rank's view of the register, and the rules by which it obeys and writes it.

    The training thread calls `leave` at every boundary, which compares two integers, and
    `poll` while it stands. Any thread may call `hear` and `refresh`, also while `poll` carries out
    remedies. `accept` says why this rank cannot do some remedies, or nothing; `apply` does them
    and says why they failed, or nothing; `undo` takes back what can be of remedies that this rank
    has done, since another could not do them. Each of the three is called once for each attempt to
    resume at most, on the training thread. `position` is the trainer's last step: it is asked
    after a rollback.
    """

    register: Register
    rank: int
    world_size: int
    accept: Callable[[Remedies], str]
    apply: Callable[[Remedies], str]
    undo: Callable[[Remedies], None] = lambda remedies: None
    position: Callable[[], int] | None = None
    lease_limit: float = 60.0
    silence: float = SILENCE
    on_outcome: Callable[[Outcome], None] = lambda outcome: None
    target: int = NEVER  # stand after this step
    left: int = 0  # the last step whose boundary this rank has left
    seen: Outcome | None = None
    _value: bytes = b""  # the register as last read
    _stand: Stand | None = None
    _busy: str = ""  # the counter of signs of life, while remedies are carried out
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
            self._stand = Stand(step, now)

    def poll(self, now: float, absent: float = 0.0) -> Verdict:
        """Read the register and do what it asks of a rank that stands here.

        `absent` is for how many seconds this rank has been without a daemon. Takes as long as
        `apply` takes; meanwhile `hear` and `refresh` do not wait.
        """
        with self._lock:
            answer = self._look(now, absent)
        if isinstance(answer, Verdict):
            return answer
        answer()
        return Verdict.STAND

    def _look(self, now: float, absent: float) -> Verdict | Work:
        stand = self._stand
        outcome = self.refresh()
        if stand is None or outcome is None:
            return self._go()
        mine = stand.attempt
        if mine is not None and mine.applied and not self._is_under_way(mine, outcome):
            if outcome.done == mine.number:
                return self._go()
            return partial(self._take_back, mine)
        if outcome.phase == "hold":
            return self._look_at_hold(stand, outcome, now)
        if outcome.phase == "held":
            return self._look_at_held(stand, outcome, now, absent)
        if outcome.phase in ("accepting", "applying"):
            return self._look_at_attempt(stand, outcome, now)
        if outcome.phase == "stopped":
            return Verdict.STOP
        return self._go()

    def _look_at_hold(self, stand: Stand, outcome: Outcome, now: float) -> Verdict:
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
            self._all_stand(outcome)
        elif now - stand.since > outcome.lease:
            arrived = f"{standing} of {self.world_size} ranks stood within {outcome.lease:g} s"
            self._write(outcome, "released", refused=arrived)
        return Verdict.STAND

    def _all_stand(self, outcome: Outcome) -> None:
        if outcome.then == "stop":
            self._write(outcome, "stopped")
        elif outcome.then == "checkpoint":
            self._write(outcome, "accepting", attempt=1, remedies=Remedies(checkpoint=True))
        else:
            self._write(outcome, "held")

    def _look_at_held(self, stand: Stand, outcome: Outcome, now: float, absent: float) -> Verdict:
        if stand.held[0] != outcome.serial:  # also after a resume that failed: somebody was there
            stand.held = (outcome.serial, now)
        held = now - stand.held[1]
        unanswered = held > outcome.hold_for
        deserted = self.rank == 0 and absent > ABSENCE and held > ABSENCE
        unattended = outcome.unattended
        if unattended == "resume" and outcome.torn:
            unattended = "hold"  # ranks with different weights must not train on
        if (unanswered or deserted) and unattended != "hold":
            why = "nobody answered" if unanswered else "the daemon is gone"
            phase: Phase = "stopped" if unattended == "stop" else "resumed"
            self._write(outcome, phase, by=f"{UNATTENDED}: {why}", remedies=Remedies(), refused="")
        return Verdict.STAND

    # An attempt to resume: `accept` and `apply` run without the lock.

    def _look_at_attempt(self, stand: Stand, outcome: Outcome, now: float) -> Verdict | Work:
        mine = stand.attempt
        if mine is None or mine.number != (outcome.epoch, outcome.attempt):
            mine = Attempt((outcome.epoch, outcome.attempt), outcome.remedies, now)
            stand.attempt = mine
        if outcome.phase == "applying":
            if not mine.begun:
                return partial(self._carry_out, stand, mine)
            self._await_finish(mine, outcome, now)
        elif not mine.accepted:
            return partial(self._answer, mine)
        else:
            self._await_acceptance(mine, outcome, now)
        return Verdict.STAND

    def _answer(self, mine: Attempt) -> None:
        try:
            why = self.accept(mine.remedies)
        except Exception as error:  # noqa: BLE001 - what a trainer raises is its answer
            why = f"{type(error).__name__}: {error}"
        with self._lock:
            mine.accepted = True  # before it is counted: no failure may count it twice
            outcome = self._read()
            if not why:
                self.register.count(mine.counter("accepted"), 1)
            elif outcome is not None and self._is_under_way(mine, outcome):
                self._give_up(outcome, f"rank {self.rank}: {why}"[:1000])

    def _await_acceptance(self, mine: Attempt, outcome: Outcome, now: float) -> None:
        accepted = self.register.count(mine.counter("accepted"), 0)
        if accepted >= self.world_size:
            self._write(outcome, "applying" if outcome.remedies.names() else "resumed", refused="")
        elif now - mine.since > outcome.lease:
            within = f"within {outcome.lease:g} s"
            self._give_up(outcome, f"{accepted} of {self.world_size} ranks accepted {within}")

    def _carry_out(self, stand: Stand, mine: Attempt) -> None:
        mine.begun = True  # before it begins: no failure may begin it twice
        self._busy = mine.counter("busy")
        try:
            why = self.apply(mine.remedies)
        except Exception as error:  # noqa: BLE001 - what a trainer raises is its answer
            why = f"{type(error).__name__}: {error}"
        finally:
            self._busy = ""
        with self._lock:
            mine.applied = not why
            if mine.applied and mine.remedies.rollback and self.position is not None:
                stand.step = self.position()
                self.left = stand.step - 1
            outcome = self._read()
            while why and outcome is not None and self._is_under_way(mine, outcome):
                if outcome.refused:  # another's reason, which was first
                    break
                failed = outcome.next("applying", refused=f"rank {self.rank}: {why}"[:1000])
                outcome = self._swap(failed)
            self.register.count(mine.counter("finished"), 1)

    def _await_finish(self, mine: Attempt, outcome: Outcome, now: float) -> None:
        """Wait until all have done the remedies or failed: until then some may need the others."""
        finished = self.register.count(mine.counter("finished"), 0)
        signs = self.register.count(mine.counter("busy"), 0)
        if mine.waiting_since is None:
            mine.waiting_since = mine.sign_at = now
        if signs != mine.signs:
            mine.signs, mine.sign_at = signs, now
        done = f"{finished} of {self.world_size} ranks have carried it out"
        if finished >= self.world_size and outcome.refused:
            self._give_up(outcome, outcome.refused)
        elif finished >= self.world_size:
            torn = outcome.torn and not outcome.remedies.rollback
            self._write(outcome, "resumed", done=mine.number, torn=torn)
        elif now - mine.sign_at > self.silence:
            self._give_up(outcome, f"{done}, and no other has shown life for {self.silence:g} s")
        elif now - mine.waiting_since > LABOR:
            self._give_up(outcome, f"{done} within {LABOR:g} s")

    def _give_up(self, outcome: Outcome, why: str) -> None:
        """The attempt has failed: the run is held again, but never because of a checkpoint."""
        phase: Phase = "resumed" if outcome.then == "checkpoint" else "held"
        rolled = outcome.phase == "applying" and bool(outcome.remedies.rollback)
        self._write(outcome, phase, refused=outcome.refused or why, torn=outcome.torn or rolled)

    def _take_back(self, mine: Attempt) -> None:
        mine.applied = False
        self.undo(mine.remedies)

    @staticmethod
    def _is_under_way(mine: Attempt, outcome: Outcome) -> bool:
        this = mine.number == (outcome.epoch, outcome.attempt)
        return this and outcome.phase in ("accepting", "applying")

    def abandon(self) -> None:
        """Leave without the register, which does not answer any more."""
        with self._lock:
            self.target = NEVER
            self._go()

    def _go(self) -> Verdict:
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
            elif order.attempt == outcome.attempt + 1:
                self._write(
                    outcome,
                    "accepting",
                    by=order.by,
                    attempt=order.attempt,
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
            asked_by=order.by,
            done=before.done if before else (0, 0),
        )
        self._swap(outcome)

    def refresh(self) -> Outcome | None:
        """Read the register; move the hold when this rank is already past its step.

        While this rank carries out remedies each call shows the others that it lives.
        """
        if busy := self._busy:
            self.register.count(busy, 1)
        with self._lock:
            outcome = self._read()
            for _ in range(8):
                if outcome is None or outcome.phase != "hold" or self.left < outcome.step:
                    break
                outcome = self._move(outcome, self.left)
            return outcome

    def depart(self) -> None:
        """This rank will reach no further boundary: give up what would wait for it."""
        with self._lock:
            outcome = self._read()
            why = f"rank {self.rank} has left the run"
            if outcome is not None and outcome.phase == "hold":
                self._write(outcome, "released", refused=why)
            elif outcome is not None and outcome.phase in ("accepting", "applying"):
                self._give_up(outcome, why)

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
        if self.register.swap(self._value, encode(after)):
            self._saw(after)  # another may have replaced it before it is read again
        return self._read()

    def _read(self) -> Outcome | None:
        self._value = self.register.read()
        outcome = decode(self._value)
        if outcome is not None:
            binding = outcome.phase in OPEN or outcome.phase == "stopped"
            self.target = outcome.step if binding else NEVER
            self._saw(outcome)
        return outcome

    def _saw(self, outcome: Outcome) -> None:
        if self.seen is None or outcome.serial > self.seen.serial:
            self.seen = outcome
            self.on_outcome(outcome)
