"""Gather the frames of one step from all ranks, and reduce them over ranks.

Frames wait as the bytes they came in; only when a step is judged are those of equal layout joined
into one array, so that the arrival of a frame costs next to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.derived import DERIVED, derive
from sentinel.engine.expression import RANK_AXIS, Reading
from sentinel.engine.values import Values
from sentinel.engine.window import Bools, Floats
from sentinel.signals import CATALOG, Reduction
from sentinel.wire import Frame, Series

_FLOAT = struct.Struct("<d")
MAX_COLUMNS = 1 << 18
_NONE: NDArray[np.intp] = np.zeros(0, np.intp)


class Axis:
    """The values of one label, in the order in which they became known."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self._index: dict[str, int] = {}

    def add(self, label: str) -> int:
        """The index of a label, new or not."""
        index = self._index.setdefault(label, len(self.labels))
        if index == len(self.labels):
            self.labels.append(label)
        return index

    def find(self, label: str) -> int | None:
        """The index of a label, if it is known."""
        return self._index.get(label)


@dataclass(frozen=True, eq=False)
class Layout:
    """What the values of a rank's frames are: one for all ranks that announce the same series.

    Value `positions[i]` belongs to column `columns[i]`; other values are of signals that this
    version does not know. `plain` are the positions of signals without a label.
    """

    series: tuple[Series, ...] = ()
    positions: NDArray[np.intp] = field(default_factory=lambda: _NONE)
    columns: NDArray[np.intp] = field(default_factory=lambda: _NONE)
    plain: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def signals(self) -> frozenset[str]:
        """The signals that are announced, and known here."""
        return frozenset(self.series[at].signal for at in self.positions)

    def fits(self, frame: Frame) -> bool:
        """Whether the frame has as many values as were announced."""
        return self.width(frame) == len(self.series)

    def width(self, frame: Frame) -> int:
        """How many values the frame has: those announced by now, or by then; -1 if malformed."""
        count, rest = divmod(len(frame.values), _FLOAT.size)
        whole = not rest and len(frame.missing) <= (count + 7) // 8
        return count if whole and count <= len(self.series) else -1

    def row(self, frame: Frame, signals: Iterable[str]) -> dict[str, float]:
        """The measured values of these signals without a label."""
        found = {}
        missing = frame.missing
        for signal in signals:
            at = self.plain.get(signal)
            if at is None or (at >> 3 < len(missing) and missing[at >> 3] >> (at & 7) & 1):
                continue
            (found[signal],) = _FLOAT.unpack_from(frame.values, _FLOAT.size * at)
        return found


class Columns:
    """All series of a run that the catalog knows: one column each, whoever announces it."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.axes: dict[str, Axis] = {RANK_AXIS: Axis()}
        self.of_signal: dict[str, list[tuple[int, int]]] = {}  # (column, index along its axis)
        self._index: dict[Series, int] = {}
        self._kinds: dict[Reduction, NDArray[np.intp]] = {}
        self._layouts: WeakValueDictionary[tuple[Series, ...], Layout] = WeakValueDictionary()

    def layout(self, series: tuple[Series, ...]) -> Layout:
        """The layout of frames that carry these series; the same object while it is in use."""
        layout = self._layouts.get(series)
        if layout is None:
            layout = self._layouts[series] = self._lay_out(series)
        return layout

    def _lay_out(self, series: tuple[Series, ...]) -> Layout:
        placed = [(at, self._column(one)) for at, one in enumerate(series)]
        known = [(at, column) for at, column in placed if column is not None]
        positions, columns = np.array(known, np.intp).reshape(-1, 2).T.copy()
        plain = {series[at].signal: at for at, _ in known if not CATALOG[series[at].signal].label}
        return Layout(series, positions, columns, plain)

    def _column(self, series: Series) -> int | None:
        signal = CATALOG.get(series.signal)
        if signal is None or signal.made_by != "rank" or bool(signal.label) != bool(series.label):
            return None
        known = self._index.get(series)
        if known is not None or len(self.series) == MAX_COLUMNS:
            return known
        column = self._index[series] = len(self.series)
        along = self.axes.setdefault(signal.label, Axis()).add(series.label) if signal.label else 0
        self.of_signal.setdefault(signal.name, []).append((column, along))
        self.series.append(series)
        self._kinds.clear()
        return column

    def reduced_by(self, reduction: Reduction) -> NDArray[np.intp]:
        """The columns with this reduction."""
        if reduction not in self._kinds:
            kinds = (CATALOG[one.signal].reduction for one in self.series)
            self._kinds[reduction] = np.array(
                [column for column, kind in enumerate(kinds) if kind is reduction], np.intp
            )
        return self._kinds[reduction]

    def __len__(self) -> int:
        return len(self.series)


@dataclass
class OpenStep:
    """The frames of a step that have come in, by the rank's slot, and when the first did."""

    since: float
    frames: dict[int, tuple[Layout, Frame]] = field(default_factory=dict)
    size: int = 0  # bytes

    def add(self, slot: int, layout: Layout, frame: Frame) -> None:
        """Take in a rank's frame."""
        self.frames[slot] = (layout, frame)
        self.size += len(frame.values)


