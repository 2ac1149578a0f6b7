"""Messages that people are owed: claimed by one sender, then marked sent, due again, or failed.

A row is `pending` until it is claimed (`sending`), and ends as `sent`, as `folded` (its news went
out with the row before it: see `folding`) or as `failed`, from where a person, or a daemon that
finds the receiver well again, can bring it back.

A claim is a compare-and-swap on the row's state, committed before anything is sent. A row that
is still claimed when the daemon starts has an unknown fate: it comes back as `doubtful`, and its
receiver has to be asked whether it arrived. Rows of one incident are claimed in their order, one
when the one before it has been sent or given up.

While the disk takes nothing, the newest version of a row lives in memory, so that people are
still told; only a crash in that time can then double a message.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile

from sentinel.errors import StateError
from sentinel.store import outbox_reading, outbox_row
from sentinel.store.database import Database
from sentinel.store.folding import fold
from sentinel.store.notices import Message
from sentinel.store.outbox_row import OutboxRow, State
from sentinel.store.reading import text, whole

_MEMORY_LIMIT = 10_000  # rows
_UNFINISHED: tuple[State, ...] = ("pending", "sending")


@dataclass(frozen=True)
class Receipt:
    """Where a message ended up: Slack's channel id and the message's `ts`. `incident`: whose."""

    channel: str
    ts: str
    incident: str = ""


@dataclass(frozen=True)
class Delivery:
    """One message for one receiver. Times are seconds since the epoch on the daemon's clock.

    `doubtful`: an earlier attempt may have arrived, ask the receiver for `event_id` first.
    `due_at` is when it was first to be sent, `claimed_at` the time of the first attempt; `head`
    where the first message of the same incident ended up, None when there is none yet: this one
    is then the first.
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
    due_at: float
    claimed_at: float
    head: Receipt | None


