"""Text logs: what jobs print, line by line, among whatever else they print.

Every line is shown to those who know the lines of one tool each; what nobody knows is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from sentinel.replay import deepspeed, megatron, printed
from sentinel.replay.columns import Columns
from sentinel.replay.row import Row, RowError
from sentinel.replay.source import Source

_COLOR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_MAX_TEXT = 1 << 16  # characters; what a tool prints about a step is shorter

Cells = dict[str, object]  # by the column's name


class Lines(Protocol):
    """Knows the lines of one tool."""

    def cells(self, line: str) -> Cells | None:
        """What a line says of a step, or None if it is not one of those."""


def read(source: Source, columns: Columns) -> Iterator[Row]:
    """The rows of a log of whatever tools."""
    yield from _read(source, columns, [megatron.Lines(), deepspeed.Lines(), printed.Lines()])


def read_megatron(source: Source, columns: Columns) -> Iterator[Row]:
    """The rows of Megatron-LM's lines alone."""
    yield from _read(source, columns, [megatron.Lines()])


def read_deepspeed(source: Source, columns: Columns) -> Iterator[Row]:
    """The rows of DeepSpeed's lines alone."""
    yield from _read(source, columns, [deepspeed.Lines()])


def _read(source: Source, columns: Columns, tools: Sequence[Lines]) -> Iterator[Row]:
    for line in source.lines():
        if len(line) > _MAX_TEXT:
            continue
        if "\x1b" in line:
            line = _COLOR.sub("", line)
        for tool in tools:
            cells = tool.cells(line)
            if cells is not None:
                break
        else:
            continue
        if isinstance(tool, megatron.Lines) and len(tools) > 2:
            tools = tools[:2]  # what else is printed has been said by these lines
        try:
            whole = columns.read(tuple(cells), tuple(cells.values()))
        except RowError as error:
            raise source.error(str(error), source.line) from None
        if whole is not None:
            yield whole
