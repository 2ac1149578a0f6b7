"""JSON lines: one object a line, such as {"step": 1, "loss": 2.5}; W&B's history is one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from sentinel.replay.columns import Columns
from sentinel.replay.row import Row, RowError
from sentinel.replay.source import MAX_LINE, Source

_decode = msgspec.json.Decoder().decode


def read(source: Source, columns: Columns) -> Iterator[Row]:
    """The rows of a log of JSON lines."""
    line = ""
    take = columns.read
    try:
        for line in source.lines():
            if line.isspace():
                continue
            row = parse(line)
            if type(row) is not dict:
                raise RowError('expected an object such as {"step": 1, "loss": 2.5}')
            whole = take(tuple(row), tuple(row.values()))
            if whole is not None:
                yield whole
    except RowError as error:
        if not isinstance(error, _NotJSONError) or line.endswith("\n") or len(line) >= MAX_LINE:
            raise source.error(str(error), source.line) from None
        if source.line == 1:
            raise source.error(str(error), 1) from None
        columns.notes.append(f"{source.name}:{source.line}: an incomplete last line is passed over")


class _NotJSONError(RowError):
    """A line that is no JSON, or only a part of it."""


def parse(text: str) -> object:
    """What a line says. Raises `RowError`.

    Takes the bare NaN and Infinity that Python's own writer uses, which are no JSON.
    """
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    if len(text) >= MAX_LINE:
        raise RowError(f"a line of more than {MAX_LINE} characters")
    try:
        parsed: object = json.loads(text)
    except RecursionError:
        raise RowError("nested too deep for a log") from None
    except ValueError as error:
        raise _NotJSONError(f"not JSON: {error}") from None
    return parsed
