"""What a detector's alarms on a trace amount to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.detectors.alarm import Alarm, eligible, episodes, like_plateau
from benchmarks.traces.trace import Event, Trace


@dataclass(frozen=True)
class Verdict:
    """Of one detector on one trace, or of several together.

    `found` of `events`, after `delays` rows; `named` are those found by a rule that names what
    they are. `false_alarms` are episodes of alarms on the `clean_rows`; `needless` those of
    alarms that would have paused or stopped a run in which nothing was certainly wrong then.
    `right` of `traces` had all found and nothing false or needless.
    """

    events: int = 0
    found: int = 0
    named: int = 0
    delays: tuple[int, ...] = ()
    clean_rows: int = 0
    false_alarms: int = 0
    needless: int = 0
    traces: int = 0
    right: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )

    @property
    def false_rate(self) -> float:
        """Episodes of false alarms in 1,000 clean rows."""
        return 1000 * self.false_alarms / max(1, self.clean_rows)

    @property
    def delay(self) -> int | None:
        """The median, in rows; of an even number of them the higher of the two in the middle."""
        return statistics.median_high(self.delays) if self.delays else None


def judge(trace: Trace, alarms: Iterable[Alarm]) -> Verdict:
    """One detector on one trace."""
    said = list(alarms)
    hits = [_hits(event, said) for event in trace.events]
    named = sum(
        any(kind in alarm.rule for alarm in hit for kind in event.kinds)
        for event, hit in zip(trace.events, hits, strict=True)
    )
    found = sum(map(bool, hits))
    false = len(false_alarms(trace, said))
    needless = len(
        episodes({one.row for one in said if one.acts and not _near(trace.events, one.row)})
    )
    return Verdict(
        events=len(trace.events),
        found=found,
        named=named,
        delays=tuple(
            min(alarm.row for alarm in hit) - event.start
            for event, hit in zip(trace.events, hits, strict=True)
            if hit
        ),
        clean_rows=_clean_rows(trace),
        false_alarms=false,
        needless=needless,
        traces=1,
        right=int(found == len(trace.events) and not false and not needless),
    )


def false_alarms(trace: Trace, alarms: Sequence[Alarm]) -> list[tuple[int, int]]:
    """First and last row of the episodes of false alarms, those that are spared taken off.

    An alarm about a plateau is false wherever there is none, as is one about anything else while
    there is but a plateau.
    """
    outside = {
        one.row
        for one in alarms
        if not any(_excuses(event, one) for event in _near(trace.events, one.row))
    }
    found = episodes(outside)
    for spared in trace.spared:
        within = [one for one in found if spared.start <= one[0] <= spared.until]
        found = [one for one in found if one not in within[: spared.episodes]]
    return found


def _clean_rows(trace: Trace) -> int:
    """Rows in no event but a plateau."""
    unclean = {
        row
        for event in trace.events
        if event.kinds != ("Plateau",)
        for row in range(event.start, min(event.until + 1, len(trace.rows)))
    }
    return len(trace.rows) - len(unclean)


def _hits(event: Event, alarms: Sequence[Alarm]) -> list[Alarm]:
    return [
        alarm
        for alarm in alarms
        if event.start <= alarm.row <= event.by
        and any(eligible(kind, alarm.rule) for kind in event.kinds)
    ]


def _near(events: Sequence[Event], row: int) -> list[Event]:
    return [event for event in events if event.start <= row <= event.until]


def _excuses(event: Event, alarm: Alarm) -> bool:
    """Whether an alarm during this event is no false one."""
    if event.kinds == ("Plateau",):
        return like_plateau(alarm.rule)
    lasts = event.until - event.start > 100  # where all is lost, the loss does not move either
    return lasts or "ZeroLoss" in event.kinds or not like_plateau(alarm.rule)
