"""The greatest elements of signals, and statistics over all of them: of many signals at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sentinel.engine.evaluation.values import Values
from sentinel.engine.window import Floats, Places


class Ranked(NamedTuple):
    """A signal's greatest element, its median over all, and the greatest few and where they are."""

    of: int  # elements that were measured
    statistics: list[float]
    greatest: list[float]
    places: list[int]


def ranked(found: Mapping[str, Values], most: int) -> Iterator[tuple[str, Ranked]]:
    """Of each signal, NaN before all others. They have equally many elements, one at least."""
    whole = [name for name, one in found.items() if not np.count_nonzero(one.missing)]
    if whole:
        values = np.array([found[name].values for name in whole])
        yield from zip(whole, _ranked(values, None, most), strict=True)
    for name in [name for name in found if name not in whole]:
        there = np.flatnonzero(~found[name].missing)
        yield name, next(_ranked(found[name].values[np.newaxis, there], there, most))


def _ranked(values: Floats, places: Places | None, most: int) -> Iterator[Ranked]:
    """Line by line. `places` says where the elements are; None: 0, 1, 2 ..."""
    lines, count = values.shape
    order = values.argsort(axis=1)[:, ::-1]  # NaN comes last in what is sorted
    chosen = order[:, [0, count // 2, (count - 1) // 2, *range(min(most, count))]]
    found = values[np.arange(lines)[:, np.newaxis], chosen].tolist()
    at = chosen[:, 3:] if places is None else places[chosen[:, 3:]]
    for (top, high, low, *greatest), its_places in zip(found, at.tolist(), strict=True):
        yield Ranked(count, [top, _median(top, low, high)], greatest, its_places)


def _median(top: float, low: float, high: float) -> float:
    """From the two in the middle; NaN where any is, which then is the `top`."""
    if math.isnan(top):
        return top
    return low if low == high else (low + high) / 2
