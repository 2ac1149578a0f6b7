"""What a detector says, and what a detector is here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class Alarm(NamedTuple):
    """A detector's word on a row, counted from 0, on reading that row and none after it.

    `acts` says that it would have paused or stopped the run.
    """

    row: int
    rule: str
    acts: bool = False
    severity: str = "warning"


Watch = Callable[[Path], Iterable[Alarm]]  # reads a log from its first row to its last

_PLATEAU = re.compile(
    r"plateau|stagn|stall|flat|converg|stuck|no_?improv|not_?learn|zero_?loss", re.IGNORECASE
)
_ZERO = re.compile(r"zero|dead|constant|vanish|collapse", re.IGNORECASE)


def like_plateau(rule: str) -> bool:
    """Whether a rule, by its name, is about a loss that does not move."""
    return bool(_PLATEAU.search(rule))


def eligible(kind: str, rule: str) -> bool:
    """Whether a rule, by its name, can have found a fault of this kind.

    A plateau is found by rules like it alone, zero loss by those and by rules about zeros, and
    everything else by any other rule.
    """
    if kind == "Plateau":
        return like_plateau(rule)
    if kind == "ZeroLoss":
        return like_plateau(rule) or bool(_ZERO.search(rule))
    return not like_plateau(rule)


def episodes(rows: Iterable[int], gap: int = 10) -> list[tuple[int, int]]:
    """First and last row of runs of alarms that are at most `gap` rows apart.

    >>> episodes([3, 50, 10])
    [(3, 10), (50, 50)]
    """
    found: list[tuple[int, int]] = []
    for row in sorted(rows):
        if found and row - found[-1][1] <= gap:
            found[-1] = found[-1][0], row
        else:
            found.append((row, row))
    return found
