"""One JSON document: an array of rows, or an object with rows in it.

The latter is the HF Trainer's trainer_state.json, whose `log_history` has a row for each time it
logged and for each evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import msgspec

from sentinel.replay.columns import Columns
from sentinel.replay.row import Row, RowError
from sentinel.replay.source import Source

MAX_DOCUMENT = 1 << 26  # bytes
_HISTORY = "log_history"


class _TrainerState(msgspec.Struct):
    log_history: list[msgspec.Raw]


def read(source: Source, columns: Columns) -> Iterator[Row]:
    """The rows of an array, or of the `log_history` of an object."""
    for number, row in enumerate(_rows(source), 1):
        try:
            parsed = msgspec.json.decode(row) if isinstance(row, msgspec.Raw) else row
            if not isinstance(parsed, dict):
                raise RowError('expected an object such as {"step": 1, "loss": 2.5}')
            whole = columns.read(tuple(parsed), tuple(parsed.values()))
        except RecursionError:
            raise source.error(f"row {number}: nested too deep for a log") from None
        except (RowError, msgspec.DecodeError) as error:
            raise source.error(f"row {number}: {error}") from None
        if whole is not None:
            yield whole


def _rows(source: Source) -> Sequence[object]:
    data = source.look(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise source.error(f"a JSON document of more than {MAX_DOCUMENT >> 20} MiB: use JSON lines")
    text = data.decode("utf-16" if source.is_utf16 else "utf-8-sig", "replace")
    try:
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=_TrainerState).log_history
        return msgspec.json.decode(text, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return _tolerant(source, text)


def _tolerant(source: Source, text: str) -> Sequence[object]:
    """The same with Python's own reader, which takes the bare NaN that the HF Trainer writes."""
    try:
        document: object = json.loads(text)
    except RecursionError:
        raise source.error("nested too deep for a log") from None
    except json.JSONDecodeError as error:
        raise source.error(f"not JSON: {error.msg}", error.lineno) from None
    except ValueError as error:
        raise source.error(f"not JSON: {error}") from None
    rows = document.get(_HISTORY) if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise source.error(
            f"expected an array of rows, or an object that has one as {_HISTORY!r},"
            " as trainer_state.json has it"
        )
    return rows
