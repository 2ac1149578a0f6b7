"""Keeps on record what can be seen of each run: when it has changed, and not all the time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sentinel.daemon.run import Run
from sentinel.engine.coverage import RunCoverage

INTERVAL = 5.0  # s between two looks at a run that goes on, or more where there are many:
AT_ONCE = 8  # of these at most, each of which takes some milliseconds of the event loop


class Covering:
    """What is on record, and what is due to be."""

    def __init__(self) -> None:
        self._recorded: dict[str, RunCoverage] = {}
        self._looked: dict[str, float] = {}

    def due(self, runs: Iterable[Run], now: float) -> list[RunCoverage]:
        """What has changed of these runs; of those that have ended, whatever the time.

        `now` is infinite at the last look, which is at all of them.
        """
        runs, found = [*runs], []
        going = {run.name for run in runs}
        for known_of in (self._recorded, self._looked):
            for name in [name for name in known_of if name not in going]:
                del known_of[name]
        over = [run for run in runs if run.ended is not None]
        for run in [*over, *self._longest_ago(runs, now)]:
            self._looked[run.name] = now
            report = run.engine.coverage()
            known = self._recorded.get(run.name)
            if known is not None and replace(report, step=known.step) == known:
                run.seen = replace(known, step=report.step)  # its parts stay the same objects
                if run.ended is None:
                    continue
            else:
                run.seen = report
            found.append(run.seen)
        return found

    def _longest_ago(self, runs: Sequence[Run], now: float) -> list[Run]:
        """Of the runs that go on, those that were looked at longest ago."""
        looked = {run.name: self._looked.get(run.name, -math.inf) for run in runs}
        due = [run for run in runs if run.ended is None and now - looked[run.name] >= INTERVAL]
        return sorted(due, key=lambda run: looked[run.name])[: None if now == math.inf else AT_ONCE]

    def settled(self, reports: Iterable[RunCoverage]) -> None:
        """These are on record."""
        self._recorded |= {report.run: report for report in reports}
