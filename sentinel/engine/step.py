"""Gather the frames of one step from all ranks, and reduce them over ranks.

Frames wait as the bytes they came in; only when a step is judged are those of equal layout joined
into one array, so that the arrival of a frame costs next to nothing. Of a frame that is alone in
its step, the few numbers that rules ask for are taken out of the bytes as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.derived import DERIVED, derive
from sentinel.engine.evaluation.values import Values
from sentinel.engine.language.expression import RANK_AXIS, Reading
from sentinel.engine.layout import Columns, Layout, Wanted, is_norm
from sentinel.engine.window import Bools, Floats
from sentinel.signals import CATALOG, Reduction
from sentinel.wire import Frame, Series

Frames = Mapping[int, tuple[Layout, Frame]]  # by the rank's slot
Told = tuple[Wanted, dict[str, float]]  # what was wanted of a frame, and what it had of that


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
        frames: Frames,
        announced: NDArray[np.intp],
        absent: int,
        told: Told | None = None,
    ) -> None:
        self._told = told  # of a frame that is alone, if it is known by now
        self.columns = columns
        self._frames = frames
        self._announced = announced
        self._absent = absent

    @cached_property
    def blocks(self) -> list[Block]:
        """The frames, those of each layout together."""
        by_layout: dict[Layout, list[tuple[int, Frame]]] = {}
        for slot in sorted(self._frames):
            layout, frame = self._frames[slot]
            by_layout.setdefault(layout, []).append((slot, frame))
        return [Block.join(layout, rows) for layout, rows in by_layout.items()]

    @property
    def arrays(self) -> Values:
        """The values of all columns over all ranks, and which are missing. Not to be changed."""
        return Values(*self._arrays)

    @property
    def _arrays(self) -> tuple[Floats, Bools]:
        """Of all columns, the values over all ranks, and which are missing."""
        values, missing = self._all_reduced
        if (more := len(self.columns) - len(values)) > 0:  # announced since: not measured here
            values = np.pad(values, (0, more), constant_values=np.nan)
            missing = np.pad(missing, (0, more), constant_values=True)
        return values, missing

    @cached_property
    def _all_reduced(self) -> tuple[Floats, Bools]:
        announced = self._announced
        if (more := len(self.columns) - len(announced)) > 0:
            announced = np.pad(announced, (0, more))
        with np.errstate(all="ignore"):
            return self._reduce(announced, self._absent)

    def _reduce(self, announced: NDArray[np.intp], absent: int) -> tuple[Floats, Bools]:
        total = np.zeros(len(self.columns))
        highest = np.full(len(self.columns), -np.inf)
        count = np.zeros(len(self.columns), np.intp)
        for block in self.blocks:
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
        by_mean = self.columns.reduced_by(Reduction.MEAN)
        by_max = self.columns.reduced_by(Reduction.MAX)
        by_root = self.columns.reduced_by(Reduction.ROOT_SUM)
        total[by_mean] /= count[by_mean]
        total[by_max] = highest[by_max]
        total[by_root] = np.sqrt(total[by_root])
        missing[by_root] |= (count[by_root] < announced[by_root]) | (absent > 0)
        return total, missing

    @property
    def lacks(self) -> bytes:
        """What is missing from the frame of one of the ranks: see `Frame.missing`."""
        _, frame = next(iter(self._frames.values()))
        return frame.missing

    def read(self, reading: Reading) -> Values:
        """The elements of a signal at this step."""
        label = CATALOG[reading.signal].label
        if reading.label is not None:
            axis = self.columns.axes.get(label)
            whole = self.read(replace(reading, label=None))
            return whole.of_label(axis.find(reading.label) if axis else None)
        if reading.signal in DERIVED:
            return derive(reading, self.read)
        if reading.by_rank:
            return self._by_rank(reading.signal, label)
        all_values, all_missing = self._arrays
        if not label:
            column = self.columns.find(Series(reading.signal))
            if column is None:
                return Values(np.asarray(np.nan), np.asarray(True))
            return Values(all_values[column], all_missing[column])
        size = self._size(label)
        for_columns, along = self.columns.places(reading.signal)
        if along is None and len(for_columns) == size:
            return Values(all_values[for_columns], all_missing[for_columns])
        values, missing = np.full(size, np.nan), np.ones(size, bool)
        along = np.arange(len(for_columns)) if along is None else along
        values[along] = all_values[for_columns]
        missing[along] = all_missing[for_columns]
        return Values(values, missing)

    def table(self, label: str) -> tuple[Sequence[str], Values]:
        """The signals that ranks measure with this label, and a line of elements for each."""
        names, columns = self.columns.table(label)
        values, missing = self._arrays
        return names, Values(values[columns], missing[columns] | (columns < 0))

    def _by_rank(self, signal: str, label: str) -> Values:
        along = np.full(len(self.columns), -1, np.intp)
        own, indices = self.columns.places(signal)
        along[own] = np.arange(len(own)) if indices is None else indices
        values, missing = self.of_ranks(along, self._size(label) if label else 1)
        return Values(values, missing) if label else Values(values[0], missing[0])

    def of_ranks(self, along: NDArray[np.intp], size: int) -> Values:
        """What each rank measured itself, in `size` lines by the ranks' slots.

        `along[column]` is the line of a column, -1 for those that are not asked for.
        """
        shape = (size, self._size(RANK_AXIS))
        values, missing = np.full(shape, np.nan), np.ones(shape, bool)
        for block in self.blocks:
            rows = along[block.layout.columns]
            mine = np.flatnonzero(rows >= 0)
            cells = rows[mine, np.newaxis], block.slots
            values[cells] = block.values[:, mine].T
            missing[cells] = False if block.measured is None else ~block.measured[:, mine].T
        return Values(values, missing)

    def _size(self, axis: str) -> int:
        found = self.columns.axes.get(axis)
        return len(found.labels) if found else 0

    def row(self, wanted: Wanted) -> dict[str, float]:
        """What was measured of what is wanted; of ranks' own values only if there is one rank."""
        told = self._told
        if told is not None and told[0] is wanted and wanted.is_plain:
            return told[1]
        if len(self._frames) == 1:
            ((layout, frame),) = self._frames.values()
            found = layout.row(frame, wanted)
            for name, series in wanted.norms:
                if name in found and self._lacks_a_shard(series):
                    del found[name]
        else:
            each = ((name, self.number(series)) for name, series in wanted.reduced)
            found = {name: value for name, value in each if value is not None}
        for name, reading in wanted.derived:
            values, missing = self.read(reading)
            if not missing.all():
                found[name] = float(values.reshape(-1)[0])
        return found

    def number(self, series: Series) -> float | None:
        """The value of a series over all ranks, None if it was not measured."""
        if series.signal in DERIVED:
            return self.all.get(series)
        column = self.columns.find(series)
        if column is None:
            return None
        if len(self._frames) == 1:
            ((layout, frame),) = self._frames.values()
            if series not in layout.at or self._lacks_a_shard(series):
                return None
            return layout.reduced(frame, series)
        values, missing = self._arrays
        return None if missing[column] else float(values[column])

    def _lacks_a_shard(self, series: Series) -> bool:
        """Whether a frame that is alone has less than the whole of a norm."""
        if not is_norm(series.signal):
            return False
        return self._absent > 0 or bool(self._announced[self.columns.find(series)] > 1)

    @property
    def reduced(self) -> Mapping[Series, float]:
        """The value of every series that was measured, over all ranks."""
        return Reduced(self)

    @cached_property
    def all(self) -> Mapping[Series, float]:
        """The same, all at once."""
        series = self.columns.series
        values, missing = self._arrays
        found = {series[at]: float(values[at]) for at in np.flatnonzero(~missing)}
        for signal in sorted(DERIVED):
            values, missing = self.read(Reading(signal))
            label = CATALOG[signal].label
            labels = self.columns.axes[label].labels if label and values.size else [""]
            known = np.flatnonzero(~missing)
            found |= {Series(signal, labels[at]): float(values.flat[at]) for at in known}
        return found


class Reduced(Mapping[Series, float]):
    """The values of a step over all ranks: each is made when it is asked for."""

    def __init__(self, step: JudgedStep) -> None:
        self._step = step

    def __getitem__(self, series: Series) -> float:
        value = self._step.number(series)
        if value is None:
            raise KeyError(series)
        return value

    def __iter__(self) -> Iterator[Series]:
        return iter(self._step.all)

    def __len__(self) -> int:
        return len(self._step.all)
