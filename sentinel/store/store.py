"""The record: `sentinel.db` in the state directory, and the only way to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from sentinel import clock
from sentinel.engine.checkpoint import Checkpoint
from sentinel.engine.coverage import RunCoverage
from sentinel.engine.open_incident import OpenIncident
from sentinel.engine.transition import Transition
from sentinel.errors import StateError
from sentinel.store import (
    journal,
    location,
    presses,
    reading,
    saving,
    shelf,
    upkeep,
    writing,
)
from sentinel.store.attention import Acknowledgment, Telling
from sentinel.store.database import Database
from sentinel.store.journal import Break, Detail, Link
from sentinel.store.notices import unrecorded
from sentinel.store.outbox import Outbox, Route, to_nobody
from sentinel.store.outbox_row import OutboxRow
from sentinel.store.presses import PressRow, PressState
from sentinel.store.schema import FILE_NAME, SCHEMA
from sentinel.store.shapes import (
    ActionRow,
    ActionState,
    HoldRow,
    IncidentJSON,
    RankRow,
    RunRow,
    StatusJSON,
)
from sentinel.store.silences import Silences
from sentinel.store.standing import Standing, standing
from sentinel.store.writing import (
    ActionChange,
    Change,
    NewAction,
    Refusal,
    Reminder,
    Written,
)

_BEHIND_LIMIT = 10_000  # changes
_NOTHING: Detail = {}
T = TypeVar("T")


class Store:
    """All methods may be called from any thread; each holds a lock for one short transaction.

    Every method that writes raises `StateError` when it could not; the store stays usable.
    """

    def __init__(
        self,
        state_dir: Path,
        database: Database,
        lock: location.Lock | None,
        route: Route,
    ) -> None:
        """Use `open`."""
        self.state_dir = state_dir
        self._database = database
        self._directory_lock = lock
        self._guard = database.lock  # the outbox must not move between a commit and its own notes
        self._backlog: list[Change] = []
        self._wake: list[Callable[[], None]] = []
        (row,) = database.rows("SELECT value FROM meta WHERE key = 'store'")
        self.outbox = Outbox(database, route, reading.text(row["value"]))
        self.silences = Silences(database)

    @classmethod
    def open(cls, state_dir: Path, *, readonly: bool = False, route: Route = to_nobody) -> Store:
        """Open the record in `state_dir`; makes it (0700) unless `readonly`.

        `route` says who is told of a message: it gets one outbox row for each. Where that is
        nobody, the row is still written, in the state "unaddressed".
        A writable store holds `daemon.lock` until `close` or the process's death.
        Raises `StateError`, and `StateTakenError` with the process that has it.
        """
        if readonly:
            path = state_dir.absolute() / FILE_NAME
            database = Database.open(path, SCHEMA, readonly=True, synchronous="FULL")
            return cls(path.parent, database, None, route)
        real = location.prepare(state_dir)
        lock = location.Lock(real)
        try:
            path = real / FILE_NAME
            database = Database.open(path, SCHEMA, readonly=False, synchronous="FULL")
            store = cls(real, database, lock, route)
            with database.transaction() as connection:
                upkeep.recover(connection, clock.steady())
        except BaseException:
            lock.release()
            raise
        return store

    def close(self) -> None:
        """Close the record and let another daemon have the directory."""
        with self._guard:
            self._database.close()
            if self._directory_lock:
                self._directory_lock.release()

    def on_message(self, wake: Callable[[], None]) -> None:
        """`wake` is called, in the writing thread, when there is something new to be sent."""
        self._wake.append(wake)

    def commit(self, transitions: Sequence[Transition] = ()) -> list[int]:
        """Write what changed, with the messages it causes, in one transaction.

        Returns the ids of the action rows made for the `ActionWanted` in `transitions`, in order;
        act on these only after this has returned. On `StateError` nothing was written: act on
        nothing. The transitions then stay in memory and are written before those of the next
        commit that succeeds (their `ActionWanted` as refused), and their messages go out from
        memory. Call `commit()` now and then while `behind` is not 0.
        """
        with self._guard:
            if not transitions and not self._backlog:
                return []
            return self._write_or_remember(transitions).actions

    @property
    def behind(self) -> int:
        """Changes that could not be written yet."""
        return len(self._backlog)

    def _write(self, changes: Sequence[Change]) -> Written:
        """Write the backlog and `changes`, all or nothing."""
        with self._database.transaction() as connection:
            late = writing.write(connection, self._backlog, acts=False)
            written = writing.write(connection, changes)
            settled = self.outbox.put(connection, [*late.messages, *written.messages])
        self.outbox.forget(settled)
        self._backlog.clear()
        if late.messages or written.messages:
            self._wake_all()
        return written

    def _write_or_remember(self, changes: Sequence[Change]) -> Written:
        try:
            return self._write(changes)
        except StateError:
            self._remember(changes)
            raise

    def _remember(self, changes: Sequence[Change]) -> None:
        """Keep what could not be written, and have its messages sent all the same."""
        if not changes:
            return
        self._backlog.extend(changes)
        del self._backlog[:-_BEHIND_LIMIT]
        messages = [unrecorded(message) for message in self._rehearse(changes).messages]
        self.outbox.put_in_memory(messages)
        if messages:
            self._wake_all()

    def _rehearse(self, changes: Sequence[Change]) -> Written:
        """What writing `changes` would cause, with the disk left as it is."""
        earlier = self._backlog[: -len(changes)]
        try:
            with self._database.rehearsal() as connection:
                writing.write(connection, earlier, acts=False)
                return writing.write(connection, changes, acts=False)
        except StateError:  # not even readable: then from what is in memory alone
            empty = Database.in_memory(SCHEMA)
            try:
                with empty.rehearsal() as connection:
                    writing.write(connection, earlier, acts=False)
                    return writing.write(connection, changes, acts=False)
            finally:
                empty.close()

    def _wake_all(self) -> None:
        for wake in self._wake:
            wake()

    def save_runs(
        self,
        rows: Iterable[tuple[RunRow, Iterable[RankRow]]],
        coverage: Iterable[RunCoverage] = (),
    ) -> None:
        """Insert or update runs, their ranks and what can be seen of them, in one transaction."""
        with self._database.transaction() as connection:
            for run, ranks in rows:
                saving.save_run(connection, run, ranks)
            for report in coverage:
                saving.save_coverage(connection, report)

    def save_checkpoints(self, run: str, checkpoints: Iterable[Checkpoint], at: float) -> None:
        """Insert or update these checkpoints of a run."""
        with self._database.transaction() as connection:
            saving.know_run(connection, run, at)
            shelf.write(connection, run, checkpoints)

    def checkpoints(self, run: str) -> list[Checkpoint]:
        """The checkpoints of a run as last recorded, in the order in which they were saved."""
        with self._database.snapshot() as connection:
            return shelf.read(connection, run)

    def add_action(
        self,
        run: str,
        action: str,
        *,
        by: str,
        at: float,
        step: int = 0,
        state: ActionState = "requested",
        incident: str | None = None,
        reason: str = "",
        detail: str = "",
        order: Detail = _NOTHING,
        hold: HoldRow | None = None,
    ) -> int:
        """Put an action (also one that is refused at once) on the record; returns its id."""
        new = NewAction(
            run, action, state, step, by, at, incident, reason, detail, order, hold=hold
        )
        with self._guard:
            return self._write([new]).actions[0]

    def add_refusal(self, refusal: Refusal) -> None:
        """Put on the record what was refused before it could become an action."""
        with self._guard:
            self._write([refusal])

    def remind(self, reminder: Reminder) -> None:
        """Owe people a reminder of a hold, unless they have been owed it already.

        On `StateError` it stays in memory, as with `commit`, and goes out from there.
        """
        with self._guard:
            self._write_or_remember([reminder])

    def acknowledge(self, incident: str, by: str, at: float) -> IncidentJSON:
        """Note that somebody looks after an open incident, and tell the others; returns it.

        Nothing changes where somebody has done so, or it is over. Raises `LookupError` when there
        is no such incident.
        """
        with self._guard:
            with self._database.snapshot() as connection:
                reading.incident(connection, incident)
            self._write([Acknowledgment(incident, by, at)])
            with self._database.snapshot() as connection:
                return reading.incident(connection, incident)

    def tell(self, tellings: Sequence[Telling]) -> None:
        """Owe people how incidents stand. On `StateError` as with `commit`."""
        with self._guard:
            self._write_or_remember(tellings)

    def standing(self, only: Collection[str] | None = None) -> list[Standing]:
        """How incidents stand with those who are told of them; see `store.standing`."""
        with self._database.snapshot() as connection:
            return standing(connection, only)

    def update_action(
        self,
        action_id: int,
        state: ActionState,
        *,
        at: float,
        step: int | None = None,
        detail: str = "",
        hold: HoldRow | None = None,
    ) -> None:
        """What became of an action; causes a message when it belongs to an incident.

        On `StateError` the change stays in memory, as with `commit`. Raises `LookupError` when
        there is no such action.
        """
        with self._guard:
            change = ActionChange(action_id, state, step, detail, at, hold)
            try:
                if not self._database.rows("SELECT 1 FROM actions WHERE id = ?", (action_id,)):
                    raise LookupError(f"no action {action_id} is on the record")
                self._write([change])
            except StateError:
                self._remember([change])
                raise

    def resend(self, chosen: Callable[[OutboxRow], bool], now: float) -> list[OutboxRow]:
        """Messages that could not be delivered, and are chosen, are due again; returns them."""
        found = self.outbox.resend(chosen, now)
        if found:
            self._wake_all()
        return found

    def prune(self, now: float) -> None:
        """Forget messages that came to their end long ago; see `upkeep.prune`."""
        with self._database.transaction() as connection:
            upkeep.prune(connection, now)

    def take_press(self, press: PressRow) -> bool:
        """Put a press on the record; False when it is there already: then do nothing."""
        with self._database.transaction() as connection:
            return presses.take(connection, press)

    def settle_press(self, press_id: str, state: PressState, answer: str, at: float) -> None:
        """What came of a press that was taken."""
        with self._database.transaction() as connection:
            presses.settle(connection, press_id, state, answer, at)

    def unsettled_presses(self) -> list[PressRow]:
        """Presses that were taken and came to nothing yet, oldest first."""
        with self._database.snapshot() as connection:
            return presses.unsettled(connection)

    def look(self, at: Callable[[sqlite3.Connection], T]) -> T:
        """What a function of this package that reads finds, all of it at the same moment."""
        with self._database.snapshot() as connection:
            return at(connection)

    def incidents(self, run: str | None = None) -> list[IncidentJSON]:
        """All incidents, of one run or of all, newest last, as `incidents --json` prints them."""
        with self._database.snapshot() as connection:
            return reading.incidents(connection, run)

    def status(self, now: float, run: str | None = None) -> list[StatusJSON]:
        """Runs as last recorded, as `status --json` prints them; `now` on `clock.steady()`."""
        with self._database.snapshot():
            return [
                reading.status(row, self.ranks(row.name), now)
                for row in self.runs()
                if run in (None, row.name)
            ]

    def coverage(self, run: str | None = None) -> list[RunCoverage]:
        """What could be seen of runs when it last changed, oldest run first."""
        where, parameters = ("", ()) if run is None else (" WHERE run = ?", (run,))
        sql = f"SELECT report FROM coverage JOIN runs ON run = name{where} ORDER BY runs.rowid"
        return [*map(reading.coverage, self._database.rows(sql, parameters))]

    def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        return [
            reading.run(row) for row in self._database.rows("SELECT * FROM runs ORDER BY rowid")
        ]

    def ranks(self, run: str) -> list[RankRow]:
        """The ranks of a run, by rank."""
        found = self._database.rows("SELECT * FROM ranks WHERE run = ? ORDER BY rank", (run,))
        return [reading.rank(row) for row in found]

    def actions(self, run: str | None = None) -> list[ActionRow]:
        """All actions, oldest first, each in its latest state."""
        where, parameters = ("", ()) if run is None else (" WHERE run = ?", (run,))
        found = self._database.rows(f"SELECT * FROM actions{where} ORDER BY id", parameters)
        return [reading.action(row) for row in found]

    def action(self, id: int) -> ActionRow | None:
        """One action in its latest state; None if there is none by this id."""
        found = self._database.rows("SELECT * FROM actions WHERE id = ?", (id,))
        return reading.action(found[0]) if found else None

    def journals(self) -> list[str]:
        """The runs that have a journal, oldest first; `journal.NO_RUN` is none of them."""
        with self._database.snapshot() as connection:
            return journal.chains(connection)

    def journal(self, run: str) -> list[Link]:
        """What was done and refused in a run, row by row, as it stands in the file."""
        with self._database.snapshot() as connection:
            return journal.chain(connection, run)

    def verify(
        self, run: str, checked: Callable[[int], None] = lambda _: None
    ) -> tuple[list[Link], Break | None]:
        """The journal of a run, and where it does not hold, or the table of actions belies it.

        None when all is as it was written; whether the newest rows are missing, only a head that
        was noted elsewhere can show. `checked` is told of each row, for those who wait.
        """
        with self._database.snapshot() as connection:
            links = journal.chain(connection, run)
            broken = journal.first_break(links, run, checked)
            return links, broken or journal.disagreement(connection, run, links)

    def open_incident(self, run: str) -> OpenIncident | None:
        """The newest incident of this run that is not resolved, to be adopted by the engine."""
        with self._database.snapshot() as connection:
            return reading.open_incident(connection, run)
