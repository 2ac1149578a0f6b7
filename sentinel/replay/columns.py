"""Which columns of a log are kept, as which series; cells to rows.

The first row that has a value for a series decides which column is read for it, and a column that
comes earlier in its list (see names) takes over when it first has a value: so a trainer's closing
`train_loss` never mixes with the `loss` of its steps.

Consecutive rows of one step that have no series in common are one row. A row without a step
belongs to the last step, or to the one after where the last has such values already; where no row
has a step, rows are counted from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from sentinel.replay.names import (
    EPOCH,
    HOST_AVAILABLE,
    STEP,
    TIME,
    Meaning,
    chosen,
    meaning,
    plain,
)
from sentinel.replay.row import Row, RowError, number, shown, step_number
from sentinel.replay.share import USED_AND_LIMIT, Share
from sentinel.wire import Series

_FLOAT = frozenset({float})
_MAX_LAYOUTS = 64
_MAX_SHOWN = 20  # names in an error
_AXES = frozenset({STEP, TIME, EPOCH})


@dataclass
class _Candidate:
    """One column that could be read for a series."""

    position: int
    name: str
    meaning: Meaning


@dataclass
class _Layout:
    """Where in rows with these columns the values stand."""

    taken: list[tuple[int, int, float]] = field(default_factory=list)  # position, slot, scale
    pick: Callable[[Sequence[object]], tuple[float, ...]] | None = None  # all that are taken
    shares: list[tuple[int, int, int, Share]] = field(default_factory=list)
    open: list[_Candidate] = field(default_factory=list)
    axes: list[_Candidate] = field(default_factory=list)  # of step and time, still open
    step: int = -1
    time: int = -1
    epoch: int = -1


class Columns:
    """Makes rows of cells. Used for one log, once."""

    def __init__(self, columns: Mapping[str, str], notes: list[str]) -> None:
        self._chosen = chosen(columns)
        self._reserved = {plain(name) for name in self._chosen.values()}
        self.series: tuple[Series, ...] = ()
        self.notes = notes
        self._slots: dict[Series, int] = {}
        self._claims: dict[Series, tuple[int, str]] = {}  # rank and plain name of what is read
        self._shares: dict[Series, Share] = {}
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._seen: dict[str, None] = {}  # names met so far, as many as an error shows
        self._found: set[Series] = set()  # of what was chosen
        self._held: Row | None = None
        self._counts = False  # whether a row had no step
        self._epoch: int | None = None  # the last one
        self._use_epoch = True
        self._last_epoch: object = None  # as it stands in the log
        self._offset = 0  # added to steps that begin anew in each epoch

    def knows(self, names: Iterable[str]) -> bool:
        """Whether any of these columns would be read."""
        return any(self._meanings(name) for name in names)

    def read(self, names: tuple[str, ...], cells: Sequence[object]) -> Row | None:
        """Take in a row; the one before it, if that is whole by now.

        Raises `RowError` where a cell is not what its column means.
        """
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._lay_out(names)
        if layout.open and self._claim(layout.open, cells):
            layout = self._lay_out(names)
        values: tuple[float | None, ...] | None
        values = None if layout.pick is None else layout.pick(cells)
        if values is None or not _FLOAT.issuperset(map(type, values)):
            values = self._values(names, layout, cells)
            if values.count(None) == len(values):
                return None
        if layout.axes and self._claim(layout.axes, cells):
            layout = self._lay_out(names)
        at = layout.step
        step = step_number(cells[at]) if at >= 0 else self._epoch_of(layout, cells)
        if at >= 0 and layout.epoch >= 0 and step is not None:
            step = self._over_epochs(step, cells[layout.epoch])
        time = None if layout.time < 0 else _time(cells[layout.time])
        held = self._held
        if held is None or step is None or step == held.step:
            return self._join(held, step, values, time)
        self._held = Row(step, values, time)
        return held

    def _values(
        self, names: tuple[str, ...], layout: _Layout, cells: Sequence[object]
    ) -> tuple[float | None, ...]:
        """The values of a row, one by one."""
        values: list[float | None] = [None] * len(self.series)
        for position, slot, scale in layout.taken:
            value = cells[position]
            if type(value) is not float:
                value = number(value, names[position])
            values[slot] = value if scale == 1.0 or value is None else value * scale
        if layout.shares:
            self._read_shares(names, layout, cells, values)
        return tuple(values)

    def end(self) -> Row | None:
        """The last row. Raises `RowError` where nothing was there to read."""
        names = ", ".join(shown(name) for name in self._seen)
        for series, column in self._chosen.items():
            if series not in self._found:
                what = ".".join(filter(None, (series.signal, series.label)))
                raise RowError(f"no column {shown(column)} for {what}: there are {names or 'none'}")
        if not self.series:
            raise RowError(
                "no values of a known name: expected loss, grad_norm, lr or the like;"
                f" there are {names or 'none'}; --column loss=NAME says which it is"
            )
        held, self._held = self._held, None
        return held

    def chose(self, name: str) -> bool:
        """Whether this column was asked for by name."""
        return plain(name) in self._reserved

    # How it is done.

    def _meanings(self, name: str) -> list[Meaning]:
        bare = plain(name)
        if bare in self._reserved:
            return [
                Meaning(series, -2 if column == name else -1)
                for series, column in self._chosen.items()
                if plain(column) == bare
            ]
        known = meaning(name)
        return [] if known is None or known.series in self._chosen else [known]

    def _lay_out(self, names: tuple[str, ...]) -> _Layout:
        """Where the values of these columns stand, as far as it is decided."""
        candidates: dict[Series, list[_Candidate]] = {}
        for position, name in enumerate(names):
            for one in self._meanings(name):
                candidates.setdefault(one.series, []).append(_Candidate(position, name, one))
            if len(self._seen) < _MAX_SHOWN:
                self._seen[name[:64]] = None
        self._found |= self._chosen.keys() & candidates.keys()
        layout = _Layout()
        for series, ones in candidates.items():
            ones.sort(key=lambda one: (one.meaning.rank, one.position))
            self._place(layout, series, ones, names)
        layout.pick = _picking(layout, len(self.series))
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[names] = layout
        return layout

    def _place(
        self, layout: _Layout, series: Series, ones: list[_Candidate], names: tuple[str, ...]
    ) -> None:
        """Add to the layout what is read for a series and what may come to be."""
        if series == HOST_AVAILABLE:
            return
        if series == EPOCH:
            layout.epoch = ones[0].position
            return
        rank, name = self._claims.get(series, (1 << 30, ""))
        still_open = [one for one in ones if one.meaning.rank < rank]
        (layout.axes if series in _AXES else layout.open).extend(still_open)
        read = next((one for one in ones if plain(one.name) == name), None)
        if read is None:
            return
        if series == STEP:
            layout.step = read.position
        elif series == TIME:
            layout.time = read.position
        elif series in USED_AND_LIMIT:
            slot = self._slots[USED_AND_LIMIT[series][0]]
            other = _companion(read, names)
            layout.shares.append((read.position, other, slot, self._shares[series]))
        else:
            layout.taken.append((read.position, self._slots[series], read.meaning.scale))

    def _claim(self, candidates: list[_Candidate], cells: Sequence[object]) -> bool:
        """Let the columns that first have a value here be read for their series."""
        claimed: set[Series] = set()
        for one in candidates:
            series = one.meaning.series
            if series in claimed or not _has_value(series, cells[one.position], one.name):
                continue
            becomes = USED_AND_LIMIT.get(series, () if series in _AXES else (series,))
            if series in USED_AND_LIMIT and series not in self._claims:
                if any(part in self._slots for part in becomes):
                    continue  # the log has the bytes themselves
                self._shares[series] = Share(series)
            claimed.add(series)
            self._claims[series] = (one.meaning.rank, plain(one.name))
            for part in becomes:
                if part not in self._slots:
                    self._slots[part] = len(self.series)
                    self.series += (part,)
        if claimed:
            self._layouts.clear()
        return bool(claimed)

    def _read_shares(
        self,
        names: tuple[str, ...],
        layout: _Layout,
        cells: Sequence[object],
        values: list[float | None],
    ) -> None:
        for position, other, slot, share in layout.shares:
            percent = number(cells[position], names[position])
            if percent is not None:
                also = number(cells[other], names[other]) if other >= 0 else None
                values[slot], values[slot + 1] = share.in_bytes(percent, also)

    def _epoch_of(self, layout: _Layout, cells: Sequence[object]) -> int | None:
        """The epoch, while it can stand for a step: whole numbers that differ from row to row."""
        if layout.epoch < 0 or not self._use_epoch or STEP in self._claims:
            return None
        epoch = number(cells[layout.epoch], "epoch")
        whole = int(epoch) if epoch is not None and epoch.is_integer() else None
        if whole is None or whole == self._epoch:
            self._use_epoch = False
            return None
        self._epoch = whole
        return step_number(whole)

    def _over_epochs(self, step: int, epoch: object) -> int:
        """The step, counted on where it begins anew because a new epoch does: that is no rewind."""
        before, self._last_epoch = self._last_epoch, epoch
        held = self._held
        if held is not None and step + self._offset <= held.step:
            old, new = number(before, "epoch"), number(epoch, "epoch")
            if old is not None and new is not None and new - old >= 1:
                if not self._offset:
                    self.notes.append("steps begin anew in each epoch: they are counted on")
                self._offset = held.step + 1 - step
        return step + self._offset

    def _join(
        self,
        held: Row | None,
        step: int | None,
        values: tuple[float | None, ...],
        time: float | None,
    ) -> Row | None:
        """Join the row with the one before it if it may belong to its step; else take its place."""
        if step is None and not self._counts:
            self._counts = True
            self.notes.append("not every row has a step: those without are counted on")
        if held is None:
            self._held = Row(1 if step is None else step, values, time)
            return None
        if _overlap(held.values, values):
            self._held = Row(held.step + 1 if step is None else step, values, time)
            return held
        merged = _merge(held.values, values)
        self._held = Row(held.step, merged, held.time if time is None else time)
        return None


def _picking(layout: _Layout, width: int) -> Callable[[Sequence[object]], tuple[float, ...]] | None:
    """What takes all values of a row at once, if they are all there and nothing is to be done."""
    places = sorted((slot, position) for position, slot, scale in layout.taken if scale == 1.0)
    whole = [slot for slot, _ in places] == list(range(width)) and len(places) > 1
    return itemgetter(*(position for _, position in places)) if whole else None


def _has_value(series: Series, cell: object, name: str) -> bool:
    if series == STEP:
        return step_number(cell) is not None
    if series == TIME:
        return _time(cell) is not None
    return number(cell, name) is not None


def _time(cell: object) -> float | None:
    """Seconds; other tools put other things under such names, which are passed over."""
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        return None
    try:
        time = float(cell)
    except (ValueError, OverflowError):
        return None
    return time if math.isfinite(time) and time >= 0 else None


def _companion(percent: _Candidate, names: tuple[str, ...]) -> int:
    """The column from which the limit follows: MiB available, or bytes of the same device."""
    in_bytes = plain(percent.name) + "bytes"
    for position, name in enumerate(names):
        known = meaning(name)
        if plain(name) == in_bytes or (
            "gpu" not in in_bytes and known is not None and known.series == HOST_AVAILABLE
        ):
            return position
    return -1


def _overlap(first: Sequence[float | None], second: Sequence[float | None]) -> bool:
    return any(
        one is not None and other is not None for one, other in zip(first, second, strict=False)
    )


def _merge(
    first: tuple[float | None, ...], second: tuple[float | None, ...]
) -> tuple[float | None, ...]:
    """Both rows' values; the second is as long as the first, or longer."""
    padded = first + (None,) * (len(second) - len(first))
    return tuple(one if other is None else other for one, other in zip(padded, second, strict=True))
