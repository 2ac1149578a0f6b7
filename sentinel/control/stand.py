"""What one rank has done at the boundary where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel.wire import Remedies


@dataclass
class Attempt:
    """What a rank that stands has done for one attempt to resume."""

    number: tuple[int, int]  # epoch and attempt
    remedies: Remedies
    since: float  # when this rank first saw it in this phase
    accepted: bool = False
    begun: bool = False  # `apply` was called
    applied: bool = False  # `apply` has succeeded, and was not taken back
    waiting_since: float | None = None  # since when it waits for others to finish
    signs: int = 0  # of life, of those others
    sign_at: float = 0.0

    def counter(self, what: str) -> str:
        """The name of one of its counters in the register."""
        return f"{self.number[0]}/{self.number[1]}/{what}"


@dataclass
class Stand:
    """One rank standing at one boundary; `step` goes back when a rollback was done there."""

    step: int
    since: float
    counted: int = 0  # the epoch in which this rank was counted as standing
    held: tuple[int, float] = (0, 0.0)  # the serial of the `held` it saw last, and since when
    attempt: Attempt | None = None
