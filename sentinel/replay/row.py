"""One logged step, and the numbers in it."""

from __future__ import annotations

import json

import msgspec

from sentinel.errors import ReplayError

MAX_STEP = 1 << 53
_BLANK = frozenset({"", "null", "none", "na", "n/a", "<na>", "-", "--"})


class RowError(ReplayError):
    """What is wrong with a row; the reader that meets it says in which file and line."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One logged step; None is what was not measured.

    The values follow `Log.series`. A row from before a series was first met is shorter.
    """

    step: int
    values: tuple[float | None, ...]
    time: float | None


def number(value: object, name: str) -> float | None:
    """A cell as a number, or None where it is blank. Raises `RowError`.

    NaN and the infinities are words in any case ("NaN", "Infinity", "-inf") or Python's own.
    """
    if type(value) is str:  # first, for the sake of tables, which have nothing else
        try:
            return float(value)
        except ValueError:
            if value.strip().lower() in _BLANK:
                return None
    elif value is None:
        return None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise RowError(f"{shown(name)}: {shown(value)} is too large") from None
    raise RowError(
        f'{shown(name)}: {shown(value)} is not a number, "NaN", "Infinity" or "-Infinity"'
    )


def step_number(value: object) -> int | None:
    """A cell as a step, or None where it is blank. Raises `RowError`.

    Takes 100, 100.0, "100", and "100/5000" for step 100 of 5000.
    """
    if type(value) is int and 0 <= value <= MAX_STEP:  # as nearly always
        return value
    step = value
    if isinstance(value, str):
        try:
            step = int(value)
        except ValueError:
            step = number(value.partition("/")[0], "step")
    if step is None:
        return None
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        raise RowError(f"step {shown(value)} is not a whole number from 0 to 2^53")
    return step


def shown(value: object) -> str:
    """A value as an error shows it: short, and in ASCII."""
    text = json.dumps(value, default=ascii)
    return text if len(text) <= 40 else text[:37] + "..."
