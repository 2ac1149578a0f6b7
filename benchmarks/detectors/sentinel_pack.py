"""A rule pack, through the same code as `sentinel replay`."""

from __future__ import annotations

import bisect
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.detectors.alarm import Alarm
from sentinel.engine.rule import Rule
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.replay.log import open_log, replay_log

_ACTIONS = {"pause", "stop"}


def pack(path: Path, name: str = "default") -> Iterator[Alarm]:
    """The alerts that begin to fire, on the rows on which they do."""
    places, timed = _places(path)
    for alert in replay_log(open_log(path), _rules(name)):
        place = alert.at if timed else alert.fired_step
        row = max(0, bisect.bisect_right(places, place) - 1)
        acts = not _ACTIONS.isdisjoint(alert.actions)
        yield Alarm(row, alert.rule, acts, alert.severity)


@functools.cache
def _rules(name: str) -> Sequence[Rule]:
    return load(resolve_pack(name))


def _places(path: Path) -> tuple[list[float], bool]:
    """By row its time, where rows have one, else its step; and whether it is the time."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    timed = all("time" in row for row in rows)
    return [row["time" if timed else "step"] for row in rows], timed
