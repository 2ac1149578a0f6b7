"""Other tools' logs, whatever their format, as messages of one rank."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from sentinel.engine.rule import Rule
from sentinel.engine.transition import AlertChanged
from sentinel.errors import ReplayError
from sentinel.replay import delimited, event_file, json_document, json_lines, text
from sentinel.replay.columns import Columns
from sentinel.replay.detection import detect
from sentinel.replay.messages import Moment, begins_to_fire, replay_messages
from sentinel.replay.row import Row, RowError
from sentinel.replay.source import Source, printable
from sentinel.signals import did_you_mean
from sentinel.wire import VERSION, Extension, Frame, Hello, Series

Reader = Callable[[Source, Columns], Iterator[Row]]

# What `--format` may say.
FORMATS: Mapping[str, Reader] = {
    "jsonl": json_lines.read,
    "json": json_document.read,
    "csv": delimited.read,
    "tensorboard": event_file.read,
    "megatron": text.read_megatron,
    "deepspeed": text.read_deepspeed,
    "text": text.read,
}


class Log:
    """One log, read once and in order. Made by `open_log`."""

    def __init__(self, paths: Sequence[Path], run: str, format: str, columns: Columns) -> None:
        self.run = run
        self.format = format
        self.notes = columns.notes  # what a person should know of how it was read; grows
        self._columns = columns
        self._paths = paths
        self._source: Source | None = None
        self._before = 0
        self._rows = self._read()
        self._first = next(self._rows, None)

    @property
    def series(self) -> tuple[Series, ...]:
        """What the values of rows are. Longer by and by, as columns first have values."""
        return self._columns.series

    def __iter__(self) -> Iterator[Row]:
        """The rows, in their order. Raises `ReplayError` with file and line."""
        first, self._first = self._first, None
        if first is not None:
            yield first
        yield from self._rows

    def progress(self) -> float | None:
        """The share of the bytes that has been read, or None for a pipe."""
        inner = self._source.progress() if self._source is not None else 0.0
        return None if inner is None else (self._before + inner) / len(self._paths)

    def _read(self) -> Iterator[Row]:
        for before, path in enumerate(self._paths):
            self._before = before
            source = self._source = Source(path, self.notes)
            try:
                if self.format == "auto":
                    self.format = detect(source, self._columns)
                yield from FORMATS[self.format](source, self._columns)
                if path == self._paths[-1]:
                    yield from self._last(source)
            finally:
                source.close()

    def _last(self, source: Source) -> Iterator[Row]:
        try:
            row = self._columns.end()
        except RowError as error:
            raise source.error(str(error)) from None
        if row is not None:
            yield row


def open_log(path: Path, *, format: str = "auto", columns: Mapping[str, str] | None = None) -> Log:
    """Begin to read a log: a file, a pipe, `-` for standard input, or a directory of event files.

    `format` is one of `FORMATS`, or "auto" to tell it from how the file begins. `columns` has the
    name of the column for a signal, where it is not one of the known names: {"loss": "my_loss",
    "logged.accuracy": "acc"}. Raises `ReplayError`.
    """
    if format != "auto" and format not in FORMATS:
        hint = did_you_mean(format, FORMATS)
        raise ReplayError(f"no such format: {format!r}{hint}; there are {', '.join(FORMATS)}")
    paths = [path]
    if os.path.isdir(path):  # which says no where Path.is_dir may raise
        paths, format = event_file.event_files(path), "tensorboard"
        if not paths:
            raise ReplayError(
                f"{printable(str(path))}: a directory with neither recorded runs nor event files"
            )
    return Log(paths, run_name(path), format, Columns(columns or {}, []))


def run_name(path: Path) -> str:
    """A log's run: the name of its file without the suffix."""
    if str(path) == "-":
        return "stdin"
    name = path.name.removesuffix(".gz")
    return printable(name.removesuffix(Path(name).suffix) or path.name)


def moments(log: Log) -> Iterator[Moment]:
    """The log as what one rank would have said. Raises `ReplayError` with file and line."""
    now, last, announced = 0.0, 0, 0
    for sequence, row in enumerate(log):
        width = len(row.values)
        if not sequence:
            now = 0.0 if row.time is None else row.time
            yield Moment(now, 0, _hello(log.run, row.step, log.series[:width]))
        else:
            if row.time is not None:
                now = max(now, row.time)
            else:
                now += row.step - last if row.step > last else 1
            if width > announced:
                yield Moment(now, 0, Extension(log.series[announced:width]))
        last, announced = row.step, max(width, announced)
        yield Moment(now, 0, _frame(row, sequence, now))


def _hello(run: str, step: int, series: tuple[Series, ...]) -> Hello:
    return Hello(
        version=VERSION,
        run=run[:512],
        rank=0,
        world_size=1,
        incarnation="log",
        host="",
        pid=0,
        device="",
        trainer="log",
        step=max(0, step - 1),
        series=series,
    )


def _frame(row: Row, sequence: int, now: float) -> Frame:
    values = row.values
    pack = _packing(len(values))
    try:
        return Frame(row.step, sequence, now, pack(*values))
    except struct.error:  # None is no number
        missing = sum(1 << bit for bit, value in enumerate(values) if value is None)
        packed = pack(*(value or 0.0 for value in values))
        size = (missing.bit_length() + 7) // 8
        return Frame(row.step, sequence, now, packed, missing.to_bytes(size, "little"))


@lru_cache
def _packing(width: int) -> Callable[..., bytes]:
    """What packs so many values as a frame has them."""
    return struct.Struct(f"<{width}d").pack


def replay_log(log: Log, rules: Sequence[Rule]) -> Iterator[AlertChanged]:
    """The alerts that begin to fire in a log. Raises `ReplayError` with file and line."""
    return begins_to_fire(replay_messages(log.run, moments(log), rules, clock=False))
