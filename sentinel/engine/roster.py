"""The ranks of a run: who is there, how far each has come, and whom a step must wait for.

Ranks come to the same steps one after the other, and some day they all go back to an earlier one,
by a rollback or a restart. So a rank's place is an *era* and a step: going back opens a new era,
which the other ranks join when they go back too. Places are ordered, and every rank's place only
ever grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.coverage import RankCoverage
from sentinel.engine.evaluation.values import Values
from sentinel.engine.language.expression import Reading
from sentinel.engine.layout import Layout
from sentinel.engine.recency import Recency
from sentinel.wire import Heartbeat, Hello

Place = tuple[int, int]  # era, step

LOST_AFTER = 10.0  # s without a connection, and without a farewell
HEARD_WITHIN = 10.0  # s; what was heard earlier is not compared with what others do now
_DONE = ("finished", "detached")  # goodbyes of ranks that have come to the end of their work
_STANDING = ("checkpoint", "held")  # phases in which nobody comes further
BEFORE_ALL: Place = (-1, -1)


@dataclass
class RankState:
    """One rank as the engine knows it; to be read, not changed, by others.

    `goodbye` is the reason of its farewell and `detail` what it said besides, such as the error
    that ended it.
    `collectives` has, for each of its groups, the last one entered and the last one completed.
    """

    rank: int
    slot: int  # its index along the rank axis of all elements
    key: tuple[str]  # of the alerts that are its own
    host: str = ""
    pid: int = 0
    device: str = ""
    incarnation: str = ""
    version: tuple[int, int] = (1, 0)  # of the protocol that it speaks
    step: int = 0  # the last one it told of, by frame or heartbeat
    phase: str = ""
    last_seen: float = 0.0
    connected: bool = True
    lost: bool = False
    goodbye: str | None = None
    detail: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    coverage: RankCoverage = field(default_factory=RankCoverage)
    collectives: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    moved: float = 0.0  # when it last came further: a step, or a collective
    layout: Layout = field(default_factory=Layout)
    era: int = 0
    at: int = -1  # the step of its last frame in this era
    sequence: int = -1  # of its last frame
    late: bool = False  # was overdue and is not waited for until it has caught up
    disconnected_at: float = 0.0
    past: deque[str] = field(default_factory=lambda: deque(maxlen=16))  # earlier incarnations

    @property
    def place(self) -> Place:
        """How far it has come."""
        return (self.era, self.at)

    @property
    def failed(self) -> bool:
        """Whether its script ended with an exception."""
        return self.goodbye == "exception"

    @property
    def waits(self) -> bool:
        """Whether it has entered a collective that it is known not to have completed."""
        return any(done is not None and done < got for got, done in self.collectives.values())

    @property
    def awaited(self) -> bool:
        """Whether a step waits for its frame."""
        return not (self.lost or self.late or self.goodbye is not None)


class Roster:
    """All ranks that have said hello, and the world that they said they belong to."""

    def __init__(self) -> None:
        self.ranks: dict[int, RankState] = {}
        self.slots: list[RankState] = []  # also those that left the world
        self._slot_of: dict[int, int] = {}
        self.world_size = 0
        self.era = 0
        self.held = -math.inf  # when a rank was last known to stand on hold
        self.front = 0  # the highest step that any rank has told of in this era
        self._launched = 0  # the era that the last new process opened
        self._absent_awaited = True
        self._target: Place | None = None  # what `_behind` was counted for
        self._behind = 0

    def refusal(self, hello: Hello) -> str | None:
        """Why this Hello cannot be taken, or None."""
        if hello.rank >= hello.world_size:
            return "rank outside of its world"
        if len(set(hello.series)) != len(hello.series):
            return "series announced twice"
        state = self.ranks.get(hello.rank)
        if state is not None and hello.incarnation in state.past:
            return "earlier incarnation"
        return None

    def greet(self, hello: Hello, layout: Layout, now: float) -> bool:
        """Take in a Hello. Returns whether it comes from a new process of a known rank."""
        if hello.world_size != self.world_size:
            self._resize(hello.world_size)
        state = self.ranks.get(hello.rank)
        reborn = state is not None and state.incarnation != hello.incarnation
        if state is None:
            state = self._enter(hello.rank)
        if reborn:
            state.past.append(state.incarnation)
            self._restart(state)
        state.incarnation, state.layout = hello.incarnation, layout
        state.host, state.pid, state.device = hello.host, hello.pid, hello.device
        state.version = hello.version
        state.coverage.greet(hello, reborn=reborn)
        state.step = hello.step
        state.connected, state.lost, state.goodbye, state.detail = True, False, None, ""
        state.last_seen = state.moved = now
        self.front = max(self.front, hello.step)
        self._target = None
        return reborn

    def _enter(self, rank: int) -> RankState:
        slot = self._slot_of.setdefault(rank, len(self.slots))
        state = self.ranks[rank] = RankState(rank, slot, (str(rank),), era=self.era)
        if slot == len(self.slots):
            self.slots.append(state)
        else:  # it had left the world, which has grown again
            self.slots[slot] = state
        return state

    def _resize(self, world_size: int) -> None:
        self.world_size = world_size
        self._absent_awaited = True
        for rank in [rank for rank in self.ranks if rank >= world_size]:
            self.ranks.pop(rank).goodbye = "left the world"

    def _restart(self, state: RankState) -> None:
        """A new process took the rank's place: join the newest era, or open it for all of them."""
        state.sequence, state.late, state.collectives = -1, False, {}
        if state.era == self.era:
            self._open_era()
            self._launched, self._absent_awaited = self.era, True
        state.era, state.at = self.era, -1

    def _open_era(self) -> None:
        self.era += 1
        self.front = 0

    def beat(self, state: RankState, heartbeat: Heartbeat, now: float) -> None:
        """Take in how a rank is."""
        entered = {group: ends[0] for group, ends in heartbeat.collectives.items()}
        before = {group: ends[0] for group, ends in state.collectives.items()}
        if heartbeat.phase == "held":
            self.held = now
        if heartbeat.step != state.step or entered != before or heartbeat.phase in _STANDING:
            state.moved = now
        state.step, state.phase = heartbeat.step, heartbeat.phase
        state.dropped, state.collectives = heartbeat.dropped, heartbeat.collectives

    def advance(self, state: RankState, step: int) -> bool:
        """Take in that a rank has done this step. Returns whether it went back to get there."""
        target = self._target
        before = BEFORE_ALL if target is None else state.place
        if state.late and state.era < self.era:
            state.era, state.at = self.era, -1
        back = step <= state.at
        if back:
            if state.era == self.era:
                self._open_era()
            state.era = self.era
        state.at = state.step = step
        state.moved = state.last_seen
        if state.era == self.era and step > self.front:
            self.front = step
        if target is not None and before < target <= (state.era, step) and state.awaited:
            self._behind -= 1
        return back

    def era_of(self, state: RankState, step: int) -> int:
        """The era in which a rank has done this step, of which its frame may be still to come."""
        if step >= state.at:
            return state.era
        return self.era + (state.era == self.era)  # it has gone back

    def reach(self, state: RankState, step: int) -> None:
        """Take in that a rank is in the middle of this step, which it may never end."""
        if state.era == self.era:
            self.front = max(self.front, step)

    def behind(self, place: Place) -> int:
        """How many ranks a step at this place still waits for."""
        if self._target != place:
            self._target = place
            behind = 0
            for state in self.ranks.values():
                if state.awaited:
                    behind += (state.era, state.at) < place
                elif self._absent_awaited:
                    behind += self._is_to_return(state)
            if self._absent_awaited and self.world_size > len(self.ranks):
                behind += self.absent
            self._behind = behind
        return self._behind

    def _is_to_return(self, state: RankState) -> bool:
        """Whether it left with the processes before these, and has not come back yet."""
        gone = state.lost or state.goodbye is not None
        return gone and state.era < self._launched

    @property
    def is_in_doubt(self) -> bool:
        """Whether a rank is away without a farewell, and not given up yet."""
        return any(
            not (state.connected or state.lost) and state.goodbye is None
            for state in self.ranks.values()
        )

    def announced(self, columns: int) -> NDArray[np.intp]:
        """How many ranks measure what each of so many columns is for."""
        announced = np.zeros(columns, np.intp)
        for state in self.ranks.values():
            announced[state.layout.columns] += 1
        return announced

    @property
    def launched(self) -> int:
        """The era that the last new process opened; 0 before there was one."""
        return self._launched

    @property
    def ended_well(self) -> bool:
        """Whether all that were there have done what they were to do."""
        return all(state.goodbye in _DONE for state in self.ranks.values())

    def dismiss(self) -> None:
        """Another job begins: whoever was lost or has failed left with the one before."""
        for state in self.ranks.values():
            state.lost, state.goodbye = False, "left with an earlier job"
        self._target = None

    @property
    def absent(self) -> int:
        """Ranks of the world that have never said hello."""
        return max(0, self.world_size - len(self.ranks))

    @property
    def waits_for_none(self) -> bool:
        """Whether a step is complete with the frame of any rank: there is but one in the world."""
        return self.world_size == 1 == len(self.ranks)

    def write_off(self, place: Place) -> None:
        """Wait no longer for those that have not come to this place, until they catch up."""
        for state in self.ranks.values():
            if state.place < place:
                state.late = True
        self._absent_awaited = False
        self._target = None

    def caught_up(self, state: RankState) -> None:
        """Wait for this rank again."""
        if state.late:
            state.late = False
            self._target = None

    def farewell(self, state: RankState, reason: str, detail: str = "") -> None:
        """The rank leaves, and says so."""
        state.goodbye, state.detail = reason, detail
        self._target = None

    def cut(self, state: RankState, now: float) -> None:
        """The rank's connection ended."""
        if state.connected:
            state.connected, state.disconnected_at = False, now

    def lose(self, now: float) -> None:
        """Give up those that have been away for too long without a farewell."""
        for state in self.ranks.values():
            if not state.connected and state.goodbye is None and not state.lost:
                state.lost = now - state.disconnected_at >= LOST_AFTER
        self._target = None

    def lose_all(self) -> None:
        """The job has ended: whoever has not said farewell is lost."""
        for state in self.ranks.values():
            state.lost = state.goodbye is None
        self._target = None


