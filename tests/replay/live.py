"""A daemon's own service, with the time as the test has it and neither process nor sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sentinel import wire
from sentinel.daemon.counts import Counts
from sentinel.daemon.ledger import Ledger
from sentinel.daemon.leftover import Leftovers
from sentinel.daemon.orders import Desk
from sentinel.daemon.run import Run
from sentinel.daemon.service import Service, Settings
from sentinel.engine.rule import Rule
from sentinel.engine.transition import Transition
from sentinel.errors import WireError
from sentinel.store import Recording, Store
from sentinel.store.history import History

T = TypeVar("T")
CLEAN_STEPS = 3


class PromptLedger(Ledger):
    """Writes at once, in the caller's thread, and remembers which transitions."""

    def __init__(self, store: Store, counts: Counts, told: list[Transition]) -> None:
        self._store = store
        self._counts = counts
        self._actions = {}
        self._failing = False
        self.saving = False
        self._told = told

    def commit(
        self, transitions: Sequence[Transition], then: Callable[[list[int] | None], None]
    ) -> None:
        self._told.extend(transitions)
        super().commit(transitions, then)

    def know(self, run: str, started: float, record_id: str, action_id: int) -> None:
        self._actions[run, started, record_id] = action_id

    def _submit(self, work: Callable[[], T], then: Callable[[T | None], None]) -> None:
        then(work())


class Line:
    """A connection to a rank."""

    def __init__(self) -> None:
        self.refused = False

    def send(self, message: wire.FromDaemon) -> None:
        """Nobody reads it."""

    def refuse(self, reason: str, *, final: bool = False) -> None:
        self.refused = True


class LiveDaemon:
    """What ranks say to it is told to the daemon's own code. `told` is what its engines said."""

    def __init__(self, state_dir: Path, rules: Sequence[Rule]) -> None:
        self.told: list[Transition] = []
        self._settings = Settings(state_dir, rules, clean_steps=CLEAN_STEPS)

    def start(self, now: float) -> None:
        """As `Service.open`, without what reaches outside."""
        service = self.service = Service(self._settings)
        service.store = Store.open(self._settings.state_dir)
        service.recording = Recording.open(self._settings.state_dir)
        service.history = History(service.recording.database)
        service.ledger = PromptLedger(service.store, service.counts, self.told)
        record = service.recording.append
        service.desk = Desk(service.ledger, service.counts, lambda news: None, record)
        service.leftovers = Leftovers(service.store, now)
        self._lines: dict[int, Line] = {}

    def stop(self, now: float) -> None:
        """As `Service.close`."""
        for rank in [*self._lines]:
            self.cut(rank, now)
        self.service._save(last=True)
        for run in self.service.runs.values():
            run.shelf.keep(now)
        self.service.recording.flush()
        self.service.recording.close()
        self.service.store.close()

    def hello(self, hello: wire.Hello, now: float) -> None:
        """A rank opens a connection, which the daemon may refuse."""
        line = Line()
        try:
            self.service.admit(hello, line, now, wire.encode(hello)[4:])
        except WireError:
            return
        self._lines[hello.rank] = line

    def says(self, rank: int, message: wire.FromRank, now: float) -> None:
        """What a rank says when it is not connected is lost."""
        line = self._lines.get(rank)
        if line is None or line.refused:
            return
        try:
            self._run.hear(rank, message, now, wire.encode(message)[4:])
        except WireError:
            self.cut(rank, now)

    def cut(self, rank: int, now: float) -> None:
        """The connection of a rank ends."""
        line = self._lines.pop(rank, None)
        if line is not None:
            self._run.left(rank, line, now)

    def tick(self, now: float) -> None:
        """A second has passed, or less, or more."""
        for run in self.service.runs.values():
            run.tick(now)
        self.service._save()
        self.service.recording.flush()

    def launcher_ended(self, now: float, *, well: bool) -> None:
        """All ranks are gone."""
        for run in self.service.runs.values():
            run.end(now, well=well)

    @property
    def incident(self) -> str:
        """The one that is open, or nothing."""
        run = self.service.runs.get("run")
        return (run.incident if run is not None else None) or ""

    @property
    def _run(self) -> Run:
        return self.service.runs["run"]
