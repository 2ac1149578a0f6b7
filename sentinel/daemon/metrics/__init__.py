"""`/metrics`: what Prometheus may know. Aggregates only, never one series per rank and signal."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from sentinel import clock
from sentinel.daemon.metrics.of_daemon import add_daemon
from sentinel.daemon.metrics.of_runs import StandingOfRun
from sentinel.daemon.metrics.of_signals import SignalsOfRun
from sentinel.daemon.metrics.page import Page
from sentinel.daemon.run import Run
from sentinel.daemon.service import Service

FEW = 16  # runs whose steps are made into text when somebody scrapes
ROUND = 5.0  # s in which those of more runs are, one after the other, between scrapes
SCRAPED_WITHIN = 120.0  # s after which nobody scrapes any more


class _Known:
    """One run, and what is kept of it from scrape to scrape."""

    def __init__(self, run: Run, layers: int) -> None:
        self.run = run
        self.standing = StandingOfRun(run)
        self.signals = SignalsOfRun(run.name, run.engine, layers)


class Exposition:
    """All metrics of a daemon.

    The steps of many runs are made into text between scrapes, a run at a time, while somebody
    scrapes: a scrape then joins what is there.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[str, _Known] = {}
        self._scraped = -math.inf
        self._next: deque[str] = deque()
        self.prepares = False  # whether it does that now

    async def text(self, form: str) -> bytes:
        """All of them, in the format of this content type.

        The loop goes on with its other work after each run, so that no order waits for a scrape.
        """
        page, runs = Page(), self._service.runs
        self._scraped = clock.steady()
        self._known = {name: one for name, one in self._known.items() if name in runs}
        if len(runs) > FEW and not self.prepares:
            self._prepare_in_turn()
        keep = 2 * ROUND if self.prepares else 0.0
        for name in [*runs]:
            if (run := runs.get(name)) is not None:
                now, known = clock.steady(), self._of(run)
                known.standing.add(page, now)
                if run.active:
                    known.signals.add(page, now, keep)
                await asyncio.sleep(0)
        add_daemon(page, self._service, clock.steady())
        return page.text(form)

    def prepare(self, name: str) -> None:
        """Make the text of this run's last step."""
        run = self._service.runs.get(name)
        if run is not None and run.active:
            self._of(run).signals.prepare(clock.steady())

    def _prepare_in_turn(self) -> None:
        """Prepare one run, and come back for the next."""
        runs = self._service.runs
        self.prepares = len(runs) > FEW and clock.steady() - self._scraped < SCRAPED_WITHIN
        if self.prepares:
            asyncio.get_running_loop().call_later(ROUND / len(runs), self._prepare_in_turn)
            if not self._next:
                self._next.extend(runs)
            self.prepare(self._next.popleft())

    def _of(self, run: Run) -> _Known:
        known = self._known.get(run.name)
        if known is None or known.run is not run:
            known = self._known[run.name] = _Known(run, self._service.settings.metrics_layers)
        return known
