"""One SQLite file: checked, migrated, written in transactions."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import sqlite_utils

from sentinel.errors import DamagedError, StateError

SqlValue = str | int | float | bytes | None
Row = dict[str, SqlValue]
Migration = Callable[[sqlite_utils.Database], None]

_BUSY_SECONDS = 10.0


@dataclass(frozen=True)
class Schema:
    """What a file of ours is: its mark, and how it came to its newest version, step by step.

    A file of version n has been through the first n migrations. They are never changed, only
    added to.
    """

    application_id: int
    migrations: tuple[Migration, ...]


class Database:
    """A connection that several threads may use; every method holds its lock."""

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        """Use `open`."""
        self.path = path
        self.lock = threading.RLock()
        self._connect = connect
        self._connection = connect()

    @classmethod
    def open(
        cls,
        path: Path,
        schema: Schema,
        *,
        readonly: bool,
        synchronous: Literal["FULL", "NORMAL"],
        examined: bool = True,
    ) -> Database:
        """Open `path` in WAL mode, made or migrated as need be unless `readonly`.

        `examined`: what is to be written is read whole first, which takes long for a large file;
        see `Examination`. Raises `StateError`: not there, not readable, not ours, a newer version,
        and `DamagedError`.
        """
        if readonly:
            return cls(path, partial(_opened_to_read, path, schema))
        return cls(path, partial(_opened, path, schema, synchronous, examined))

    @classmethod
    def in_memory(cls, schema: Schema) -> Database:
        """An empty one that no disk can fail."""

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            _migrate(connection, schema, 0)
            return connection

        return cls(Path(":memory:"), connect)

    def reopen(self) -> None:
        """Use the file that is there by now. Raises as `open`, and cannot be used then."""
        with self.lock:
            self._connection.close()
            self._connection = self._connect()

    def begin_anew(self) -> Path:
        """Put the file aside and use an empty one; returns where it is then. Raises as `reopen`."""
        with self.lock:
            self._connection.close()
            aside = put_aside(self.path)
            self._connection = self._connect()
            return aside

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is written in the block. Raises `StateError` when it failed.

        References between tables are checked at its end, so that order within it is free.
        """
        with self._between("BEGIN IMMEDIATE", "COMMIT") as connection:
            connection.execute("PRAGMA defer_foreign_keys = ON")
            yield connection

    @contextmanager
    def rehearsal(self) -> Iterator[sqlite3.Connection]:
        """Like `transaction`, but nothing that is written in the block is kept."""
        with self._between("BEGIN IMMEDIATE", "ROLLBACK") as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Everything that is read in the block is from the same moment. Raises `StateError`."""
        with self._between("BEGIN", "ROLLBACK") as connection:
            yield connection

    @contextmanager
    def _between(self, begin: str, end: str) -> Iterator[sqlite3.Connection]:
        with self.lock:
            try:
                self._connection.execute(begin)
                yield self._connection
                self._connection.execute(end)
            except sqlite3.IntegrityError:  # not the disk's fault: a mistake of ours
                raise
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from error
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def rows(self, sql: str, parameters: Sequence[SqlValue] = ()) -> list[Row]:
        """What a query returns. Raises `StateError`."""
        with self.lock:
            try:
                return rows(self._connection, sql, parameters)
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from error

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self.lock:
            self._connection.close()


def rows(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[SqlValue] = ()
) -> list[Row]:
    """What a query returns, as dictionaries, within a transaction or outside."""
    cursor = connection.execute(sql, parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def put_aside(path: Path) -> Path:
    """Rename a file, in place of one that was put aside before; returns what it is called then.

    Its log goes first: another file would take it for its own. Raises `StateError`.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        for end in ("-shm", "-wal", ""):
            Path(f"{aside}{end}").unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{end}").rename(f"{aside}{end}")
    except OSError as error:
        raise _unusable(path, error) from error
    return aside


