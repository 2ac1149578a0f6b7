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
    as `losslint watch` does after some seconds. A finding that was not there at the last look is
    an alarm, and so is one that counts more than then; another wording of it is not."""
    from losslint.checks import run_all_checks
    from losslint.parsing import RunLog

    rows = list(read(path))
    series = {name: [getattr(row, name) for row in rows] for name in ("loss", "grad_norm", "lr")}
    steps = [row.step for row in rows]
    counts: dict[tuple[str, str], int] = {}  # of the last look, by check and series
    length = 0
    while length < len(rows):
        length = min(len(rows), length + max(POLL, length // _SHARE))
        known = {name: values[:length] for name, values in series.items()}
        before, counts = counts, {}
        for finding in run_all_checks(RunLog(steps[:length], known, path)):
            key = finding.check, finding.details.get("series", "")
            counts[key] = finding.details.get("count", 1)
            if counts[key] > before.get(key, 0):
                yield Alarm(length - 1, finding.check, False, finding.severity)


_PACKAGES: Mapping[str, Watch] = {"trainpulse": trainpulse, "losslint": losslint}


def installed() -> dict[str, Watch]:
    """Those that can be imported here."""
    return {name: one for name, one in _PACKAGES.items() if importlib.util.find_spec(name)}


def left_out() -> list[str]:
    """Those that cannot."""
    return [name for name in _PACKAGES if name not in installed()]
