"""What the drivers said of the GPUs of a run lately: witnesses for an incident's cause."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from sentinel.engine.language.expression import Reading
from sentinel.engine.layout import Columns
from sentinel.engine.roster import RankState, Roster
from sentinel.engine.step import JudgedStep
from sentinel.engine.transition import Evidence
from sentinel.wire import Series

WITHIN = 60.0  # s before or after an onset in which hardware has to do with it
MAX_EVENTS = 256
MAX_TOLD = 6  # pieces of evidence at one time

# Codes after which a GPU needs a reset or has lost its memory: those of the rule GpuXidFatal.
FATAL_XIDS = frozenset({46, 48, 62, 64, 74, 79, 94, 95, 119, 120, 140})

_SAID: Mapping[str, str] = {
    "gpu_xid": "reported Xid {value:.0f}",
    "gpu_lost": "was lost by the driver",
    "gpu_ecc_uncorrected_new": "had memory errors that could not be corrected ({value:.0f})",
    "gpu_row_remap_failure": "could not remap a failing row of its memory",
    "gpu_slowdown": "was slowed down by heat or by its own protection",
}
SIGNALS = tuple(_SAID)
_LASTS = "gpu_slowdown"  # a state that may have begun long before


@dataclass
class HardwareEvent:
    """What befell the GPU of a rank; `until` is infinite while it goes on. Times as heard, in s."""

    state: RankState
    signal: str
    value: float
    at: float
    until: float

    @property
    def fatal(self) -> bool:
        """Whether the GPU cannot be relied on any more."""
        if self.signal == "gpu_xid":
            return int(self.value) in FATAL_XIDS
        return self.signal != _LASTS

    def evidence(self, onset: float, blamed: int | None) -> Evidence:
        """One line of it, as seen from the onset of an incident that names this rank."""
        rank, after = self.state.rank, round(self.at - onset)
        when = f"{abs(after)} s {'after' if after > 0 else 'before'}" if after else "at that moment"
        other = ", which is not the one named," if blamed not in (None, rank) else ""
        said = _SAID[self.signal].format(value=self.value)
        title = f"GPU of rank {rank}{other} {said} {when}"
        where = f"{self.state.device or 'its GPU'} on {self.state.host or 'an unknown host'}"
        return Evidence("hardware", title, f"{where}, as the driver told", rank)


class HardwareLog:
    """Remembers the latest events of all GPUs of a run."""

    def __init__(self, roster: Roster, columns: Columns) -> None:
        self._roster = roster
        self._columns = columns
        self._known = 0  # columns, when it was last looked which signals there are
        self._events: deque[HardwareEvent] = deque(maxlen=MAX_EVENTS)
        self._last: dict[tuple[int, str], float] = {}  # what is known and not 0
        self._measured: tuple[str, ...] = ()

    def judged(self, step: JudgedStep, now: float) -> bool:
        """A step has been judged. Returns whether it told of something new."""
        heard = False
        if len(self._columns) != self._known:
            self._known = len(self._columns)
            known = self._columns.find
            self._measured = tuple(one for one in SIGNALS if known(Series(one)) is not None)
        for signal in self._measured:
            top = step.number(Series(signal))
            if top is None or (top <= 0 and not any(name == signal for _, name in self._last)):
                continue
            values, missing = step.read(Reading(signal, by_rank=True))
            for state in self._roster.slots[: len(values)]:
                if not missing[state.slot]:
                    heard |= self._hear(state, signal, float(values[state.slot]), now)
        return heard

    def alarmed(self, state: RankState, alarms: Mapping[str, float], now: float) -> bool:
        """A rank tells of what cannot wait for its frame, again and again."""
        heard = False
        for name in alarms.keys() & _SAID.keys():
            heard |= self._hear(state, name, alarms[name], now)
        return heard

    def _hear(self, state: RankState, signal: str, value: float, now: float) -> bool:
        key = (state.rank, signal)
        before = self._last.get(key, 0.0)
        if math.isnan(value) or value == before:
            return False
        if value <= 0:
            self._last.pop(key)
            for event in self._events:
                if (event.state, event.signal) == (state, signal):
                    event.until = min(event.until, now)
            return False
        self._last[key] = value
        if any(
            (one.state, one.signal, one.value) == (state, signal, value)
            and now - one.at <= 2 * WITHIN
            for one in self._events
        ):
            return False  # a frame from before it may come after the heartbeat that told of it
        until = math.inf if signal == _LASTS else now
        self._events.append(HardwareEvent(state, signal, value, now, until))
        return True

    def near(self, onset: float) -> list[HardwareEvent]:
        """What was heard within a minute of an onset, or still went on then."""
        return [
            event
            for event in self._events
            if event.at <= onset + WITHIN and event.until >= onset - WITHIN
        ]

    def culprit(self, onset: float) -> HardwareEvent | None:
        """The first fatal event near an onset, if only one rank had any."""
        fatal = [event for event in self.near(onset) if event.fatal]
        return fatal[0] if len({event.state.rank for event in fatal}) == 1 else None

    def evidence(self, onset: float, blamed: int | None, signal: str) -> list[Evidence]:
        """Whatever befell the GPU of the rank that is named, and what was fatal to others'.

        But for what an incident about such a `signal` says itself.
        """
        near = self.near(onset)
        own = [one for one in near if one.state.rank == blamed and one.signal != signal]
        others = [one for one in near if one.state.rank != blamed and one.fatal]
        return [one.evidence(onset, blamed) for one in (own + others)[:MAX_TOLD]]
