"""Writes the record from one thread, in order, and lets what follows happen only after.

The event loop never waits for a disk, and nothing is acted on before it has been committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sentinel import clock
from sentinel.control.hold import Record
from sentinel.daemon.counts import Counts
from sentinel.engine.checkpoint import Checkpoint
from sentinel.engine.coverage import RunCoverage
from sentinel.engine.transition import Transition
from sentinel.errors import StateError
from sentinel.store.attention import Telling
from sentinel.store.shapes import ActionRow, ActionState, HoldRow, RankRow, RunRow
from sentinel.store.store import Store
from sentinel.store.writing import NewAction, Refusal, Reminder

log = logging.getLogger("sentinel.daemon")

T = TypeVar("T")

RESTARTED = "the daemon was restarted before this was carried out"


class Ledger:
    """The store, as the event loop uses it: every call is done in the order of calling."""

    def __init__(self, store: Store, counts: Counts) -> None:
        self._store = store
        self._counts = counts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._loop = asyncio.get_running_loop()
        self._actions: dict[tuple[str, float, str], int] = {}  # the writing thread's own
        self.failing = False  # whether what was to be written last could not be
        self.saving = False  # whether runs are being saved

    async def close(self) -> None:
        """Wait for all that was to be written."""
        await self._loop.run_in_executor(self._thread, lambda: None)
        self._thread.shutdown()

    def commit(
        self, transitions: Sequence[Transition], then: Callable[[list[int] | None], None]
    ) -> None:
        """Commit; then call `then` with the ids of the actions that were asked for.

        It gets None when nothing could be written, and then must act on nothing.
        """
        self._submit(lambda: self._store.commit(transitions), then)

    def record(self, run: str, started: float, record: Record, hold: HoldRow | None = None) -> None:
        """Put what became of an action on the record, once, however often it is told.

        `started` is when this job of the run began: another job counts its orders anew. `hold`:
        how the run is held now, if that is what the record says.
        """
        self._submit(lambda: self._write_record(run, started, record, hold), lambda _: None)

    async def add_action(self, new: NewAction) -> int:
        """Put an action on the record; returns its id. Raises `StateError`."""

        def add() -> int:
            return self._store.add_action(
                new.run,
                new.action,
                by=new.by,
                at=new.at,
                step=new.step,
                state=new.state,
                incident=new.incident,
                reason=new.reason,
                detail=new.detail,
                order=new.order,
            )

        return await self.call(add)

    async def refused(self, run: str, action: str, by: str, why: str) -> None:
        """Put an order on the record that was refused. Raises `StateError`."""
        now = clock.steady()
        await self.add_action(NewAction(run, action, "refused", 0, by, now, detail=why))

    def turned_away(self, refusal: Refusal) -> None:
        """Put on the record what was refused before it could become an action."""
        self._submit(lambda: self._store.add_refusal(refusal), lambda _: None)

    def remind(self, reminder: Reminder) -> None:
        """Owe people a reminder of a hold, once, however often it is asked for."""
        self._submit(lambda: self._store.remind(reminder), lambda _: None)

    def prune(self, now: float) -> None:
        """Forget messages that came to their end long ago."""
        self._submit(lambda: self._store.prune(now), lambda _: None)

    def tell(self, tellings: Sequence[Telling]) -> None:
        """Owe people how incidents stand."""
        self._submit(lambda: self._store.tell(tellings), lambda _: None)

    def change(self, action_id: int, state: ActionState, at: float, detail: str) -> None:
        """Put on the record what became of an action."""
        self._submit(
            lambda: self._store.update_action(action_id, state, at=at, detail=detail),
            lambda _: None,
        )

    def lapse(self, run: str, started: float, before: float, at: float) -> None:
        """What was asked for between these times and never carried out, nobody carries out now."""

        def lapse() -> None:
            for row in self._store.actions(run):
                if row.state == "requested" and started <= row.at < before:
                    self._store.update_action(row.id, "lapsed", at=at, detail=RESTARTED)

        self._submit(lapse, lambda _: None)

    def know(self, run: str, started: float, record_id: str, action_id: int) -> None:
        """The record with this id is the action row `action_id`."""
        self._thread.submit(self._actions.__setitem__, (run, started, record_id), action_id)

    def save_runs(
        self,
        rows: list[tuple[RunRow, list[RankRow]]],
        coverage: Sequence[RunCoverage],
        saved: Callable[[], None],
    ) -> None:
        """Save runs, ranks and these of their coverages as they are now, then call `saved`.

        Passed over while the last such save is still going on.
        """
        if self.saving or not rows:
            return
        self.saving = True

        def save() -> bool:
            self._store.save_runs(rows, coverage)
            return True

        def done(was_saved: bool | None) -> None:
            self.saving = False
            if was_saved:
                saved()

        self._submit(save, done)

    def save_checkpoints(
        self, run: str, checkpoints: Sequence[Checkpoint], at: float, failed: Callable[[], None]
    ) -> None:
        """Save how these checkpoints of a run stand; call `failed` if that could not be done."""

        def save() -> bool:
            self._store.save_checkpoints(run, checkpoints, at)
            return True

        self._submit(save, lambda was_saved: None if was_saved else failed())

    async def call(self, work: Callable[[], T]) -> T:
        """Do this with the store in its turn. Raises what it raises, such as `StateError`."""
        return await self._loop.run_in_executor(self._thread, work)

    def _submit(self, work: Callable[[], T], then: Callable[[T | None], None]) -> None:
        def done(future: Future[T]) -> None:
            self._loop.call_soon_threadsafe(self._done, future, then)

        self._thread.submit(work).add_done_callback(done)

    def _done(self, future: Future[T], then: Callable[[T | None], None]) -> None:
        error = future.exception()
        if error is None:
            if self.failing:
                self.failing = False
                log.warning("the record is being written again")
            then(future.result())
            return
        self._counts.unrecorded += 1
        if not isinstance(error, StateError):
            log.error("writing the record failed", exc_info=error)
        elif not self.failing:  # said once, not every second
            self.failing = True
            log.error("the record cannot be written, so nothing is acted on: %s", error)
        then(None)

    # The writing thread.

    def _write_record(self, run: str, started: float, record: Record, hold: HoldRow | None) -> None:
        key = (run, started, record.id)
        action_id = self._actions.get(key)
        if action_id is None:
            row = self._find(run, started, record)
            self._actions[key] = row.id if row else self._add(run, record, hold)
            if row is None or _tells(row, record):
                return
            action_id = row.id
        self._store.update_action(
            action_id,
            record.state,
            at=record.at,
            step=record.step,
            detail=record.reason,
            hold=hold,
        )

    def _add(self, run: str, record: Record, hold: HoldRow | None) -> int:
        return self._store.add_action(
            run,
            record.action,
            by=record.by,
            at=record.at,
            step=record.step,
            state=record.state,
            incident=record.incident or self._incident(run),
            reason=record.reason,
            hold=hold,
        )

    def _find(self, run: str, started: float, record: Record) -> ActionRow | None:
        """The row that an earlier daemon wrote for this record, if any."""
        known = set(self._actions.values())
        for row in reversed(self._store.actions(run)):
            same = row.action == record.action and row.by == record.by and row.at >= started
            if same and row.id not in known and (row.state == "requested" or _tells(row, record)):
                return row
        return None

    def _incident(self, run: str) -> str | None:
        incident = self._store.open_incident(run)
        return incident.id if incident else None


def _tells(row: ActionRow, record: Record) -> bool:
    return row.state == record.state and row.step == record.step
