"""Other tools' logs: JSON lines of step, loss, grad_norm and lr, as messages of one rank.

Other keys are passed over. NaN and the infinities are the strings "NaN", "Infinity" and
"-Infinity", or the bare words that Python's own writer uses; a key that is null or lacking was not
measured. A row may carry its `time` in seconds; otherwise a step takes one.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeGuard

from sentinel.engine.rule import Rule
from sentinel.engine.transition import AlertChanged
from sentinel.errors import ReplayError
from sentinel.replay.messages import Moment, begins_to_fire, replay_messages
from sentinel.wire import VERSION, Frame, Hello, Series

SIGNALS = ("loss", "grad_norm", "lr")
MAX_LINE = 1 << 20  # bytes
MAX_STEP = 1 << 53
_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True)
class Row:
    """One logged step; None is what was not measured."""

    step: int
    values: tuple[float | None, ...]
    time: float | None


def run_name(path: Path) -> str:
    """A log's run: the name of its file without the suffix."""
    return path.name.removesuffix(path.suffix) or path.name


def moments(path: Path) -> Iterator[Moment]:
    """The log as what one rank would have said. Raises `ReplayError` with file and line."""
    now, last = 0.0, None
    for sequence, row in enumerate(rows(path)):
        if last is None:
            now = 0.0 if row.time is None else row.time
            yield Moment(now, 0, _hello(run_name(path), row.step))
        else:
            later = now + max(1, row.step - last) if row.time is None else row.time
            now = max(now, later)
        last = row.step
        yield Moment(now, 0, _frame(row, sequence, now))


def rows(path: Path) -> Iterator[Row]:
    """The rows of a log, in its order. Raises `ReplayError` with file and line."""
    try:
        with path.open("rb") as file:
            yield from _rows(file, path)
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read: {error.strerror}") from None


def _rows(file: BinaryIO, path: Path) -> Iterator[Row]:
    count = number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        try:
            if line.strip():
                count += 1
                yield _row(line)
        except ReplayError as error:
            raise ReplayError(f"{path}:{number}: {error}") from None
    if not count:
        raise ReplayError(f'{path}: empty: expected JSON lines such as {{"step": 1, "loss": 2.5}}')


def _row(line: bytes) -> Row:
    if b"\0" in line:
        raise ReplayError("a binary file, not a log: expected JSON lines")
    if len(line) > MAX_LINE:
        raise ReplayError(f"a line of more than {MAX_LINE} bytes")
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ReplayError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ReplayError('expected an object such as {"step": 1, "loss": 2.5}')
    time = row.get("time")
    values = tuple(_number(row.get(signal), signal) for signal in SIGNALS)
    return Row(_step(row.get("step")), values, time if _is_time(time) else None)


def _step(step: object) -> int:
    if step is None:
        raise ReplayError("the row has no step")
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        raise ReplayError(f"step {_shown(step)} is not a whole number from 0 to 2^53")
    return step


def _is_time(value: object) -> TypeGuard[float]:
    """Other tools put other things under this name, which are passed over."""
    return isinstance(value, float) and math.isfinite(value)


def _number(value: object, key: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ReplayError(
            f'{key} {_shown(value)} is not a number, "NaN", "Infinity" or "-Infinity"'
        )
    try:
        return float(value)
    except OverflowError:
        raise ReplayError(f"{key} {_shown(value)} is too large") from None


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _hello(run: str, step: int) -> Hello:
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
        series=tuple(Series(signal) for signal in SIGNALS),
    )


def _frame(row: Row, sequence: int, now: float) -> Frame:
    missing = sum(1 << bit for bit, value in enumerate(row.values) if value is None)
    values = struct.pack(f"<{len(row.values)}d", *(value or 0.0 for value in row.values))
    return Frame(row.step, sequence, now, values, bytes([missing]) if missing else b"")


def replay_log(path: Path, rules: Sequence[Rule]) -> Iterator[AlertChanged]:
    """The alerts that begin to fire in a log. Raises `ReplayError` with file and line."""
    return begins_to_fire(replay_messages(run_name(path), moments(path), rules, clock=False))
