"""All messages of all runs as they came, for `sentinel replay`: in `telemetry.db`.

Between them is what the daemon did itself, as `chunk.DAEMON` (see engine/event.py). All is kept in
blocks (see chunk.py), written every second or so; what was not flushed when the daemon is killed is
lost, and nothing else. The oldest blocks go when there are too many bytes of them, but the last
`Hello` among them of each rank that was still connected stays, so that what is left can still be
read: as if they had all been said when it begins.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from sqlite_utils import Database as Tables

from sentinel.store import chunk
from sentinel.store.chunk import Recorded
from sentinel.store.database import Database, Schema, rows
from sentinel.store.history_schema import history_tables
from sentinel.store.reading import text, whole

FILE_NAME = "telemetry.db"
DEFAULT_LIMIT = 512 << 20  # bytes of blocks
_BUFFER_LIMIT = 64 << 20  # bytes in memory while they cannot be written
_BLOCK = 1 << 20  # bytes of entries in one block, before compression


def _first(tables: Tables) -> None:
    """Runs, blocks, and the last Hello of each rank from blocks that are gone."""
    tables.create_table("runs", {"id": int, "name": str}, pk="id", not_null=["name"])
    tables["runs"].create_index(["name"], unique=True)  # type: ignore[union-attr]
    blocks = tables.create_table(
        "blocks",
        {
            "id": int,
            "run": int,
            "first": float,
            "last": float,
            "entries": int,
            "codec": int,
            "bytes": int,
            "body": bytes,
        },
        pk="id",
        foreign_keys=[("run", "runs", "id")],
        not_null=["run", "codec", "bytes", "body"],
    )
    blocks.create_index(["run"])
    tables.create_table(
        "openings",
        {"run": int, "rank": int, "now": float, "body": bytes},
        pk=("run", "rank"),
        foreign_keys=[("run", "runs", "id")],
        not_null=["now", "body"],
    )


SCHEMA = Schema(application_id=0x53546C6D, migrations=(_first, history_tables))


class Recording:
    """`append` is cheap and never waits for the disk; `flush` writes, best in a worker thread.

    `dropped` counts messages that never reached the disk because flushing failed for too long.
    """

    def __init__(self, database: Database, limit: int, buffer_limit: int) -> None:
        """Use `open`."""
        self.dropped = 0
        self._database = database
        self._limit = limit
        self._buffer_limit = buffer_limit
        self._buffer_lock = threading.Lock()
        self._flushing = threading.Lock()
        self._buffer: deque[tuple[str, Recorded]] = deque()
        self._buffered = 0  # bytes
        self._total = self._stored()

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        readonly: bool = False,
        limit: int = DEFAULT_LIMIT,
        buffer_limit: int = _BUFFER_LIMIT,
    ) -> Recording:
        """Open `telemetry.db` in a state directory that `Store.open` has opened before.

        `limit` and `buffer_limit` are bytes, of blocks on the disk and of messages in memory. The
        file may be large: it is not read whole, which is `Examination`'s. Raises `StateError`, and
        `DamagedError` where `begin_anew` would help.
        """
        path = state_dir.absolute() / FILE_NAME
        database = Database.open(
            path, SCHEMA, readonly=readonly, synchronous="NORMAL", examined=False
        )
        try:
            return cls(database, limit, buffer_limit)
        except BaseException:
            database.close()
            raise

    @staticmethod
    def look_into(state_dir: Path) -> Database:
        """The file, for those who only read it beside the one who writes. Raises `StateError`."""
        path = state_dir.absolute() / FILE_NAME
        return Database.open(path, SCHEMA, readonly=True, synchronous="NORMAL")

    def begin_anew(self) -> Path:
        """Put the file aside and go on in an empty one; returns where it is then.

        What waits in memory stays. Raises `StateError`.
        """
        with self._flushing:
            aside = self._database.begin_anew()
            self._total = self._stored()
            return aside

    def _stored(self) -> int:
        """Bytes of blocks on the disk."""
        (row,) = self._database.rows("SELECT coalesce(sum(bytes), 0) AS total FROM blocks")
        return whole(row["total"])

    def append(self, run: str, rank: int, now: float, body: bytes | None) -> None:
        """Remember a message body (without its length); None: the connection ended."""
        entry = Recorded(now, rank, body)
        with self._buffer_lock:
            self._buffer.append((run, entry))
            self._buffered += chunk.size(entry)
            if self._buffered > self._buffer_limit:
                self._shed()

    def _shed(self) -> None:
        """Forget the oldest half of what waits, except what opens a connection."""
        kept: deque[tuple[str, Recorded]] = deque()
        while self._buffer and self._buffered > self._buffer_limit // 2:
            run, entry = self._buffer.popleft()
            self._buffered -= chunk.size(entry)
            if chunk.opens(entry.body):
                kept.append((run, entry))
            else:
                self.dropped += 1
        newest = {(run, entry.rank): entry for run, entry in kept}
        self.dropped += len(kept) - len(newest)
        for (run, _), entry in reversed(newest.items()):
            self._buffer.appendleft((run, entry))
            self._buffered += chunk.size(entry)

    def flush(self) -> int:
        """Write what was appended; returns how many messages.

        Raises `StateError`; what could not be written then waits for the next time.
        """
        with self._flushing:
            with self._buffer_lock:
                taken, self._buffer, self._buffered = self._buffer, deque(), 0
            try:
                with self._database.transaction() as connection:
                    total = self._total + _write(connection, taken)
                    total -= _trim(connection, total - self._limit)
            except BaseException:
                self._put_back(taken)
                raise
            self._total = total
            return len(taken)

    def _put_back(self, taken: deque[tuple[str, Recorded]]) -> None:
        with self._buffer_lock:
            self._buffer.extendleft(reversed(taken))
            self._buffered += sum(chunk.size(entry) for _, entry in taken)
            if self._buffered > self._buffer_limit:
                self._shed()

    @property
    def database(self) -> Database:
        """The file, in which there is the history of runs too: see history.py."""
        return self._database

    @property
    def buffered(self) -> int:
        """Bytes of messages that wait for the next flush."""
        return self._buffered

    def messages(self, run: str) -> Iterator[Recorded]:
        """All messages of a run that were flushed, in the order in which they arrived.

        Reads one block at a time. Raises `StateError`.
        """
        openings = self._database.rows(
            "SELECT rank, now, body, (SELECT first FROM blocks WHERE blocks.run = openings.run "
            "ORDER BY id LIMIT 1) AS begins "
            "FROM openings WHERE run = (SELECT id FROM runs WHERE name = ?) "
            "ORDER BY now, rank != ?, rank",
            (run, chunk.DAEMON),
        )
        for row in openings:
            now = _float(row["now"] if row["begins"] is None else row["begins"])
            yield Recorded(now, whole(row["rank"]), _bytes(row["body"]))
        last = 0
        while block := self._database.rows(
            "SELECT id, codec, body FROM blocks WHERE run = (SELECT id FROM runs WHERE name = ?) "
            "AND id > ? ORDER BY id LIMIT 1",
            (run, last),
        ):
            last = whole(block[0]["id"])
            yield from chunk.unpack(whole(block[0]["codec"]), _bytes(block[0]["body"]))

    def backwards(self, run: str) -> Iterator[list[Recorded]]:
        """All messages of a run that were flushed, block by block, the newest block first.

        Within a block they are in the order in which they arrived. Raises `StateError`.
        """
        before = 1 << 62
        while block := self._database.rows(
            "SELECT id, codec, body FROM blocks WHERE run = (SELECT id FROM runs WHERE name = ?) "
            "AND id < ? ORDER BY id DESC LIMIT 1",
            (run, before),
        ):
            before = whole(block[0]["id"])
            yield [*chunk.unpack(whole(block[0]["codec"]), _bytes(block[0]["body"]))]

    def entries(self, run: str) -> int:
        """How many messages of a run were flushed and are still there."""
        (row,) = self._database.rows(
            "SELECT coalesce(sum(entries), 0) AS n FROM blocks "
            "WHERE run = (SELECT id FROM runs WHERE name = ?)",
            (run,),
        )
        return whole(row["n"])

    def runs(self) -> list[str]:
        """The runs that are recorded, oldest first."""
        return [
            text(row["name"]) for row in self._database.rows("SELECT name FROM runs ORDER BY id")
        ]

    def close(self) -> None:
        """Close the file; flush before."""
        with self._flushing:
            self._database.close()


def _write(connection: sqlite3.Connection, taken: deque[tuple[str, Recorded]]) -> int:
    """Write blocks, run by run; returns how many bytes they take."""
    total = 0
    by_run: dict[str, list[Recorded]] = {}
    for run, entry in taken:
        by_run.setdefault(run, []).append(entry)
    for run, entries in by_run.items():
        connection.execute("INSERT OR IGNORE INTO runs (name) VALUES (?)", (run,))
        for block in _blocks(entries):
            codec, body = chunk.pack(block)
            connection.execute(
                """
                INSERT INTO blocks (run, first, last, entries, codec, bytes, body)
                SELECT id, ?, ?, ?, ?, ?, ? FROM runs WHERE name = ?
                """,
                (block[0].now, block[-1].now, len(block), codec, len(body), body, run),
            )
            total += len(body)
    return total


def _blocks(entries: list[Recorded]) -> Iterator[list[Recorded]]:
    block: list[Recorded] = []
    length = 0
    for entry in entries:
        block.append(entry)
        length += chunk.size(entry)
        if length >= _BLOCK:
            yield block
            block, length = [], 0
    if block:
        yield block


def _trim(connection: sqlite3.Connection, excess: int) -> int:
    """Drop the oldest blocks until `excess` bytes are gone; returns how many went."""
    gone = 0
    while gone < excess:
        (oldest,) = rows(connection, "SELECT * FROM blocks ORDER BY id LIMIT 1")
        for entry in chunk.unpack(whole(oldest["codec"]), _bytes(oldest["body"])):
            if entry.body is None:
                connection.execute(
                    "DELETE FROM openings WHERE run = ? AND rank = ?", (oldest["run"], entry.rank)
                )
            elif chunk.opens(entry.body):
                connection.execute(
                    "INSERT OR REPLACE INTO openings (run, rank, now, body) VALUES (?, ?, ?, ?)",
                    (oldest["run"], entry.rank, entry.now, entry.body),
                )
        connection.execute("DELETE FROM blocks WHERE id = ?", (oldest["id"],))
        gone += whole(oldest["bytes"])
    return gone


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _float(value: object) -> float:
    return value if isinstance(value, float) else 0.0
