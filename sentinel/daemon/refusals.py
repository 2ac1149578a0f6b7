"""Puts on the record who was turned away: all that a person would ask about, and no flood of it.

Whoever is known (a token, a run) has an allowance of rows of their own, and all strangers share
one, so that no flood hides what another does. What goes beyond is counted and told in the next row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sentinel import clock
from sentinel.daemon.counts import Counts
from sentinel.daemon.ledger import Ledger
from sentinel.store.writing import Refusal

AT_ONCE = 10  # rows of one lane, and then
EVERY = 60.0  # s for one row more
MAX_LANES = 1024
MAX_TEXT = 300  # characters of anything that somebody else has said


@dataclass
class _Lane:
    """One who is known, or all strangers: the rows that are left, and what is not told yet."""

    rows: float
    at: float
    unsaid: int = 0
    last: Refusal | None = None


class Refusals:
    """Who was turned away since the daemon started."""

    def __init__(self, ledger: Ledger, counts: Counts) -> None:
        self._ledger = ledger
        self._counts = counts
        self._lanes: dict[str, _Lane] = {}

    def note(
        self, kind: str, by: str, asked: str, why: str, *, known: str = "", run: str = ""
    ) -> None:
        """Somebody was turned away. `known` says who it surely was, if that is known; `run` names
        the run that they asked something of, on whose record it goes if there is such a run."""
        self._counts.refused[kind] += 1
        texts = by[:MAX_TEXT], asked[:MAX_TEXT], why[:MAX_TEXT]
        refusal = Refusal(clock.steady(), *texts, run=run[:MAX_TEXT])
        lane = self._lane(known)
        lane.unsaid += 1
        lane.last = refusal
        self._tell(lane)

    def tick(self) -> None:
        """Once a second: tell what could not be told when it happened."""
        for lane in self._lanes.values():
            self._tell(lane)

    def close(self) -> None:
        """Tell all that was not told."""
        for lane in self._lanes.values():
            lane.rows = 1.0
            self._tell(lane)

    def _lane(self, known: str) -> _Lane:
        if known not in self._lanes and len(self._lanes) >= MAX_LANES:
            known = ""
        return self._lanes.setdefault(known, _Lane(AT_ONCE, clock.monotonic()))

    def _tell(self, lane: _Lane) -> None:
        now = clock.monotonic()
        lane.rows = min(AT_ONCE, lane.rows + (now - lane.at) / EVERY)
        lane.at = now
        if lane.last is None or lane.rows < 1.0:
            return
        refusal = lane.last
        if lane.unsaid > 1:
            refusal = replace(refusal, why=f"{refusal.why} (and {lane.unsaid - 1} more before it)")
        lane.rows -= 1.0
        lane.unsaid, lane.last = 0, None
        self._ledger.turned_away(refusal)
