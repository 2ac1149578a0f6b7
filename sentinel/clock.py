"""The one place that reads clocks, so that everything else can be handed the time."""

from __future__ import annotations

import time
from datetime import datetime, timezone


def wall() -> float:
    """Seconds since the Unix epoch. May jump when the clock is set."""
    return time.time()


def monotonic() -> float:
    """Seconds on a clock that never goes back; comparable within one machine only."""
    return time.monotonic()


def isoformat(seconds: float) -> str:
    """A wall time as ISO 8601 in UTC with milliseconds: `2026-01-31T09:30:00.250Z`."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timestamp(text: str) -> float:
    """The wall time that `isoformat` made this text of. Raises `ValueError`."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


_STARTED = time.time() - time.monotonic()


def steady() -> float:
    """Seconds since the Unix epoch that never jump: the wall clock at start, ticking on evenly.

    For everything that is both compared with other moments and shown to people.
    """
    return _STARTED + time.monotonic()
