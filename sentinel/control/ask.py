"""A hold that the daemon has ordered, until the ranks have decided it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from sentinel.control.record import ActionState, Record, of_order
from sentinel.wire import HoldOrder

LEAD = 2  # steps beyond the highest known to have begun, at least
MAX_LEAD = 1024  # steps
TRAVEL = 0.05  # s that an order may take to reach every rank; one that comes late moves the hold
ATTEMPTS = 5  # holds asked for before a pause is given up


@dataclass
class Ask:
    """A hold that was ordered and is not decided yet; `heard` once a rank has told of it."""

    order: HoldOrder
    at: float
    attempts: int = 1
    incident: str | None = None
    heard: bool = False

    def again(self, epoch: int, now: float) -> HoldOrder:
        """The same hold once more, in a new epoch and twice as far ahead."""
        self.attempts += 1
        self.at, self.heard = now, False
        lead = min(MAX_LEAD, 2 * self.order.lead)
        self.order = msgspec.structs.replace(self.order, epoch=epoch, lead=lead)
        return self.order

    def record(self, state: ActionState, now: float, why: str) -> Record:
        """What became of it."""
        return of_order(self.order, state, self.order.step, now, why, self.incident)


def lead_for(step_seconds: float) -> int:
    """Steps that pass while an order travels, and one to spare; 0 s is when that is not known."""
    if not step_seconds > 0:
        return LEAD
    return max(LEAD, min(MAX_LEAD, math.ceil(TRAVEL / step_seconds) + 1))
