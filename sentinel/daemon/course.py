"""The one way to a run's engine: what happens is recorded, then judged.

The engine hears of nothing in another way, so that a replay can tell it the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sentinel import wire
from sentinel.daemon.counts import Counts
from sentinel.engine import event
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import Transition
from sentinel.store.chunk import DAEMON

log = logging.getLogger("sentinel.daemon")

MAX_TOLD = 20  # faults that are logged; all are counted

Record = Callable[[str, int, float, bytes | None], None]


class Course:
    """What happens to one run, in its order."""

    def __init__(self, engine: RunEngine, counts: Counts, record: Record) -> None:
        self._engine = engine
        self._counts = counts
        self._record = record

    def begin(
        self, now: float, *, continues: bool, step: int | None, returns: int | None = None
    ) -> None:
        """The engine is new; see `event.Began`."""
        began = event.Began(self._engine.checkpoints.needed, continues, step, returns)
        self._record(self._engine.run, DAEMON, now, event.encode(began))

    def keep(self, rank: int, what: event.Happening, now: float, body: bytes | None) -> None:
        """Record it, and no more. `body` is a rank's message as it came, if it came as one."""
        if isinstance(what, event.OfDaemon):
            body = event.encode(what)
        elif what is not None and body is None:
            body = wire.encode(what)[wire.HEADER :]
        self._record(self._engine.run, rank, now, body)

    def judge(
        self, rank: int, what: event.Happening, now: float, body: bytes | None = None
    ) -> list[Transition]:
        """Record it, and tell the engine, whose faults are counted and go no further."""
        self.keep(rank, what, now, body)
        begun = time.perf_counter()
        try:
            transitions = event.take(self._engine, rank, what, now)
        except Exception:
            self._counts.faults += 1
            if self._counts.faults <= MAX_TOLD:
                log.exception("run %s: the engine failed on a message", self._engine.run)
            return []
        self._counts.judge.observe(time.perf_counter() - begun)
        return transitions