class Examination:
    """Reads a file whole beside those who use it, to see whether it holds together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopped = False
        self._connection: sqlite3.Connection | None = None

    def make(self) -> None:
        """Look; takes seconds for a large file. Raises `DamagedError`, and `StateError` when it
        cannot be read."""
        try:
            with _guarded(self._path, lambda: _connect_to_read(self._path)) as connection:
                self._connection = connection
                if not self._stopped:
                    _examine(connection)
            connection.close()
        except StateError:
            if not self._stopped:
                raise

    def stop(self) -> None:
        """Look no further. From any thread."""
        self._stopped = True
        if self._connection is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it is over already
                self._connection.interrupt()


def _opened_to_read(path: Path, schema: Schema) -> sqlite3.Connection:
    if not path.exists():
        raise StateError(f"{path.parent} holds no record of Sentinel: there is no {path.name}")
    with _guarded(path, lambda: _connect_to_read(path)) as connection:
        _check_to_read(connection, path, schema)
    return connection


def _opened(
    path: Path, schema: Schema, synchronous: Literal["FULL", "NORMAL"], examined: bool
) -> sqlite3.Connection:
    def connect() -> sqlite3.Connection:
        path.touch(mode=0o600)
        return _connect(path.as_uri())

    with _guarded(path, connect) as connection:
        _prepare(connection, path, schema, synchronous, examined=examined)
    return connection


@contextmanager
def _guarded(path: Path, connect: Callable[[], sqlite3.Connection]) -> Iterator[sqlite3.Connection]:
    """A connection that is closed when the block fails. Raises `StateError`."""
    connection = None
    try:
        connection = connect()
        yield connection
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _unusable(path, error) from error
        raise


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS
    )


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, also where this user may not write beside the file."""
    connection = _connect(path.as_uri() + "?mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        # Nobody has it open, and no -shm can be made here: then it can only be read as it is.
        return _connect(path.as_uri() + "?immutable=1")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepare(
    connection: sqlite3.Connection,
    path: Path,
    schema: Schema,
    synchronous: Literal["FULL", "NORMAL"],
    *,
    examined: bool,
) -> None:
    """Check, set up and migrate a file that will be written."""
    version = _version(connection, path, schema)
    if examined:
        _examine(connection)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StateError(f"{path} cannot be used with a write-ahead log: choose another disk")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    _migrate(connection, schema, version)


def _examine(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"malformed: {' '.join(verdict.split())}")


def _version(connection: sqlite3.Connection, path: Path, schema: Schema) -> int:
    """The file's schema version. Raises `StateError` when it is not ours or too new."""
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    known = len(schema.migrations)
    if version > known:
        raise StateError(
            f"{path} was written by a newer Sentinel (schema {version}, this one knows {known}): "
            "upgrade sentinel-train, or choose another directory with --state"
        )
    if (tables or version) and mark != schema.application_id:
        raise StateError(f"{path} is not Sentinel's: move it away, or choose another --state")
    return int(version)


def _check_to_read(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    version = _version(connection, path, schema)
    if version < len(schema.migrations):
        raise StateError(
            f"{path} has the older schema {version}: start `sentinel daemon` on it once, which "
            f"brings it to {len(schema.migrations)}"
        )


def _migrate(connection: sqlite3.Connection, schema: Schema, version: int) -> None:
    """Bring a file from `version` to the newest, each step whole or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        database = sqlite_utils.Database(connection, execute_plugins=False)
        for migration in schema.migrations[version:]:
            migration(database)
        connection.execute(f"PRAGMA application_id = {schema.application_id}")
        connection.execute(f"PRAGMA user_version = {len(schema.migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _unusable(path: Path, error: sqlite3.Error | OSError) -> StateError:
    """What a person can do about an error of SQLite or of the file system."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if "malformed" in text or "not a database" in text or "*** in database" in text:
        advice = "it is damaged or no SQLite database: move it away and start again"
        return DamagedError(f"{path}: {text}: {advice}")
    if "full" in text:
        advice = "free some space on its disk"
    elif isinstance(error, OSError) or "readonly" in text or "unable to open" in text:
        advice = "make it and its directory readable and writable for this user"
    elif "locked" in text:
        advice = "another program has held it for too long"
    else:
        advice = "look at its disk"
    return StateError(f"{path}: {text}: {advice}")
