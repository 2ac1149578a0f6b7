"""What a detector's alarms on labelled logs amount to. Everything is counted in rows.

window      of an event: from 2 rows before its start to 10 after its end
incident    certain events that overlap, touch or are at most 3 rows apart; a plateau is one by
            itself. Found if an alarm that is eligible for one of its events lies in that event's
            window. The delay is that of the first such alarm, not below 0
clean row   in no event's window, be it certain or only likely, plateaus aside
false alarm on a clean row; or one about a plateau outside the windows of plateaus and of zero loss,
            unless some other event's window is there. Alarms at most 10 rows apart are one episode
precision   episodes of alarms in certain windows, over these and the episodes of false alarms
likely      windows of likely events count neither for nor against
needless    episodes of alarms that pause or stop a run without any certain event
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.detectors.alarm import Alarm, eligible, episodes, like_plateau
from benchmarks.labelled.labels import Labelled, LabelledRun

BEFORE, AFTER, APART = 2, 10, 3  # rows


@dataclass(frozen=True)
class Score:
    """Of one detector on one run, or of several together: `incidents` and those `found`, after
    `delays`; episodes of `true_alarms` and `false_alarms`; `clean_rows`; `needless` pauses."""

    incidents: int = 0
    found: int = 0
    delays: tuple[int, ...] = ()
    true_alarms: int = 0
    false_alarms: int = 0
    clean_rows: int = 0
    needless: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )

    @property
    def recall(self) -> float | None:
        return self.found / self.incidents if self.incidents else None

    @property
    def precision(self) -> float | None:
        alarms = self.true_alarms + self.false_alarms
        return self.true_alarms / alarms if alarms else None

    @property
    def f1(self) -> float | None:
        recall, precision = self.recall, self.precision
        if recall is None or precision is None:
            return None
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0

    @property
    def false_rate(self) -> float | None:
        """Episodes of false alarms in 1,000 clean rows."""
        return 1000 * self.false_alarms / self.clean_rows if self.clean_rows else None

    @property
    def delay(self) -> int | None:
        """The median, in rows; of an even number of them the higher of the two in the middle."""
        return statistics.median_high(self.delays) if self.delays else None


def score(run: LabelledRun, alarms: Iterable[Alarm]) -> Score:
    """One detector on one run."""
    said = [one._replace(row=_row_of_step(run, one.row)) for one in alarms]
    windows = _Windows(run)
    groups = incidents(run.events)
    delays = [delay for group in groups if (delay := _delay(group, said, windows)) is not None]
    verdicts = [(one, windows.judge(one)) for one in said]
    false = [one for one, verdict in verdicts if verdict == "false"]
    plateau_like = [one.row for one in false if windows.is_plateau_like(one)]
    other = [one.row for one in false if not windows.is_plateau_like(one)]
    return Score(
        incidents=len(groups),
        found=len(delays),
        delays=tuple(delays),
        true_alarms=len(episodes(one.row for one, verdict in verdicts if verdict == "true")),
        false_alarms=len(episodes(plateau_like)) + len(episodes(other)),
        clean_rows=windows.clean_rows(),
        needless=0 if groups else len(episodes({one.row for one in said if one.acts})),
    )


def incidents(events: Sequence[Labelled]) -> list[list[Labelled]]:
    """The certain events, those that belong together in one list."""
    certain = sorted((one for one in events if one.certain), key=lambda one: one.start)
    groups: list[list[Labelled]] = []
    for event in (one for one in certain if not one.is_plateau):
        if groups and event.start <= max(one.end for one in groups[-1]) + APART:
            groups[-1].append(event)
        else:
            groups.append([event])
    return groups + [[one] for one in certain if one.is_plateau]


def _row_of_step(run: LabelledRun, row: int) -> int:
    """The last row that has this row's step: an alarm is known by its step alone."""
    return max(0, bisect.bisect_right(run.steps, run.steps[row]) - 1)


def _delay(group: Sequence[Labelled], alarms: Sequence[Alarm], windows: _Windows) -> int | None:
    rows = [
        alarm.row
        for event in group
        for alarm in alarms
        if alarm.row in windows.of(event) and eligible(event.kind, alarm.rule)
    ]
    return max(0, min(rows) - group[0].start) if rows else None


class _Windows:
    """Which rows of a run are in the window of what."""

    def __init__(self, run: LabelledRun) -> None:
        self._run = run
        self._certain = self._rows(lambda one: one.certain and not one.is_plateau)
        self._any = self._rows(lambda one: not one.is_plateau)
        self._certain_plateau = self._rows(lambda one: one.certain and one.is_plateau)
        self._plateau = self._rows(lambda one: one.is_plateau)
        self._zero = self._rows(lambda one: one.type == "zero_loss")

    def of(self, event: Labelled) -> range:
        return range(max(0, event.start - BEFORE), min(len(self._run), event.end + AFTER + 1))

    def clean_rows(self) -> int:
        return len(self._run) - len(self._any)

    def is_plateau_like(self, alarm: Alarm) -> bool:
        """Logs of memory and the like know no plateaus."""
        return self._run.suite == "training" and like_plateau(alarm.rule)

    def judge(self, alarm: Alarm) -> str:
        """ "true", "false", or "" where it counts neither way."""
        if self.is_plateau_like(alarm):
            right, open_ = self._certain_plateau | self._zero, self._plateau | self._any
        else:
            right, open_ = self._certain, self._any
        return "true" if alarm.row in right else "" if alarm.row in open_ else "false"

    def _rows(self, wanted: Callable[[Labelled], bool]) -> set[int]:
        return {row for one in self._run.events if wanted(one) for row in self.of(one)}
