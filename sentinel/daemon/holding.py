"""On what terms a run is held, when people are reminded of it, and how a hold that nobody ended is
put on the record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sentinel import wire
from sentinel.clock import isoformat
from sentinel.control.outcome import Outcome
from sentinel.duration import in_words
from sentinel.held import HoldTerms
from sentinel.store.shapes import HoldRow

FIRST = (900.0, 1800.0)  # s after the hold began; then every
HOUR = 3600.0  # s
BEFORE_END = 600.0  # s before the hold ends by itself
_LATEST = 253_402_300_799.0  # s since 1970: the last moment that ISO 8601 can write


@dataclass(frozen=True)
class Standstill:
    """What stands still while a run is held, and what may end it: see `HoldTerms`."""

    ranks: int = 1
    unit: str = "rank"
    deadline: float = 0.0
    group_timeout: float = 0.0


def standstill(hellos: Iterable[wire.Hello]) -> Standstill:
    """By the word of the ranks; what makes no sense of it counts as not known."""
    said = [*hellos]
    return Standstill(
        ranks=max((hello.world_size for hello in said), default=1),
        unit="GPU" if any(hello.device.startswith("cuda") for hello in said) else "rank",
        deadline=_least(hello.deadline for hello in said),
        group_timeout=_least(hello.group_timeout for hello in said),
    )


def _least(values: Iterable[float]) -> float:
    return min((value for value in values if 0.0 < value <= _LATEST), default=0.0)


def terms(outcome: Outcome, still: Standstill) -> HoldTerms:
    """On what terms the run is held by this outcome."""
    hold_for = outcome.hold_for if math.isfinite(outcome.hold_for) else wire.LONGEST_HOLD
    return HoldTerms(
        outcome.unattended,
        min(max(hold_for, 0.0), wire.LONGEST_HOLD),
        still.ranks,
        still.unit,
        still.deadline,
        still.group_timeout,
    )


@dataclass(frozen=True)
class Due:
    """A reminder: how far into the hold (s), and whether it is the last before the end."""

    offset: float
    ending: bool = False


def due(hold: HoldRow, now: float) -> Due | None:
    """The reminder that people should have had last by now, if any.

    After 15 and 30 minutes and then every hour; 10 minutes before the end of a hold that is twice
    as long, and after that no more.
    """
    if hold.terms is None:
        return None
    held = now - hold.since
    ends = hold.terms.ends(hold.since)
    length = math.inf if ends is None else ends - hold.since
    if length >= 2 * BEFORE_END and held >= length - BEFORE_END:
        return Due(length - BEFORE_END, ending=True)
    if held >= length:
        return None
    if held >= HOUR:
        return Due(HOUR * (held // HOUR))
    return next((Due(offset) for offset in reversed(FIRST) if held >= offset), None)


def unanswered(hold: HoldRow, reason: str) -> str:
    """What the record says of a hold that ended by itself; `reason`: what it says already."""
    since = f"held since {isoformat(hold.since)}"
    if hold.terms is not None and (ends := hold.terms.ends(hold.since)) is not None:
        since += f", {in_words(hold.terms.hold_for)} without an answer ended at {isoformat(ends)}"
    return f"{since}; {reason}" if reason else since
