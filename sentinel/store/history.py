"""What every run measured at every judged step: in `telemetry.db`, beside the recording.

A run's steps are kept in *blocks* of up to `ROWS` steps that only rise. Within a block, series that
belong together are a *sheet*, a matrix of steps by columns (see sheet.py): all signals without a
label are one, each signal with a label is one, and so are every rank's own values of a signal. A
block that is whole also has stretches of `sheet.COARSE` steps of each sheet (see bins.py), which
are all that is read of a long run to show it as a whole.

Where a run does a step again, as after a rollback, what was measured last is what counts. A run
that does its first step again is another one of that name, and begins a history of its own.

`append` is cheap and waits for nothing; `flush` writes, in a worker thread. The block that a run is
in is written as *pieces*, at most every `PATIENCE` seconds, whose place it takes once it is whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from sentinel import clock
from sentinel.errors import StateError
from sentinel.store.database import Database
from sentinel.store.history_row import Row
from sentinel.store.history_writing import Stretch, Writer

ROWS = 1024  # steps of a block at most, and
BLOCK = 1 << 20  # bytes of it in memory
PATIENCE = 5.0  # s that measured steps wait to be written
PIECES = 16  # of a block that are put together
DEFAULT_LIMIT = 512 << 20  # bytes on the disk, of all runs
_BUFFER_LIMIT = 64 << 20  # bytes in memory while they cannot be written
_OVERHEAD = 200  # bytes of a row besides its values


@dataclass(eq=False)
class Block:
    """Steps of a run that rise. `anew`: with them a history begins.

    The first `written` rows are in the file, as the blocks `pieces`.
    """

    anew: bool
    rows: list[Row] = field(default_factory=list)
    size: int = 0  # bytes
    closed: bool = False
    written: int = 0
    pieces: list[int] = field(default_factory=list)
    waits_since: float | None = None

    def takes(self, step: int, most: int) -> bool:
        """Whether a row of this step can come next, of at most so many."""
        if self.closed or len(self.rows) >= most or self.size >= BLOCK:
            return False
        return not self.rows or step > self.rows[-1].step


class History:
    """See above. `dropped` counts steps that never reached the disk."""

    def __init__(
        self,
        database: Database,
        *,
        limit: int = DEFAULT_LIMIT,
        buffer_limit: int = _BUFFER_LIMIT,
        rows: int = ROWS,
    ) -> None:
        """On `telemetry.db`, open for writing.

        `limit` and `buffer_limit` are bytes, of all runs on the disk and of what waits in memory;
        `rows` are those of a block. Raises `StateError`.
        """
        self.dropped = 0
        self._rows = rows
        self._database, self._limit = database, limit
        self._writer = Writer(database, limit)
        self._buffer_limit = buffer_limit
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._runs: dict[str, list[Block]] = {}
        self._waiting = 0  # bytes of rows that are not written
        self._begin: set[str] = set()  # runs whose history begins with what was forgotten

    # The loop's side.

    def append(self, run: str, row: Row) -> None:
        """Remember a judged step."""
        size = row.values.nbytes + _OVERHEAD
        with self._lock:
            blocks = self._runs.setdefault(run, [])
            if not blocks or not blocks[-1].takes(row.step, self._rows):
                if blocks:
                    blocks[-1].closed = True
                blocks.append(Block(anew=row.step <= 1 or run in self._begin))
                self._begin.discard(run)
            blocks[-1].rows.append(row)
            blocks[-1].size += size
            self._waiting += size
            if self._waiting > self._buffer_limit:
                self._shed()

    def close_run(self, run: str) -> None:
        """No more is expected of a run: nothing of it stays in memory once it is written."""
        with self._lock:
            for block in self._runs.get(run, ()):
                block.closed = True

    def _shed(self) -> None:
        """Forget what has waited longest until half as much waits."""
        for run, blocks in [*self._runs.items()]:
            while blocks and self._waiting > self._buffer_limit // 2:
                self._forget(run, blocks[0])

    def _forget(self, run: str, block: Block) -> None:
        lost = block.rows[block.written :]
        self._waiting -= _size(lost)
        self.dropped += len(lost)
        blocks = self._runs[run]
        blocks.remove(block)
        if block.anew and not block.pieces:
            if blocks:
                blocks[0].anew = True
            else:
                self._begin.add(run)
        if not blocks:
            del self._runs[run]

    @property
    def waiting(self) -> int:
        """Bytes of steps that are not written yet."""
        return self._waiting

    # The writing thread's side.

    def flush(self, *, everything: bool = False) -> int:
        """Write what has waited long enough, or `everything`; returns how many steps.

        Raises `StateError`; what could not be written then waits for the next time. What cannot be
        written for any other reason never can be, and is dropped.
        """
        with self._flushing:
            taken = self._take(everything, clock.monotonic())
            if not taken:
                return 0
            try:
                ids = self._writer.write([one.stretch() for one in taken], self.runs())
            except StateError:
                raise
            except Exception:
                with self._lock:
                    for one in taken:
                        if one.block in self._runs.get(one.run, ()):
                            self._forget(one.run, one.block)
                raise
            with self._lock:
                for one, id in zip(taken, ids, strict=True):
                    if one.block in self._runs.get(one.run, ()):  # not forgotten meanwhile
                        self._written(one, id)
            return sum(len(one.rows) for one in taken)

    def begin_anew(self) -> None:
        """The file is another, and empty: what is in memory is to be written again.

        Raises `StateError`.
        """
        with self._flushing:
            self._writer = Writer(self._database, self._limit)
            with self._lock:
                for block in (one for blocks in self._runs.values() for one in blocks):
                    self._waiting += _size(block.rows[: block.written])
                    block.written, block.pieces, block.waits_since = 0, [], None

    def _take(self, everything: bool, now: float) -> list[_Taken]:
        taken = []
        with self._lock:
            for run, blocks in self._runs.items():
                for block in blocks:
                    if (one := _due(run, block, everything, now)) is not None:
                        taken.append(one)
        return taken

    def _written(self, one: _Taken, id: int) -> None:
        block, end = one.block, one.end
        self._waiting -= _size(block.rows[block.written : end])
        block.written = end
        block.pieces = [id] if one.replaces is not None else [*block.pieces, id]
        block.waits_since = None
        blocks = self._runs[one.run]
        if one.whole:
            blocks.remove(block)
            if not blocks:
                del self._runs[one.run]

    # The readers' side.

    def recent(self, run: str) -> Recent:
        """What is in memory of a run now."""
        with self._lock:
            blocks = self._runs.get(run, [])
            begins = max((at for at, one in enumerate(blocks) if one.anew), default=0)
            kept = blocks[begins:]
            anew = bool(kept) and kept[0].anew
            pieces = frozenset(piece for one in kept for piece in one.pieces)
            return Recent(anew, pieces, [[*one.rows] for one in kept])

    def runs(self) -> list[str]:
        """The runs of which something is in memory."""
        with self._lock:
            return [*self._runs]


class Recent(NamedTuple):
    """What is in memory of a run: blocks of rows. `anew`: what was before is another history.

    `pieces` are blocks in the file that hold some of the same.
    """

    anew: bool
    pieces: frozenset[int]
    blocks: list[list[Row]]


class _Taken(NamedTuple):
    """Rows to be written, up to row `end` of their block; instead of pieces, if not None."""

    run: str
    block: Block
    rows: list[Row]
    end: int
    whole: bool
    replaces: list[int] | None

    def stretch(self) -> Stretch:
        """As it is written."""
        anew = self.block.anew and not self.block.pieces
        return Stretch(self.run, self.rows, anew, self.whole, self.replaces or ())


def _due(run: str, block: Block, everything: bool, now: float) -> _Taken | None:
    end = len(block.rows)
    if not block.closed and block.written == end:
        return None
    if not (block.closed or everything):
        block.waits_since = now if block.waits_since is None else block.waits_since
        if now - block.waits_since < PATIENCE:
            return None
    together = block.closed or len(block.pieces) >= PIECES
    rows = block.rows[:end] if together else block.rows[block.written : end]
    return _Taken(run, block, rows, end, block.closed, [*block.pieces] if together else None)


def _size(rows: Iterable[Row]) -> int:
    return sum(row.values.nbytes + _OVERHEAD for row in rows)
