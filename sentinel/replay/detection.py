"""Which format a log is in, by how it begins."""

from __future__ import annotations

import json
import re

from sentinel.replay.columns import Columns
from sentinel.replay.delimited import DELIMITERS, names_in
from sentinel.replay.event_file import HEADER, begins_event_file
from sentinel.replay.row import RowError, number
from sentinel.replay.source import MAX_HEAD, Source

_ARRAY = re.compile(r"\[\s*(?:\{|\[|\]|$)")
_HISTORY = '"log_history"'


def detect(source: Source, columns: Columns) -> str:
    """The name of the format (see log.FORMATS). Raises `ReplayError` where it can be none."""
    if begins_event_file(source.look(HEADER)):
        return "tensorboard"
    lines = _first_lines(source, 1)
    if not lines:
        raise source.error('empty: expected a log, such as lines of {"step": 1, "loss": 2.5}')
    text = source.head.rstrip(b"\0")  # a machine that loses power may leave a file ending so
    if not source.is_utf16 and (b"\0" in text or not text.strip()):
        raise source.error("a binary file, not a log")
    first = lines[0]
    if first.startswith("{"):
        return _braced(first)
    if _ARRAY.match(first):
        return "json"
    return "csv" if _is_header(source, first, columns) else "text"


def _first_lines(source: Source, count: int) -> list[str]:
    """The first lines that are neither blank nor comments, and no more of a pipe than has them."""
    while True:
        lines = _lines(source)
        found = [line.strip() for line in lines[:-1] if line.strip() and not line.startswith("#")]
        if len(found) >= count:
            return found[:count]
        if len(source.head) >= MAX_HEAD or not source.look_on():
            last = lines[-1].strip()
            return [*found, last] if last else found


def _lines(source: Source) -> list[str]:
    text = source.head.decode("utf-16" if source.is_utf16 else "utf-8-sig", "replace")
    return re.split(r"\r\n|\n|\r", text)


def _braced(line: str) -> str:
    """JSON lines, a JSON document over one line or many, or the dictionaries that Python prints."""
    try:
        row: object = json.loads(line)
    except RecursionError:
        return "jsonl"
    except ValueError:
        if line.endswith(("{", "[", ",")) or _HISTORY in line:
            return "json"
        return "text" if line.startswith("{'") else "jsonl"
    return "json" if isinstance(row, dict) and isinstance(row.get("log_history"), list) else "jsonl"


def _is_header(source: Source, first: str, columns: Columns) -> bool:
    """Whether the first line names columns: known ones, or as many as the second has numbers."""
    for delimiter in DELIMITERS:
        names = names_in(first, delimiter)
        if names and columns.knows(names) and not any(map(_is_number, names)):
            return True
    second = _first_lines(source, 2)[1:]
    for delimiter in DELIMITERS:
        names = names_in(first, delimiter)
        if len(names) < 2 or any(map(_is_number, names)) or not second:
            continue
        cells = names_in(second[0], delimiter)
        if len(cells) == len(names) and all(_is_number(cell) for cell in cells if cell):
            return True
    return False


def _is_number(cell: str) -> bool:
    """Whether a cell is a number, and no name that reads like one, such as "NaN"."""
    try:
        return number(cell, "") is not None and any(map(str.isdigit, cell))
    except RowError:
        return False