@dataclass(frozen=True)
class Owed:
    """A receiver that is to be told of a message, `after` so many seconds at the earliest.

    No receiver is nobody, and `note` is then why.
    """

    receiver: str
    after: float = 0.0
    note: str = ""


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

    def _addressed(self, messages: Iterable[Message]) -> list[OutboxRow]:
        return [
            outbox_row.address(message, owed.receiver, owed.after, self._store_id, owed.note)
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
            for row in self._due(receiver, now):
                if claimed := self._take(row, now):
                    self._claimed[row.event_id] = claimed
                    return self._delivery(claimed)
            return None

    def next_due(self, receiver: str) -> float | None:
        """When `claim` will next have something, None while there is nothing to wait for."""
        with self._lock:
            if not self._memory:
                with suppress(StateError):
                    return outbox_reading.next_due(self._database, receiver)
            return min((row.next_attempt for row in self._free(receiver)), default=None)

    def fold(self, event_id: str, now: float) -> Delivery:
        """A claimed message that has not arrived, with what is due after it of its incident.

        Those other rows come to their end with this; see `folding`.
        """
        with self._lock:
            claimed = self._claimed[event_id]
            rows = self._rows(_UNFINISHED, receiver=claimed.receiver, incident=claimed.incident)
            place = [row.event_id for row in rows].index(event_id)
            later = takewhile(lambda row: _untried(row, now), rows[place + 1 :])
            folded = fold([replace(claimed, doubtful=False), *later])
            if len(folded) > 1:
                self._claimed[event_id] = folded[0]
                self._save(*folded)
            return self._delivery(self._claimed[event_id])

    def hasten(self, receiver: str, now: float) -> None:
        """The receiver is back: what waits for another attempt is due now."""
        with self._lock:
            self._save(
                *(
                    replace(row, next_attempt=now)
                    for row in self._rows(("pending",), receiver=receiver)
                    if row.attempts and row.next_attempt > now
                )
            )

    def expire(self, receiver: str, before: float, error: str) -> int:
        """Give up what has waited since before then; returns how many that were."""
        with self._lock:
            old = [
                replace(row, state="failed", error=error)
                for row in self._rows(("pending",), receiver=receiver, created_before=before)
                if (row.due_at if row.claimed_at is None else row.claimed_at) < before
            ]
            self._save(*old)
            return len(old)

    def sent(self, event_id: str, channel: str, ts: str) -> None:
        """A claimed message has arrived, there."""
        with self._lock:
            if row := self._claimed.pop(event_id, None):
                self._save(replace(row, state="sent", error="", channel=channel, ts=ts))

    def withdraw(self, incident: str, note: str) -> None:
        """What nobody has tried to send yet of an incident is owed to nobody, and why.

        Raises `StateError`.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET state = 'unaddressed', receiver = '', error = ? "
                "WHERE incident = ? AND state = 'pending' AND attempts = 0",
                (note, incident),
            )

    def again(self, event_id: str, at: float, error: str, *, doubtful: bool) -> None:
        """A claimed message did not arrive, or may not have (`doubtful`): due again at `at`."""
        with self._lock:
            if row := self._claimed.pop(event_id, None):
                self._save(
                    replace(row, state="pending", next_attempt=at, error=error, doubtful=doubtful)
                )

    def failed(self, event_id: str, error: str, *, doubtful: bool = False) -> None:
        """A claimed message will not be tried again, and why; `doubtful`: it may have arrived."""
        with self._lock:
            if row := self._claimed.pop(event_id, None):
                self._save(replace(row, state="failed", error=error, doubtful=doubtful))

    # For those who want what failed to be tried again.

    def resend(self, chosen: Callable[[OutboxRow], bool], now: float) -> list[OutboxRow]:
        """Failed messages that are chosen are due again; returns them."""
        with self._lock:
            found = [
                replace(row, state="pending", next_attempt=now, claimed_at=None)
                for row in self._rows(("failed",))
                if chosen(row)
            ]
            self._save(*found)
            return found

    # For those who watch.

    def unsettled(self) -> list[OutboxRow]:
        """What waits, what is being sent, and what failed, in the order of being written."""
        with self._lock:
            return self._rows((*_UNFINISHED, "failed"))

    def waiting(self) -> tuple[int, float | None]:
        """How many messages have not arrived yet, and since when (seconds) the oldest waits."""
        with self._lock:
            if not self._memory:
                with suppress(StateError):
                    return outbox_reading.waiting(self._database)
            found = self._rows(_UNFINISHED)
            return len(found), min((row.created_at for row in found), default=None)

    def counts(self) -> dict[str, int]:
        """Messages by state, as far as they are on the disk."""
        try:
            found = self._database.rows("SELECT state, count(*) n FROM outbox GROUP BY state")
        except StateError:
            return {}
        return {text(row["state"]): whole(row["n"]) for row in found}

    def whose(self, channel: str, ts: str) -> str | None:
        """The receiver that posted this message, if it is one of ours. Raises `StateError`."""
        with self._lock:
            for row in self._memory.values():
                if (row.channel, row.ts, row.state) == (channel, ts, "sent"):
                    return row.receiver
            found = self._database.rows(
                "SELECT receiver FROM outbox WHERE channel = ? AND ts = ? AND state = 'sent' "
                "LIMIT 1",
                (channel, ts),
            )
            return text(found[0]["receiver"]) if found else None

    def _rows(
        self,
        states: tuple[State, ...],
        *,
        receiver: str | None = None,
        incident: str | None = None,
        created_before: float = math.inf,
    ) -> list[OutboxRow]:
        """Rows in these states, in their order, each in its newest version."""
        try:
            found = outbox_reading.rows(
                self._database,
                states,
                receiver=receiver,
                incident=incident,
                created_before=created_before,
            )
        except StateError:
            found = []
        newest = {row.event_id: row for row in found}
        newest |= {
            event_id: row
            for event_id, row in self._memory.items()
            if receiver in (None, row.receiver)
            and incident in (None, row.incident)
            and row.created_at < created_before
        }
        return [row for row in newest.values() if row.state in states]

    def _due(self, receiver: str, now: float) -> list[OutboxRow]:
        """Rows that may be claimed, as many as are of use."""
        if not self._memory:
            with suppress(StateError):
                return outbox_reading.due(self._database, receiver, now)
        return [row for row in self._free(receiver) if row.next_attempt <= now]

    def _free(self, receiver: str) -> list[OutboxRow]:
        """The first unfinished row of each incident, unless it is being sent."""
        first: dict[str, OutboxRow] = {}
        for row in self._rows(_UNFINISHED, receiver=receiver):
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

    def _save(self, *rows: OutboxRow) -> None:
        self._memory |= {row.event_id: row for row in rows}
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
            due_at=row.due_at,
            claimed_at=row.claimed_at or 0.0,
            head=self._head(row),
        )

    def _head(self, row: OutboxRow) -> Receipt | None:
        """Where the first message that has arrived and told of this incident is."""
        try:
            found = outbox_reading.first_sent(self._database, row)
        except StateError:
            found = []
        candidates = [*found, *self._memory.values()]
        for other in candidates:
            key = (other.receiver, other.state)
            mine = other.incident == row.incident or other in candidates[: len(found)]
            if mine and key == (row.receiver, "sent"):
                return Receipt(other.channel, other.ts, other.incident)
        return None


def _untried(row: OutboxRow, now: float) -> bool:
    """Due, and sure not to have arrived."""
    return row.state == "pending" and not row.doubtful and row.next_attempt <= now
