"""The daemon of a drill in this process, as `sentinel run` has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sentinel.cli.drills.chronicle import Chronicle
from sentinel.cli.drills.stage import RUN, DrillError
from sentinel.cli.narrator import Narrator
from sentinel.cli.terminal import Terminal
from sentinel.daemon.news import ActionNews, News
from sentinel.daemon.service import Service, Settings
from sentinel.daemon.serving import serving
from sentinel.engine.transition import AlertChanged

PROGRESS = 2.0  # s between lines of progress


@dataclass
class EmbeddedDaemon:
    """See `stage.Daemon`."""

    service: Service
    chronicle: Chronicle
    _fired: set[str] = field(default_factory=set)

    def hear(self, news: News) -> None:
        """See `news.Listener`."""
        if isinstance(news, AlertChanged) and news.state == "firing":
            self._fired.add(news.rule)
            self.chronicle.note("noticed", f"by {news.rule}", news.step)
        elif isinstance(news, ActionNews):
            record = news.record
            if (record.action, record.state) == ("pause", "requested"):
                self.chronicle.note("hold asked for", f"by {record.by}")
            elif (record.action, record.state) == ("pause", "done"):
                self.chronicle.note("held", f"by {record.by}", record.step)
            elif (record.action, record.state) == ("resume", "done"):
                self.chronicle.note("resumed", f"by {record.by}: {record.reason}", record.step)

    def front(self) -> int:
        """See `Daemon.front`."""
        run = self.service.runs.get(RUN)
        return max((state.step for state in run.engine.ranks.values()), default=0) if run else 0

    def stands(self) -> bool:
        """See `Daemon.stands`."""
        run = self.service.runs.get(RUN)
        return run is not None and run.state == "held"

    def firing(self) -> frozenset[str]:
        """See `Daemon.firing`."""
        return frozenset(self._fired)

    def drained(self) -> bool:
        """See `Daemon.drained`."""
        outbox = self.service.store.outbox
        return outbox.waiting()[0] == 0 and bool(outbox.counts())

    def kill(self) -> None:
        """See `Daemon.kill`."""
        raise DrillError("the daemon could be killed without this process")

    async def start(self) -> None:
        """See `Daemon.start`; it serves already."""

    def launched(self, command: str) -> None:
        """See `Daemon.launched`."""
        self.service.launched(RUN, command)

    async def launcher_ended(self, *, well: bool) -> None:
        """See `Daemon.launcher_ended`."""
        self.service.launcher_ended(well=well)
        await self.service.settled()


@asynccontextmanager
async def embedded(
    settings: Settings, chronicle: Chronicle, terminal: Terminal
) -> AsyncIterator[EmbeddedDaemon]:
    """A daemon that tells what it sees. Raises as `serving`."""
    async with serving(settings, None) as service:
        daemon = EmbeddedDaemon(service, chronicle)
        narrator = Narrator(service, terminal, every=PROGRESS)
        service.listeners += [narrator.hear, daemon.hear]
        progress = asyncio.create_task(narrator.progress())
        try:
            yield daemon
        finally:
            progress.cancel()
