"""Packages that others have published: `pip install trainpulse losslint`.

What is not installed is left out. Defaults, as they ship.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.detectors.alarm import Alarm, Watch
from benchmarks.detectors.rows import read

POLL = 10  # rows between two looks of losslint at a log that grows, at least
_SHARE = 200  # of what it has read by then: a look takes as long as all of that


def trainpulse(path: Path) -> Iterator[Alarm]:
    """Its Monitor, told of the loss, the gradient norm and the learning rate of each row."""
    from trainpulse import Monitor

    monitor = Monitor()
    for number, row in enumerate(read(path)):
        for name in ("loss", "grad_norm", "lr"):
            value: float | None = getattr(row, name)
            if value is not None:
                for alert in monitor.log(name, row.step, value):
                    yield Alarm(number, f"{name} {alert.detector}", False, alert.severity.value)


def losslint(path: Path) -> Iterator[Alarm]:
    """Its checks of a log, run again whenever that has grown by 10 rows (beyond 2,000 by a 200th),
    as `losslint watch` does after some seconds; each new finding, one whose text has changed among
    them, is an alarm."""
    from losslint.checks import run_all_checks
    from losslint.parsing import RunLog

    rows = list(read(path))
    series = {name: [getattr(row, name) for row in rows] for name in ("loss", "grad_norm", "lr")}
    steps = [row.step for row in rows]
    told: set[str] = set()
    count = 0
    while count < len(rows):
        count = min(len(rows), count + max(POLL, count // _SHARE))
        known = {name: values[:count] for name, values in series.items()}
        for finding in run_all_checks(RunLog(steps[:count], known, path)):
            if finding.message not in told:
                told.add(finding.message)
                yield Alarm(count - 1, finding.check, False, finding.severity)


_PACKAGES: Mapping[str, Watch] = {"trainpulse": trainpulse, "losslint": losslint}


def installed() -> dict[str, Watch]:
    """Those that can be imported here."""
    return {name: one for name, one in _PACKAGES.items() if importlib.util.find_spec(name)}


def left_out() -> list[str]:
    """Those that cannot."""
    return [name for name in _PACKAGES if name not in installed()]
