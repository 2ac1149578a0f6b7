"""The daemon as a whole: runs by name, the clock, the record, and who is told.

One event loop does everything but writing: the record has a thread of its own, and the recording
of all messages another, so that no disk delays an order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sentinel import address, clock, wire
from sentinel.daemon import leftover, place
from sentinel.daemon.access import Access
from sentinel.daemon.archive import Archive
from sentinel.daemon.counts import Counts
from sentinel.daemon.covering import Covering
from sentinel.daemon.historian import Historian
from sentinel.daemon.ledger import Ledger
from sentinel.daemon.news import Listener, News
from sentinel.daemon.offering import Offering
from sentinel.daemon.orders import Desk
from sentinel.daemon.quieting import Quieting
from sentinel.daemon.reader import Reader
from sentinel.daemon.recorder import Recorder
from sentinel.daemon.refusals import Refusals
from sentinel.daemon.run import Line, Run
from sentinel.daemon.session import Session
from sentinel.daemon.streams import Streams
from sentinel.daemon.telemetry import RecordedTelemetry
from sentinel.daemon.telling import Teller
from sentinel.daemon.view import rows_of
from sentinel.engine.checkpoint import CLEAN_STEPS
from sentinel.engine.rule import Rule
from sentinel.engine.run import RunEngine
from sentinel.errors import SentinelError, WireError
from sentinel.notify.deadman import Ping
from sentinel.notify.dispatcher import Dispatcher
from sentinel.notify.receiver import Receiver
from sentinel.notify.settings import NotifySettings, Route
from sentinel.notify.telemetry import Illustrates
from sentinel.signals.exposition import LAYERS
from sentinel.store.store import Store

log = logging.getLogger("sentinel.daemon")

MAX_RUNS = 256  # in memory at once
KEEP_FINISHED = 600.0  # s that a finished run stays in memory, and
KEEP_LOST = 3600.0  # s a lost one, which may come back
FAREWELL = 5.0  # s at shutdown for messages that are due, and
LINGER = 1.0  # s for connections to end
REVIVED = 86_400.0  # s; what failed no longer ago is tried again at a start that finds all well
PRUNE_EVERY = 3600.0  # s


@dataclass(frozen=True)
class Settings:
    """What a daemon is told at its start. `observe`: rules may not act.

    `ping`: where a standing daemon says that it lives. `notify` says which of the `receivers` are
    told of what; None: all of everything. `clean_steps` have to follow a checkpoint for it to be
    healthy. `buttons`: under whose messages there are to be some, where the daemon stands by
    itself. `page_url`: where people have the pages, if that was said; `metrics_layers`: see the
    option.
    """

    state_dir: Path
    rules: Sequence[Rule]
    observe: bool = False
    receivers: Sequence[Receiver] = ()
    ping: Ping | None = None
    notify: NotifySettings | None = None
    clean_steps: int = CLEAN_STEPS
    buttons: Sequence[Offering] = ()
    metrics_layers: int = LAYERS
    page_url: str = ""


class Service:
    """A daemon in this process. `await open()`, then `await close()`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counts = Counts()
        self.runs: dict[str, Run] = {}
        self.streams = Streams(self.runs)
        self.listeners: list[Listener] = [self.streams.hear]
        self.page_base = ""  # where the pages are served, if they are
        self._sessions: set[Session] = set()
        self._dispatchers: list[Dispatcher] = []
        self._delivery: list[asyncio.Task[None]] = []
        self._closers: list[Callable[[], object]] = []
        self._commands: dict[str, str] = {}
        self._max_connections = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128
        self.reading = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._covering = Covering()
        self._prune_at = 0.0

    async def open(self) -> None:
        """Take the state directory and begin to serve.

        Raises `StateError`, and `StateTakenError` when a daemon serves there already.
        """
        receivers = self.settings.receivers
        names = [one.name for one in receivers]
        notify = self.settings.notify or NotifySettings({}, Route(tuple(names), group_by=("run",)))
        self._teller = Teller(notify, names)
        try:
            self._take()
            await self._listen()
        except BaseException:
            self._release()
            raise
        telemetry = RecordedTelemetry(self.store.state_dir, self._engine_of, self.recorder.flush)
        for receiver in receivers:
            if isinstance(receiver, Illustrates):
                receiver.illustrate(telemetry)
            self._deliver(receiver)
        self.recorder.begin()
        self._clock = asyncio.create_task(self._tick_forever())

    def _take(self) -> None:
        """Open what is in the state directory."""
        self.store = Store.open(self.settings.state_dir, route=self._teller.route)
        self._closers.append(self.store.close)
        state_dir = self.store.state_dir
        self.recorder = Recorder(state_dir, self.counts)
        self._closers.append(self.recorder.close)
        self.recording, self.history = self.recorder.recording, self.recorder.history
        self.past = self.recorder.past
        self.reader = Reader(state_dir)
        self._closers.append(self.reader.close)
        self.ledger = Ledger(self.store, self.counts)
        self.quieting = Quieting(self.ledger, self.store, self._teller, self._tell)
        self.refusals = Refusals(self.ledger, self.counts)
        self.access = Access(state_dir, self.refusals)
        self.desk = Desk(
            self.ledger,
            self.counts,
            self._tell,
            self.recording.append,
            self.settings.observe,
            Archive(state_dir, self.recorder.worker),
        )
        self.leftovers = leftover.Leftovers(self.store, clock.steady())

    async def _listen(self) -> None:
        """Let ranks connect."""
        path = self.store.state_dir / address.SOCKET_NAME
        listener = place.bind(path)
        self._closers.append(partial(place.remove, path, listener))
        self._server = await asyncio.get_running_loop().create_unix_server(
            partial(Session, self), sock=listener, backlog=address.BACKLOG
        )

    async def close(self) -> None:
        """Write what is not written, send what is due, and give the state directory back."""
        self._clock.cancel()
        self._server.close()
        for session in [*self._sessions]:
            session.refuse("the daemon is shutting down")
        await self._empty()
        await self.ledger.call(lambda: None)  # saves that go on would stand in the way of this one
        self._tell_late(clock.steady(), hurry=True)
        self._save(last=True)
        self.refusals.close()
        for run in self.runs.values():
            run.shelf.keep(clock.steady())
        await self.ledger.close()
        await self._stop_delivering()
        await self.recorder.stop()
        self.reading.shutdown()
        self._release()

    async def _empty(self) -> None:
        """Wait until all sessions have ended."""
        deadline = clock.monotonic() + LINGER
        while self._sessions and clock.monotonic() < deadline:
            await asyncio.sleep(0.01)

    async def _stop_delivering(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.gather(*(one.drained(FAREWELL) for one in self._dispatchers))
        for task in self._delivery:
            task.cancel()
        await asyncio.gather(*self._delivery, return_exceptions=True)
        for receiver in self.settings.receivers:
            await receiver.close()

    def _release(self) -> None:
        for close in reversed(self._closers):
            close()
        self._closers.clear()

    def _deliver(self, receiver: Receiver) -> None:
        dispatcher = Dispatcher(self.store.outbox, receiver, pages=self.settings.page_url)
        self._dispatchers.append(dispatcher)
        self.store.on_message(dispatcher.wake)
        self._delivery.append(asyncio.create_task(self._check(receiver)))
        self._delivery.append(asyncio.create_task(dispatcher.run()))

    async def _check(self, receiver: Receiver) -> None:
        try:
            log.info("%s: messages go out as %s", receiver.name, await receiver.check())
        except SentinelError as error:
            log.warning("%s takes no messages now: %s", receiver.name, error)
            return
        now = clock.steady()
        again = await self.ledger.call(
            lambda: self.store.resend(
                lambda row: row.receiver == receiver.name and now - row.created_at < REVIVED, now
            )
        )
        if again:
            log.info("%s: %d messages that had failed are sent again", receiver.name, len(again))

    def _engine_of(self, run: str) -> RunEngine | None:
        known = self.runs.get(run)
        return known.engine if known else None

    # For sessions.

    def admit(self, hello: wire.Hello, session: Line, now: float, body: bytes) -> Run:
        """See `session.Floor`."""
        run = self.runs.get(hello.run)
        if run is not None and run.state == "finished":
            run = None  # another job by the name of one that has come to its end
        if run is None:
            run = self.runs[hello.run] = self._new_run(hello, now)
        run.admit(hello, session, now, body)
        return run

    def _new_run(self, hello: wire.Hello, now: float) -> Run:
        if not hello.run.strip() or not hello.run.isprintable() or "/" in hello.run:
            raise WireError(f"{hello.run!r} cannot name a run")
        if hello.run not in self.runs:
            self._make_room()
        chosen = self.settings
        engine = RunEngine(hello.run, chosen.rules, clean_steps=chosen.clean_steps)
        run = Run(hello.run, engine, self.desk, now)
        run.check(hello)
        engine.watch(Historian(hello.run, self.history, self.counts))
        run.command = self._commands.get(hello.run, "")
        self.leftovers.hand_over(run, hello, self.ledger, now, self.runs.get(hello.run))
        return run

    def _make_room(self) -> None:
        """Forget the run that has ended first when there are too many. Raises `WireError`."""
        if len(self.runs) < MAX_RUNS:
            return
        over = {name: run.ended for name, run in self.runs.items() if run.ended is not None}
        if not over:
            raise WireError(f"the daemon serves {MAX_RUNS} runs already")
        self._forget(min(over, key=lambda name: over[name]))

    def _forget(self, name: str) -> None:
        del self.runs[name]
        self.history.close_run(name)

    def turned_away(self, kind: str, by: str, asked: str, why: str, run: str) -> None:
        """See `session.Floor`."""
        self.refusals.note(kind, by, asked, why, known=run, run=run)

    def opened(self, session: Session) -> bool:
        """See `session.Floor`."""
        self._sessions.add(session)
        self.counts.connections = len(self._sessions)
        return len(self._sessions) <= self._max_connections

    def closed(self, session: Session) -> None:
        """See `session.Floor`."""
        self._sessions.discard(session)
        self.counts.connections = len(self._sessions)

    # For those who start runs and those who look on.

    def launched(self, run: str, command: str) -> None:
        """A run by this name is about to be started by this command."""
        self._commands[run] = command

    def launcher_ended(self, *, well: bool) -> None:
        """No rank of any run lives any more. `well`: the command ended with status 0."""
        for run in self.runs.values():
            run.end(clock.steady(), well=well)

    async def settled(self) -> None:
        """Wait until all that has happened so far is on the record and has been told."""
        await self.ledger.call(lambda: None)

    def active(self) -> list[Run]:
        """The runs that go on."""
        return [run for run in self.runs.values() if run.active]

    def _tell(self, news: News) -> None:
        for listener in self.listeners:
            try:
                listener(news)
            except Exception:
                self.counts.faults += 1
                log.exception("a listener failed")

    # The clock.

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + 1.0, loop.time())
            await asyncio.sleep(due - loop.time())
            self.counts.lag.observe(max(0.0, loop.time() - due))
            try:
                self._tick(clock.steady())
                self.counts.ticks += 1
            except Exception:
                self.counts.faults += 1
                log.exception("a tick failed")

    def _tick(self, now: float) -> None:
        for name, run in [*self.runs.items()]:
            run.tick(now)
            kept = KEEP_FINISHED if run.state == "finished" else KEEP_LOST
            if run.ended is not None and now - run.ended > kept and run.saved:
                self._forget(name)
        self.refusals.tick()
        self._tell_late(now)
        if self.store.behind:
            self.ledger.commit([], lambda _: None)
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_EVERY
            self.ledger.prune(now)
        self._save()
        self.recorder.flush_soon()

    def _tell_late(self, now: float, *, hurry: bool = False) -> None:
        """Tell what was kept quiet and is not any more, and what nobody has answered to."""
        going_on = {run.name for run in self.runs.values() if run.state != "finished"}
        expects = self.leftovers.expects  # those that may come back

        def goes_on(run: str) -> bool:
            return run in going_on or expects(run)

        if tellings := self._teller.due(now, goes_on, hurry=hurry):
            self.ledger.tell(tellings)

    def _save(self, *, last: bool = False) -> None:
        """Save runs and ranks as they are; those that have ended once more, then no longer."""
        if self.ledger.saving:
            return
        runs = [run for run in self.runs.values() if not run.saved]
        lost = self.leftovers.given_up(clock.steady())
        rows = [*map(rows_of, runs), *lost]
        coverage = self._covering.due(runs, math.inf if last else clock.monotonic())

        def saved() -> None:
            self.leftovers.settled(row.name for row, _ in lost)
            for row, _ in lost:
                self.ledger.lapse(row.name, row.started, row.ended or 0.0, row.ended or 0.0)
            self._covering.settled(coverage)
            for run, (row, _) in zip(runs, rows, strict=False):
                run.saved = row.ended is not None and row.ended == run.ended

        self.ledger.save_runs(rows, coverage, saved)

    @property
    def recording_fails(self) -> bool:
        """Whether what ranks say, or what is judged of it, cannot be written now."""
        return self.recorder.fails
