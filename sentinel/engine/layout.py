"""What the values of ranks' frames are, and where in them to find what rules ask for."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.derived import DERIVED, sources
from sentinel.engine.evaluation.scalar import key
from sentinel.engine.language.expression import RANK_AXIS, Reading
from sentinel.signals import CATALOG, Reduction
from sentinel.wire import Frame, Series

_FLOAT = struct.Struct("<d")
_unpack = _FLOAT.unpack_from
_MAX_WANTED = 8  # of which a layout keeps the places
_FEW = 64  # values of a frame that are unpacked all at once
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


class Wanted:
    """What rules ask of each step as plain floats: signals without labels, and single elements.

    `own` are readings of one rank's values, `reduced` those over ranks; `derived` are of signals
    that follow from others, `norms` those that a rank may have only a part of; it `is_plain` where
    there are neither.
    """

    def __init__(self, readings: Iterable[Reading] = ()) -> None:
        found = dict.fromkeys(readings)
        self.derived = [(key(one), one) for one in found if one.signal in DERIVED]
        measured = [(key(one), one) for one in found if one.signal not in DERIVED]
        self.own = [(name, _series(one)) for name, one in measured if one.by_rank]
        self.reduced = [(name, _series(one)) for name, one in measured if not one.by_rank]
        self.norms = [(name, one) for name, one in self.reduced if is_norm(one.signal)]
        self.is_plain = not (self.norms or self.derived)


def _series(reading: Reading) -> Series:
    return Series(reading.signal, reading.label or "")


def is_norm(signal: str) -> bool:
    """Whether ranks send the squares of their parts, of which the root of the sum is taken."""
    return CATALOG[signal].reduction is Reduction.ROOT_SUM


class _Whole(NamedTuple):
    """How to take values out of a frame that lacks none, all at once."""

    names: tuple[str, ...]
    pick: Callable[[tuple[float, ...]], tuple[float, ...]]
    finish: list[tuple[str, Callable[[float], float]]]


class _Place(NamedTuple):
    """Where a frame has a value: its offset in `values`, its byte and bit in `missing`."""

    name: str
    offset: int
    byte: int
    bit: int
    finish: Callable[[float], float] | None  # of a value that is alone


def _root(value: float) -> float:
    return math.sqrt(value + 0.0) if value >= 0 else math.nan


_sum = partial(operator.add, 0.0)  # as sums begin with 0, of which none ends with -0

_FINISH: Mapping[Reduction, Callable[[float], float] | None] = {
    Reduction.MEAN: _sum,
    Reduction.SUM: _sum,
    Reduction.MAX: None,
    Reduction.ROOT_SUM: _root,
}


@dataclass(frozen=True, eq=False)
class Layout:
    """What the values of a rank's frames are: one for all ranks that announce the same series.

    Value `positions[i]` belongs to column `columns[i]`; other values are of signals that this
    version does not know.
    """

    series: tuple[Series, ...] = ()
    positions: NDArray[np.intp] = field(default_factory=lambda: _NONE)
    columns: NDArray[np.intp] = field(default_factory=lambda: _NONE)
    _places: dict[Wanted, tuple[list[_Place], _Whole | None]] = field(default_factory=dict)

    @cached_property
    def signals(self) -> frozenset[str]:
        """The signals that are announced, and known here."""
        return frozenset(self.series[at].signal for at in self.positions)

    @cached_property
    def plain(self) -> NDArray[np.intp]:
        """Where in `columns` the signals without a label are of which no rank has only a part."""
        plain = [not self.series[at].label and not is_norm(self.series[at].signal)
                 for at in self.positions.tolist()]  # fmt: skip
        return np.flatnonzero(plain)

    @cached_property
    def at(self) -> Mapping[Series, int]:
        """The position of each series that is known here."""
        return {self.series[at]: at for at in self.positions.tolist()}

    @cached_property
    def size(self) -> int:
        """How many bytes the values of a frame have."""
        return _FLOAT.size * len(self.series)

    def fits(self, frame: Frame) -> bool:
        """Whether the frame has as many values as were announced."""
        return len(frame.values) == self.size and 8 * len(frame.missing) < len(self.series) + 8

    def width(self, frame: Frame) -> int:
        """How many values the frame has: those announced by now, or by then; -1 if malformed."""
        count, rest = divmod(len(frame.values), _FLOAT.size)
        whole = not rest and len(frame.missing) <= (count + 7) // 8
        return count if whole and count <= len(self.series) else -1

    def row(self, frame: Frame, wanted: Wanted) -> dict[str, float]:
        """What was measured of what is wanted, over ranks as if this one were alone."""
        places, whole = self._places.get(wanted) or self._find(wanted)
        values, missing = frame.values, frame.missing
        if whole is not None and not missing:
            found = dict(zip(whole.names, whole.pick(self._unpack(values)), strict=True))
            for name, finish in whole.finish:
                found[name] = finish(found[name])
            return found
        found = {}
        for name, offset, byte, bit, last in places:
            if missing and byte < len(missing) and missing[byte] & bit:
                continue
            (value,) = _unpack(values, offset)
            found[name] = value if last is None else last(value)
        return found

    def reduced(self, frame: Frame, series: Series) -> float | None:
        """One value as if this rank were alone, None if it was not measured."""
        if series not in self.at:
            return None
        _, offset, byte, bit, finish = self._place("", series)
        if byte < len(frame.missing) and frame.missing[byte] & bit:
            return None
        (value,) = _unpack(frame.values, offset)
        return float(value) if finish is None else finish(value)

    @cached_property
    def _unpack(self) -> Callable[[bytes], tuple[float, ...]]:
        return struct.Struct(f"<{len(self.series)}d").unpack

    def _find(self, wanted: Wanted) -> tuple[list[_Place], _Whole | None]:
        if len(self._places) >= _MAX_WANTED:
            self._places.clear()
        own = [self._place(name, one) for name, one in wanted.own if one in self.at]
        reduced = [self._place(name, one) for name, one in wanted.reduced if one in self.at]
        places = [place._replace(finish=None) for place in own] + reduced
        whole = None
        if len(self.series) <= _FEW and len(places) > 1:  # of one, no tuple is picked
            whole = _Whole(
                tuple(one.name for one in places),
                operator.itemgetter(*(one.offset // _FLOAT.size for one in places)),
                [(one.name, one.finish) for one in places if one.finish is not None],
            )
        self._places[wanted] = places, whole
        return places, whole

    def _place(self, name: str, series: Series) -> _Place:
        at = self.at[series]
        finish = _FINISH[CATALOG[series.signal].reduction]
        return _Place(name, _FLOAT.size * at, at >> 3, 1 << (at & 7), finish)


class Columns:
    """All series of a run that the catalog knows: one column each, whoever announces it."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.axes: dict[str, Axis] = {RANK_AXIS: Axis()}
        self.of_signal: dict[str, list[tuple[int, int]]] = {}  # (column, index along its axis)
        self._index: dict[Series, int] = {}
        self._kinds: dict[Reduction, NDArray[np.intp]] = {}
        self._places: dict[str, tuple[NDArray[np.intp], NDArray[np.intp] | None]] = {}
        self._tables: dict[str, tuple[Sequence[str], Sequence[str], NDArray[np.intp]]] = {}
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
        return Layout(series, positions, columns)

    def layout_of(self, frame: Frame, layout: Layout) -> Layout | None:
        """What the values are of a frame of this layout, or of one from before its last extension.

        None if it is of neither.
        """
        if layout.fits(frame):
            return layout
        width = layout.width(frame)
        return None if width < 1 else self.layout(layout.series[:width])

    def find(self, series: Series) -> int | None:
        """The column of a series, if any rank has announced it."""
        return self._index.get(series)

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
        self._tables.clear()
        self._places.pop(signal.name, None)
        return column

    def places(self, signal: str) -> tuple[NDArray[np.intp], NDArray[np.intp] | None]:
        """The columns of a signal, and the index of each along its axis; None: 0, 1, 2 ..."""
        if signal not in self._places:
            known = np.array(self.of_signal.get(signal, []), np.intp).reshape(-1, 2)
            columns, along = known.T.copy()
            in_order = bool((along == np.arange(len(along))).all())
            self._places[signal] = columns, None if in_order else along
        return self._places[signal]

    def with_label(self, label: str) -> Sequence[str]:
        """The signals with this label of which any rank has announced all that they are made of."""
        return self._table(label)[0]

    def table(self, label: str) -> tuple[Sequence[str], NDArray[np.intp]]:
        """The signals that ranks measure with this label, and a line of columns for each.

        Along the lines are the label's values; -1 where nobody has announced one.
        """
        return self._table(label)[1:]

    def _table(self, label: str) -> tuple[Sequence[str], Sequence[str], NDArray[np.intp]]:
        if label not in self._tables:
            known = self.of_signal.keys()
            names = [one.name for one in CATALOG.values() if one.label == label]
            own = [name for name in names if name in known]
            columns = np.full((len(own), len(self.axes[label].labels)), -1, np.intp)
            for line, name in enumerate(own):
                for column, along in self.of_signal[name]:
                    columns[line, along] = column
            names = [name for name in names if sources(name) <= known]
            self._tables[label] = names, own, columns
        return self._tables[label]

    def knows(self, reading: Reading) -> bool:
        """Whether any rank has announced all that the reading is made of."""
        if reading.label is None:
            return all(signal in self.of_signal for signal in sources(reading.signal))
        return all(Series(one, reading.label) in self._index for one in sources(reading.signal))

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
