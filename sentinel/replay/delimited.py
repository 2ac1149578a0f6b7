"""CSV and TSV: a header, then a row a line; blank cells were not measured.

W&B's exported charts are such files. Their columns are called "RUN - METRIC", with the extremes of
what was averaged as "RUN - METRIC__MIN" and "__MAX", which are passed over.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from sentinel.replay.columns import Columns
from sentinel.replay.row import Row, RowError, shown
from sentinel.replay.source import MAX_LINE, Source

DELIMITERS = ",\t;|"
_MAX_COLUMNS = 16_384
_EXTREMES = ("__MIN", "__MAX")
_OF_RUN = " - "


def read(source: Source, columns: Columns) -> Iterator[Row]:
    """The rows of a table."""
    lines = _Lines(source)
    try:
        yield from _read(lines, source, columns)
    except csv.Error as error:
        if source.line > 1 and not lines.last.endswith("\n"):
            return _passed_over(source, columns)
        raise source.error(f"no table: {error}", source.line) from None
    except RowError as error:
        raise source.error(str(error), source.line) from None
    return None


def _read(lines: _Lines, source: Source, columns: Columns) -> Iterator[Row]:
    first = next(lines, "")
    delimiter = delimiter_of(first, columns)
    header = next(csv.reader([first], delimiter=delimiter), [])
    if len(header) > _MAX_COLUMNS:
        raise RowError(f"more than {_MAX_COLUMNS} columns")
    kept = _kept(header, columns)
    names = tuple(header[position] for position in kept)
    width = len(header)
    every = len(kept) == width
    take = columns.read
    for cells in csv.reader(lines, delimiter=delimiter):
        if len(cells) != width:
            cells = _fitted(cells, width)
            if not cells:
                continue
            if len(cells) != width:
                if not lines.last.endswith("\n"):
                    return _passed_over(source, columns)
                raise RowError(f"{len(cells)} cells where the header has {width}")
        try:
            whole = take(names, cells if every else [cells[position] for position in kept])
        except RowError:
            if cells == header:  # a second job has written to the same file
                continue
            if not lines.last.endswith("\n"):
                return _passed_over(source, columns)
            raise
        if whole is not None:
            yield whole
    return None


def delimiter_of(header: str, columns: Columns) -> str:
    """What stands between the names of a header: what gives most known names, or most names."""

    def names(delimiter: str) -> tuple[int, int]:
        found = names_in(header, delimiter)
        return sum(columns.knows([name]) for name in found), len(found)

    return max(DELIMITERS, key=names)


def names_in(header: str, delimiter: str) -> list[str]:
    """The names of a header, or none if it is none."""
    try:
        return next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        return []


def _run(name: str) -> str:
    return name.rpartition(_OF_RUN)[0]


class _Lines:
    """The lines of a table, without comments; `last` is the one given out last."""

    def __init__(self, source: Source) -> None:
        self.last = ""
        self._lines = source.lines()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            if len(line) >= MAX_LINE:
                raise RowError(f"a line of more than {MAX_LINE} characters")
            if line[0] != "#" and not line.isspace():
                self.last = line
                return line
        raise StopIteration


def _kept(header: Sequence[str], columns: Columns) -> list[int]:
    """Which columns are looked at: no extremes, and of several runs the first."""
    runs = list(
        dict.fromkeys(
            _run(name)
            for name in header
            if _OF_RUN in name and columns.knows([name]) and not columns.chose(name)
        )
    )
    if len(runs) > 1:
        columns.notes.append(
            f"{len(runs)} runs are in this file: {shown(runs[0])} is read, and what --column names"
        )
    return [
        position
        for position, name in enumerate(header)
        if not name.endswith(_EXTREMES)
        and (_OF_RUN not in name or columns.chose(name) or _run(name) in runs[:1])
    ]


def _fitted(cells: list[str], width: int) -> list[str]:
    """A row without the blank cells that some writers end it with."""
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    return cells


def _passed_over(source: Source, columns: Columns) -> None:
    columns.notes.append(f"{source.name}:{source.line}: an incomplete last line is passed over")
