"""What was decided about a run, as it stands in the job's own store.

All ranks share one register. Its value is the latest `Outcome`, replaced by compare-and-swap
only, so that the outcomes of a run form one sequence, whoever writes them:

    (nothing) -> hold -> held -> accepting -> applying -> resumed -> hold ...
                  |       |  ^      |  |         |
                  |       |  +------+------------+  (a rank cannot do a remedy, or it failed)
                  |       |            +-> resumed (there is no remedy to be done)
                  |       +-> resumed (nobody answered), stopped
                  +-> hold (later step, a new epoch), released, stopped (asked for from the start),
                      accepting (a checkpoint, asked for from the start; goes on even if it fails)
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from sentinel.wire import Remedies

Phase = Literal["hold", "held", "accepting", "applying", "resumed", "released", "stopped"]
UNATTENDED = "unattended"  # how `by` begins when nobody answered
OPEN: frozenset[Phase] = frozenset({"hold", "held", "accepting", "applying"})


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value of the register.

    `serial` counts the outcomes of the run, `epoch` the steps that were agreed on; `asked` is
    the epoch in which the hold was first ordered, before ranks that were already past its step
    moved it, and `asked_by` who ordered it; `by` is who brought about this outcome. `lease` (s)
    bounds how long a rank stands before all do, and how long they have to accept remedies.

    `attempt` counts the resumes asked for in this epoch and `remedies` are those of the latest;
    `done` is the epoch and attempt whose remedies every rank has carried out last, for ranks that
    were slow to read. `refused` is why what was asked for is not done. `torn`: a rollback was begun
    and has not ended on every rank, so that the ranks may have different weights.
    """

    serial: int
    epoch: int
    phase: Phase
    step: int
    asked: int
    by: str
    reason: str = ""
    lead: int = 2
    lease: float = 60.0
    then: str = "hold"
    hold_for: float = 7200.0
    unattended: str = "resume"
    attempt: int = 0
    remedies: Remedies = Remedies()
    refused: str = ""
    asked_by: str = ""
    done: tuple[int, int] = (0, 0)
    torn: bool = False

    def next(self, phase: Phase, **changes: object) -> Outcome:
        """The outcome that follows this one."""
        return msgspec.structs.replace(self, serial=self.serial + 1, phase=phase, **changes)


class Register(Protocol):
    """What the ranks of a job share: one value with compare-and-swap, and named counters."""

    def read(self) -> bytes:
        """The value, or nothing when none was written yet."""
        ...

    def swap(self, expected: bytes, desired: bytes) -> bool:
        """Write `desired` if the value is `expected`; say whether that was done."""
        ...

    def count(self, name: str, add: int) -> int:
        """Add to a counter that starts at 0, and return what it is then."""
        ...


_decoder = msgspec.json.Decoder(Outcome)


def encode(outcome: Outcome) -> bytes:
    """As JSON, so that a person can read the store too."""
    return msgspec.json.encode(outcome)


def decode(value: bytes) -> Outcome | None:
    """None for the empty value. Raises `msgspec.MsgspecError` on anything that is no outcome."""
    return _decoder.decode(value) if value else None
