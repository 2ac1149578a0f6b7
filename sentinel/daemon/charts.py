"""Charts of a run from its history: series, heat maps, and what is to be drawn around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from sentinel.daemon.normal import (
    BACK,
    LIMITS,
    MAY_BE_NEGATIVE,
    Band,
    Forecast,
    band,
    forecast,
)
from sentinel.signals import CATALOG
from sentinel.store.bins import IS_HIGH, IS_LOW, NOBODY, Bins, Bools, Floats, Kinds, Singles, Steps
from sentinel.store.history_reading import Look
from sentinel.store.history_row import ALONE, by_rank, is_of_ranks, signal_of

_EXACT = 1 << 17  # steps from which the band of a longer run is worked out
_DIGITS = 7  # that single precision has

Value = float | str | None


class SignalJSON(TypedDict):
    """A signal that there is something to draw of. `labels` is `[""]` for one that has none;
    `reduction` says how the values of ranks became one."""

    signal: str
    unit: str
    help: str
    labels: list[str]
    by_rank: bool
    reduction: str
    first_step: int
    last_step: int


class OneSeriesJSON(TypedDict):
    """A series in stretches of steps; see `SeriesJSON`. `rank` had the greatest value of each."""

    signal: str
    label: str
    unit: str
    min: list[Value]
    max: list[Value]
    mean: list[Value]
    nonfinite: list[int]
    rank: list[int | None] | None
    band: Band | None
    forecast: Forecast | None


SeriesJSON = TypedDict(
    "SeriesJSON",
    {
        "run": str,
        "first_step": int | None,
        "last_step": int | None,
        "from": int,
        "to": int,
        "bin": int,
        "steps": list[int],
        "times": list[float],
        "series": list[OneSeriesJSON],
    },
)
"""Series in stretches of `bin` steps; `steps` and `times` are the first measured ones of each."""


class HeatmapJSON(TypedDict):
    """The greatest values of rows in stretches of `bin` steps, and how many were not finite."""

    run: str
    signal: str
    unit: str
    rows: list[str]
    dropped_rows: int
    bin: int
    steps: list[int]
    values: list[list[Value]]
    nonfinite: list[list[int]]


class Span(NamedTuple):
    """Steps from `first` to `last`, in stretches of `length`."""

    first: int
    last: int
    length: int


class Wanted(NamedTuple):
    """A series that is asked for."""

    signal: str
    label: str


def span(look: Look, first: int | None, last: int | None, points: int) -> Span:
    """What there is between these steps, in no more than so many stretches."""
    low = look.extent.first if first is None else max(look.extent.first, first)
    high = look.extent.last if last is None else min(look.extent.last, last)
    length = 1
    while high // length - low // length + 1 > points:
        length *= 2
    return Span(low, high, length)


def signals(look: Look) -> list[SignalJSON]:
    """What there is to draw."""
    found: dict[str, SignalJSON] = {}
    with_ranks = {signal_of(one.sheet) for one in look.columns()}
    for sheet, name, first in look.columns():
        if signal_of(sheet) is not None or is_of_ranks(sheet, name):
            continue
        signal = CATALOG.get(name if sheet == ALONE else sheet)
        if signal is None:
            continue
        if signal.name not in found:
            found[signal.name] = SignalJSON(
                signal=signal.name,
                unit=signal.unit,
                help=signal.help,
                labels=[],
                by_rank=signal.name in with_ranks,
                reduction=signal.reduction.value,
                first_step=first,
                last_step=look.extent.last,
            )
        found[signal.name]["labels"].append("" if sheet == ALONE else name)
        found[signal.name]["first_step"] = min(first, found[signal.name]["first_step"])
    return [found[name] for name in CATALOG if name in found]


class _Drawn(NamedTuple):
    """Series in stretches, and as they were step by step before each if that was asked for."""

    wanted: Sequence[Wanted]
    bins: Bins
    exact: Bins | None


def series(look: Look, run: str, wanted: Sequence[Wanted], within: Span, bands: bool) -> SeriesJSON:
    """Charts of these series, those of which nothing is known left out."""
    sheets: dict[str, list[Wanted]] = {}
    known = {(one.sheet, one.name) for one in look.columns()}
    for one in dict.fromkeys(wanted):
        if (sheet_of(one), one.label or one.signal) in known:
            sheets.setdefault(sheet_of(one), []).append(one)
    length = within.length
    drawn: dict[Wanted, tuple[Bins, int]] = {}
    parts = []
    for sheet, members in sheets.items():
        bins, longest = look.bins(sheet, _names(members), within.first, within.last, length)
        length = max(length, longest)
        parts.append((sheet, members, bins))
    axis = _Axis([bins for _, _, bins in parts], length)
    for _, members, bins in parts:
        merged = bins.merged(length)
        drawn |= {one: (merged, at) for at, one in enumerate(members)}
    around: dict[Wanted, tuple[Band | None, Forecast | None]] = {}
    for sheet, members, _ in parts:
        around |= _around(look, sheet, members, within, axis.steps, bands)
    return {
        "run": run,
        "first_step": look.extent.first,
        "last_step": look.extent.last,
        "from": within.first,
        "to": within.last,
        "bin": length,
        "steps": axis.steps.tolist(),
        "times": np.round(axis.times, 3).tolist(),
        "series": [
            _one(one, *drawn[one], axis, *around[one])
            for one in dict.fromkeys(wanted)
            if one in drawn
        ],
    }


def sheet_of(one: Wanted) -> str:
    """Where it is kept."""
    return one.signal if one.label else ALONE


def _names(members: Sequence[Wanted]) -> list[str]:
    return [one.label or one.signal for one in members]


class _Axis:
    """All stretches in which any of some series was measured."""

    def __init__(self, parts: Sequence[Bins], length: int) -> None:
        self._length = length
        steps = np.concatenate([one.starts for one in parts] or [np.zeros(0, np.int64)])
        times = np.concatenate([one.times for one in parts] or [np.zeros(0)])
        order = np.lexsort((times, steps))
        keys = steps[order] // length
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys: Steps = keys[first]
        self.steps: Steps = steps[order][first]
        self.times: Floats = times[order][first]

    def __len__(self) -> int:
        return len(self.steps)

    def places(self, bins: Bins) -> Steps:
        """Which stretches those of `bins`, which are as long, are."""
        return np.searchsorted(self._keys, bins.starts // self._length)


def _one(
    one: Wanted, bins: Bins, at: int, axis: _Axis, normal: Band | None, goes: Forecast | None
) -> OneSeriesJSON:
    places = axis.places(bins)
    count, odd, kinds = bins.count[:, at], bins.odd[:, at], bins.kinds[:, at]
    with np.errstate(all="ignore"):
        mean = bins.total[:, at] / count

    def spread(values: Floats | Singles) -> list[Value]:
        return _spread(numbers(values, count > 0, kinds), places, len(axis))

    counts = np.zeros(len(axis), np.int64)
    counts[places] = odd
    rank: list[int | None] | None = None
    if (bins.rank[:, at] != NOBODY).any():
        rank = [None] * len(axis)
        for place, who in zip(places.tolist(), bins.rank[:, at].tolist(), strict=True):
            rank[place] = who if who != NOBODY else None
    return OneSeriesJSON(
        signal=one.signal,
        label=one.label,
        unit=CATALOG[one.signal].unit,
        min=spread(bins.low[:, at]),
        max=spread(bins.high[:, at]),
        mean=spread(mean),
        nonfinite=counts.tolist(),
        rank=rank,
        band=normal,
        forecast=goes,
    )


def _spread(values: list[Value], places: Steps, size: int) -> list[Value]:
    if len(values) == size:
        return values
    found: list[Value] = [None] * size
    for place, value in zip(places.tolist(), values, strict=True):
        found[place] = value
    return found


def numbers(values: Floats | Singles, finite: Bools, kinds: Kinds) -> list[Value]:
    """As JSON has them: what is not `finite` by its name, and null for what is missing."""
    with np.errstate(all="ignore"):
        large = np.where(finite, np.abs(values), 1.0).astype(np.float64)
        digits = _DIGITS - 1 - np.floor(np.log10(np.where(large > 0, large, 1.0)))
        scale = np.power(10.0, digits)
        exact = np.where(finite, values, 0.0).astype(np.float64)
        found: list[Value] = (np.round(exact * scale) / scale).tolist()
    for at in np.flatnonzero(~finite).tolist():
        found[at] = _NAMES.get(int(kinds[at]), "NaN")
    return found


_NAMES: dict[int, Value] = {0: None, int(IS_HIGH): "Infinity", int(IS_LOW): "-Infinity"}


def _around(
    look: Look, sheet: str, members: Sequence[Wanted], within: Span, starts: Steps, bands: bool
) -> dict[Wanted, tuple[Band | None, Forecast | None]]:
    """The band of each, and the forecast of those that can run out."""
    found: dict[Wanted, tuple[Band | None, Forecast | None]] = dict.fromkeys(members, (None, None))
    newest = within.last == look.extent.last
    limited = [one for one in members if newest and one.signal in LIMITS]
    if not bands and not limited:
        return found
    begin = (within.first if bands else within.last) - BACK
    names = _names(members) + [LIMITS[one.signal] for one in limited]
    steps, values = look.exact(sheet, names, max(0, begin), within.last, _EXACT)
    for at, one in enumerate(members):
        normal = goes = None
        if bands:
            low, high = band(steps, values[:, at], starts)
            if one.signal not in MAY_BE_NEGATIVE:
                low = np.maximum(low, 0.0)
            normal = Band(low=plain(low), high=plain(high))
        if one in limited:
            limits = values[:, len(members) + limited.index(one)]
            known = limits[np.isfinite(limits)]
            if len(known):
                goes = forecast(steps, values[:, at], float(known[-1]))
        found[one] = normal, goes
    return found


def plain(values: Floats) -> list[float | None]:
    """Numbers, null for NaN."""
    finite = np.isfinite(values)
    return numbers(values, finite, np.zeros(len(values), np.uint8))  # type: ignore[return-value]


def heatmap(
    look: Look, run: str, signal: str, of_ranks: bool, within: Span, max_rows: int
) -> HeatmapJSON:
    """A signal by its labels, or by ranks; of too many rows those with the greatest values."""
    sheet = by_rank(signal) if of_ranks else signal
    names = [one.name for one in look.columns() if one.sheet == sheet]
    if of_ranks:
        names.sort(key=int)
    bins, length = look.bins(sheet, names, within.first, within.last, within.length)
    bins, length = _without_holes(bins, max(length, within.length))
    kept = _most(bins, max_rows)
    finite = bins.count > 0
    return HeatmapJSON(
        run=run,
        signal=signal,
        unit=CATALOG[signal].unit,
        rows=[names[at] for at in kept],
        dropped_rows=len(names) - len(kept),
        bin=length,
        steps=bins.starts.tolist(),
        values=[numbers(bins.high[:, at], finite[:, at], bins.kinds[:, at]) for at in kept],
        nonfinite=[bins.odd[:, at].tolist() for at in kept],
    )


def _without_holes(bins: Bins, length: int) -> tuple[Bins, int]:
    """In stretches so long that most have a value, of what is not measured at every step."""
    bins = bins.merged(length)
    while len(bins) > 2 and np.median(np.diff(bins.starts // length)) > 1:
        length *= 2
        bins = bins.merged(length)
    return bins, length


def _most(bins: Bins, max_rows: int) -> list[int]:
    """The rows to be shown, in their order."""
    rows = bins.low.shape[1]
    if rows <= max_rows:
        return list(range(rows))
    if not len(bins):
        return list(range(max_rows))
    odd, high = bins.odd.sum(axis=0) > 0, bins.high.max(axis=0)
    order = np.lexsort((-high, ~odd))
    return sorted(order[:max_rows].tolist())
