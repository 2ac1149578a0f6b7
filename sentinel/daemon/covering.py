"""Keeps on record what can be seen of each run: when it has changed, and not all the time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sentinel.daemon.run import Run
from sentinel.engine.coverage import RunCoverage

INTERVAL = 5.0  # s between two looks at a run that goes on


class Covering:
    """What is on record, and what is due to be."""

    def __init__(self) -> None:
        self._recorded: dict[str, RunCoverage] = {}
        self._looked: dict[str, float] = {}

    def due(self, runs: Iterable[Run], now: float) -> list[RunCoverage]:
        """What has changed of these runs; of those that have ended, whatever the time."""
        runs, found = [*runs], []
        going = {run.name for run in runs}
        for known_of in (self._recorded, self._looked):
            for name in [name for name in known_of if name not in going]:
                del known_of[name]
        for run in runs:
            ended = run.ended is not None
            if not ended and now - self._looked.get(run.name, -INTERVAL) < INTERVAL:
                continue
            self._looked[run.name] = now
            report = run.engine.coverage()
            known = self._recorded.get(run.name)
            same = known is not None and replace(report, step=known.step) == known
            if known is not None and same:  # its parts stay the same objects
                report = replace(known, step=report.step)
            run.seen = report
            if ended or not same:
                found.append(report)
        return found

    def settled(self, reports: Iterable[RunCoverage]) -> None:
        """These are on record."""
        self._recorded |= {report.run: report for report in reports}