class Pulse:
    """What the engine itself knows of the ranks at one moment: the source for rules of the clock.

    Whoever has said farewell is neither silent nor lost, nor does it stall, and nobody was silent
    or stalled before `awake`, when it was the engine that heard nothing. A rank that dies without
    a word makes others fail: while it is in doubt whether one has, nothing is said of failures.
    What is true `of_run`, or not known (None), is so for every rank. Of how long ago something was
    measured nothing is said once all ranks have left, and no time counts in which a run was held.
    `ranks` are those of all elements.
    """

    def __init__(
        self,
        roster: Roster,
        of_run: Mapping[str, float | None],
        recency: Recency,
        now: float,
        awake: float,
    ) -> None:
        self.ranks = [state.rank for state in roster.slots]
        self.of_run = of_run
        self._recency, self._now = recency, now
        self._counted_from = max(awake, roster.held)
        self._over = all(s.goodbye is not None for s in roster.slots)
        since = [now if s.goodbye is not None else max(s.last_seen, awake) for s in roster.slots]
        moved = [now if s.goodbye is not None else max(s.moved, awake) for s in roster.slots]
        self.by_rank: Mapping[str, Sequence[float]] = {
            "silence": [now - heard for heard in since],
            "lost": [float(s.lost and s.goodbye is None) for s in roster.slots],
            "failed": [float(s.failed) for s in roster.slots],
            "stall": [now - at for at in moved],
            "collective_lag": _lags(roster.slots, now),
        }
        self.missing = {"failed"} if roster.is_in_doubt else set()

    def read(self, reading: Reading) -> Values:
        """The elements of a signal that the engine makes."""
        if reading.signal in self.of_run:
            return self._whole(self.of_run[reading.signal], by_rank=reading.by_rank)
        values = np.array(self.by_rank[reading.signal])
        missing = reading.signal in self.missing
        if reading.by_rank:
            return Values(values, np.full(values.shape, missing))
        return Values(values.max(initial=-np.inf), np.asarray(missing or not values.size))

    def since(self, reading: Reading) -> Values:
        """The seconds since each of the signal's elements was measured, missing if never."""
        values, missing = self._recency.since(reading, self._now, self._counted_from)
        return Values(values, missing | self._over)

    def _whole(self, value: float | None, *, by_rank: bool) -> Values:
        shape = (len(self.by_rank["silence"]),) if by_rank else ()
        return Values(
            np.full(shape, np.nan if value is None else value), np.full(shape, value is None)
        )


def _lags(ranks: Sequence[RankState], now: float) -> list[float]:
    """How many collectives each rank is behind the first of its group, in the worst group.

    Only ranks that are there and were heard of just now are compared. Who is behind because it
    stands in a collective of another group, waiting, is not: who is behind and does not wait is.
    """
    there = [s.connected and s.goodbye is None and now - s.last_seen <= HEARD_WITHIN for s in ranks]
    front: dict[str, int] = {}
    for state, here in zip(ranks, there, strict=True):
        for group, (entered, _) in state.collectives.items() if here else ():
            front[group] = max(front.get(group, 0), entered)
    lags = [
        float(max((front[group] - ends[0] for group, ends in s.collectives.items()), default=0))
        if here
        else 0.0
        for s, here in zip(ranks, there, strict=True)
    ]
    if any(lag > 0 and not s.waits for s, lag in zip(ranks, lags, strict=True)):
        return [0.0 if s.waits else lag for s, lag in zip(ranks, lags, strict=True)]
    return lags