@dataclass(frozen=True, eq=False)
class Block:
    """The frames of all ranks of one layout: `values[i]` is the one in `slots[i]`."""

    layout: Layout
    slots: NDArray[np.intp]
    values: Floats
    measured: Bools | None  # None: all

    @classmethod
    def join(cls, layout: Layout, frames: Sequence[tuple[int, Frame]]) -> Block:
        """One array from the frames of the slots."""
        count, width = len(frames), len(layout.series)
        slots = np.array([slot for slot, _ in frames], np.intp)
        values = np.frombuffer(b"".join(frame.values for _, frame in frames), "<f8")
        values = values.reshape(count, width)
        measured = None
        if any(frame.missing for _, frame in frames):
            size = (width + 7) // 8
            packed = b"".join(frame.missing.ljust(size, b"\0") for _, frame in frames)
            bits = np.unpackbits(
                np.frombuffer(packed, np.uint8).reshape(count, size), axis=1, bitorder="little"
            )
            measured = bits[:, layout.positions] == 0
        if len(layout.positions) != width:
            values = values[:, layout.positions]
        return cls(layout, slots, values, measured)


class JudgedStep:
    """What a step was, over all ranks: the source that rules of steps are evaluated on.

    `announced[column]` is how many ranks measure a series; a 2-norm from which one of them, or a
    rank that never spoke (`absent`), is lacking would be a wrong number, and is missing.
    """

    def __init__(
        self,
        columns: Columns,
        frames: Mapping[int, tuple[Layout, Frame]],
        announced: NDArray[np.intp],
        absent: int,
    ) -> None:
        self._columns = columns
        by_layout: dict[Layout, list[tuple[int, Frame]]] = {}
        for slot in sorted(frames):
            layout, frame = frames[slot]
            by_layout.setdefault(layout, []).append((slot, frame))
        self._blocks = [Block.join(layout, rows) for layout, rows in by_layout.items()]
        with np.errstate(all="ignore"):
            self.values, self.missing = self._reduce(announced, absent)

    def _reduce(self, announced: NDArray[np.intp], absent: int) -> tuple[Floats, Bools]:
        total = np.zeros(len(self._columns))
        highest = np.full(len(self._columns), -np.inf)
        count = np.zeros(len(self._columns), np.intp)
        for block in self._blocks:
            at = block.layout.columns
            low = top = block.values
            if block.measured is None:
                count[at] += len(block.slots)
            else:
                count[at] += block.measured.sum(axis=0)
                low = np.where(block.measured, block.values, 0.0)
                top = np.where(block.measured, block.values, -np.inf)
            total[at] += low.sum(axis=0)
            highest[at] = np.maximum(highest[at], top.max(axis=0))
        missing = count == 0
        by_mean = self._columns.reduced_by(Reduction.MEAN)
        by_max = self._columns.reduced_by(Reduction.MAX)
        by_root = self._columns.reduced_by(Reduction.ROOT_SUM)
        total[by_mean] /= count[by_mean]
        total[by_max] = highest[by_max]
        total[by_root] = np.sqrt(total[by_root])
        missing[by_root] |= (count[by_root] < announced[by_root]) | (absent > 0)
        return total, missing

    def read(self, reading: Reading) -> Values:
        """The elements of a signal at this step."""
        label = CATALOG[reading.signal].label
        if reading.label is not None:
            axis = self._columns.axes.get(label)
            whole = self.read(replace(reading, label=None))
            return whole.of_label(axis.find(reading.label) if axis else None)
        if reading.signal in DERIVED:
            return derive(reading, self.read)
        places = self._columns.of_signal.get(reading.signal, [])
        if reading.by_rank:
            return self._by_rank(label, places)
        if not label:
            column = places[0][0] if places else None
            if column is None:
                return Values(np.asarray(np.nan), np.asarray(True))
            return Values(self.values[column], self.missing[column])
        size = self._size(label)
        values, missing = np.full(size, np.nan), np.ones(size, bool)
        for_columns, along = np.array(places, np.intp).reshape(-1, 2).T
        values[along] = self.values[for_columns]
        missing[along] = self.missing[for_columns]
        return Values(values, missing)

    def _by_rank(self, label: str, places: list[tuple[int, int]]) -> Values:
        shape = (self._size(label) if label else 1, self._size(RANK_AXIS))
        values, missing = np.full(shape, np.nan), np.ones(shape, bool)
        along = np.full(len(self._columns), -1, np.intp)
        for column, index in places:
            along[column] = index
        for block in self._blocks:
            rows = along[block.layout.columns]
            mine = np.flatnonzero(rows >= 0)
            cells = np.ix_(rows[mine], block.slots)
            values[cells] = block.values[:, mine].T
            missing[cells] = False if block.measured is None else ~block.measured[:, mine].T
        return Values(values, missing) if label else Values(values[0], missing[0])

    def _size(self, axis: str) -> int:
        found = self._columns.axes.get(axis)
        return len(found.labels) if found else 0

    @cached_property
    def reduced(self) -> Mapping[Series, float]:
        """The value of every series that was measured, over all ranks."""
        series = self._columns.series
        found = {series[at]: float(self.values[at]) for at in np.flatnonzero(~self.missing)}
        for signal in sorted(DERIVED):
            values, missing = self.read(Reading(signal))
            label = CATALOG[signal].label
            labels = self._columns.axes[label].labels if label and values.size else [""]
            known = np.flatnonzero(~missing)
            found |= {Series(signal, labels[at]): float(values.flat[at]) for at in known}
        return found
