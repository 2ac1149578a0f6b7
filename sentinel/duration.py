"""Lengths of time as people write and read them: `1h30m`, and `1 h 30 min`."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)


def seconds_of(text: str) -> float | None:
    """What `30s`, `5m` or `1h30m` is in seconds; None when it is nothing of the kind."""
    parts: list[tuple[str, str]] = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def in_words(seconds: float) -> str:
    """As `75 s`, `12 min 5 s`, `2 h` or `1 h 30 min`, to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{rest} s"
