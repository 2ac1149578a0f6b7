"""Logs for the tests of the readers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sentinel.replay.log import open_log
from sentinel.wire import Series


class Found(NamedTuple):
    """What a log was read as: its rows as (step, {series: value}), and the notes."""

    rows: list[tuple[int, dict[str, float]]]
    notes: list[str]
    format: str


def found(
    path: Path,
    data: str | bytes,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> Found:
    """Write a log and read it."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return found_in(path, format=format, columns=columns)


def found_in(
    path: Path, *, format: str = "auto", columns: Mapping[str, str] | None = None
) -> Found:
    log = open_log(path, format=format, columns=columns)
    rows = []
    for row in log:
        named = zip(map(_name, log.series), row.values, strict=False)
        rows.append((row.step, {name: value for name, value in named if value is not None}))
    return Found(rows, log.notes, log.format)


def _name(series: Series) -> str:
    return f"{series.signal}.{series.label}" if series.label else series.signal
