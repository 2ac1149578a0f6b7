"""Messages that people are owed: claimed by one sender, then marked sent, due again, or failed.

A claim is a compare-and-swap on the row's state, committed before anything is sent. A row that
is still claimed when the daemon starts has an unknown fate: it comes back as `doubtful`, and its
receiver has to be asked whether it arrived. Rows of one incident are claimed in their order, one
when the one before it has been sent or given up.

While the disk takes nothing, the newest version of a row lives in memory, so that people are
still told; only a crash in that time can then double a message.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sentinel.errors import StateError
from sentinel.store import outbox_row
from sentinel.store.database import Database
from sentinel.store.notices import Message
from sentinel.store.outbox_row import OutboxRow
from sentinel.store.reading import text, whole

_MEMORY_LIMIT = 10_000  # rows
_UNFINISHED = ("pending", "sending")


@dataclass(frozen=True)
class Receipt:
    """Where a message ended up: Slack's channel id and the message's `ts`."""

    channel: str
    ts: str


@dataclass(frozen=True)
class Delivery:
    """One message for one receiver. Times are seconds since the epoch on the daemon's clock.

    `doubtful`: an earlier attempt may have arrived, ask the receiver for `event_id` first.
    `claimed_at` is the time of the first attempt; `head` where the first message of the same
    incident ended up, None when there is none yet: this one is then the first.
    """

    event_id: str
    receiver: str
    kind: str
    run: str
    incident: str
    payload: str
    attempts: int
    doubtful: bool
    created_at: float
    claimed_at: float
    head: Receipt | None


@dataclass(frozen=True)
class Owed:
    """A receiver that is to be told of a message, `after` so many seconds at the earliest."""

    receiver: str
    after: float = 0.0


Route = Callable[[Message], Sequence[Owed]]


def to_all(receivers: Sequence[str]) -> Route:
    """Every message to each of these."""
    owed = [Owed(receiver) for receiver in receivers]
    return lambda _: owed


to_nobody = to_all(())


class Outbox:
    """All methods may be called from any thread; those for senders never raise for the disk."""

    def __init__(self, database: Database, route: Route, store_id: str) -> None:
        """`route` says who is told of a message; it must not raise."""
        self._database = database
        self._lock = database.lock
        self._route = route
        self._store_id = store_id
        self._claimed: dict[str, OutboxRow] = {}
        self._memory: dict[str, OutboxRow] = {}  # newer than on the disk, or not there at all

    # For the store, which writes messages with what caused them.

    def put(self, connection: sqlite3.Connection, messages: Iterable[Message]) -> set[str]:
        """Write messages in the caller's transaction, with what memory has of such rows.

        When that is committed, call `forget` with what this returns.
        """
        for row in self._addressed(messages):
            outbox_row.insert(connection, row, untouched=self._memory)
        return self._write_memory(connection)

    def put_in_memory(self, messages: Iterable[Message]) -> None:
        """Owe messages whose cause could not be written."""
        with self._lock:
            for row in self._addressed(messages):
                if len(self._memory) < _MEMORY_LIMIT and row.state == "pending":
                    self._memory.setdefault(row.event_id, row)

    def forget(self, event_ids: Iterable[str]) -> None:
        """These rows are on the disk as they are in memory."""
        for event_id in event_ids:
            self._memory.pop(event_id, None)

    def recover(self, connection: sqlite3.Connection) -> None:
        """At start: what was being sent when the last daemon ended has an unknown fate."""
        connection.execute(
            "UPDATE outbox SET state = 'pending', doubtful = 1, next_attempt = 0 "
            "WHERE state = 'sending'"
        )

    def _addressed(self, messages: Iterable[Message]) -> list[OutboxRow]:
        return [
            outbox_row.address(message, owed.receiver, owed.after, self._store_id)
            for message in messages
            for owed in self._route(message) or (Owed(""),)
        ]

    def _write_memory(self, connection: sqlite3.Connection) -> set[str]:
        newest = list(self._memory.values())
        return {row.event_id for row in newest if outbox_row.update(connection, row)}

    # For those who send.

    def claim(self, receiver: str, now: float) -> Delivery | None:
        """Take the next message that is due for this receiver, or None."""
        with self._lock:
            self._settle()
            for row in self._free(receiver):
                if row.next_attempt <= now and (claimed := self._take(row, now)):
                    self._claimed[row.event_id] = claimed
                    return self._delivery(claimed)
            return None

    def next_due(self, receiver: str) -> float | None:
        """When `claim` will next have something, None while there is nothing to wait for."""
        with self._lock:
            return min((row.next_attempt for row in self._free(receiver)), default=None)

    def sent(self, event_id: str, channel: str, ts: str) -> None:
        """A claimed message has arrived, there."""
        with self._lock:
            if row := self._claimed.pop(event_id, None):
                self._save(replace(row, state="sent", error="", channel=channel, ts=ts))

    def again(self, event_id: str, at: float, error: str, *, doubtful: bool) -> None:
        """A claimed message did not arrive, or may not have (`doubtful`): due again at `at`."""
        with self._lock:
            if row := self._claimed.pop(event_id, None):
                self._save(
                    replace(row, state="pending", next_attempt=at, error=error, doubtful=doubtful)
                )

    def failed(self, event_id: str, error: str) -> None:
        """A claimed message will not be tried again, and why."""
        with self._lock:
            if row := self._claimed.pop(event_id, None):
                self._save(replace(row, state="failed", error=error))

    # For those who watch.

    def waiting(self) -> tuple[int, float | None]:
        """How many messages have not arrived yet, and since when (seconds) the oldest waits."""
        with self._lock:
            found = self._unfinished(None)
            return len(found), min((row.created_at for row in found), default=None)

    def counts(self) -> dict[str, int]:
        """Messages by state, as far as they are on the disk."""
        try:
            found = self._database.rows("SELECT state, count(*) n FROM outbox GROUP BY state")
        except StateError:
            return {}
        return {text(row["state"]): whole(row["n"]) for row in found}

    def _unfinished(self, receiver: str | None) -> list[OutboxRow]:
        """Rows that have not come to an end, in their order, each in its newest version."""
        where, parameters = ("", ()) if receiver is None else (" AND receiver = ?", (receiver,))
        try:
            found = self._database.rows(
                f"SELECT * FROM outbox WHERE state IN ('pending', 'sending'){where} ORDER BY id",
                parameters,
            )
        except StateError:
            found = []
        newest = {row.event_id: row for row in map(outbox_row.load, found)}
        newest |= {
            event_id: row
            for event_id, row in self._memory.items()
            if receiver in (None, row.receiver)
        }
        return [row for row in newest.values() if row.state in _UNFINISHED]

    def _free(self, receiver: str) -> list[OutboxRow]:
        """The first unfinished row of each incident, unless it is being sent."""
        first: dict[str, OutboxRow] = {}
        for row in self._unfinished(receiver):
            first.setdefault(row.incident, row)
        return [row for row in first.values() if row.state == "pending"]

    def _take(self, row: OutboxRow, now: float) -> OutboxRow | None:
        claimed = replace(
            row,
            state="sending",
            attempts=row.attempts + 1,
            claimed_at=now if row.claimed_at is None else row.claimed_at,
        )
        if row.event_id not in self._memory:
            try:
                with self._database.transaction() as connection:
                    taken = outbox_row.claim(connection, claimed)
            except StateError:
                pass
            else:
                return claimed if taken else None
        self._memory[row.event_id] = claimed
        return claimed

    def _save(self, row: OutboxRow) -> None:
        self._memory[row.event_id] = row
        self._settle()

    def _settle(self) -> None:
        """Bring what is in memory to the disk, if that takes it."""
        if not self._memory:
            return
        try:
            with self._database.transaction() as connection:
                written = self._write_memory(connection)
        except StateError:
            return
        self.forget(written)

    def _delivery(self, row: OutboxRow) -> Delivery:
        return Delivery(
            event_id=row.event_id,
            receiver=row.receiver,
            kind=row.kind,
            run=row.run,
            incident=row.incident,
            payload=row.payload,
            attempts=row.attempts,
            doubtful=row.doubtful,
            created_at=row.created_at,
            claimed_at=row.claimed_at or 0.0,
            head=self._head(row),
        )

    def _head(self, row: OutboxRow) -> Receipt | None:
        """Where the first message of this incident that has arrived is."""
        try:
            found = self._database.rows(
                "SELECT * FROM outbox WHERE incident = ? AND receiver = ? AND state = 'sent' "
                "ORDER BY id LIMIT 1",
                (row.incident, row.receiver),
            )
        except StateError:
            found = []
        candidates = [*map(outbox_row.load, found), *self._memory.values()]
        for other in candidates:
            key = (other.incident, other.receiver, other.state)
            if key == (row.incident, row.receiver, "sent"):
                return Receipt(other.channel, other.ts)
        return None
