"""Whether the daemon works and sees: what is wrong with it, for the dead man's switch.

It is asked from the event loop, so that a loop which stands still says nothing. In this order:

1. The clock ticks: another tick comes within `TICK`.
2. The record answers, through the thread that writes it, within `ANSWER`.
3. Nothing that was to be written is missing, and nothing inside has failed since the last look.
4. No run is lost, or says that it goes on and is not heard of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from sentinel import clock
from sentinel.daemon.run import Run
from sentinel.daemon.service import KEEP_LOST, Service
from sentinel.errors import StateError
from sentinel.store.shapes import RunRow

TICK = 5.0  # s
ANSWER = 10.0  # s
SILENT = 60.0  # s without any message from any rank of a run
STILL = 1800.0  # s in which no rank of a run has come further, though none is held or saving


class VitalSigns:
    """`look` says in words, which stay the same while it stays so, what is wrong."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._faults = 0
        self._asked: asyncio.Future[list[RunRow]] | None = None

    async def look(self) -> Sequence[str]:
        """What is wrong; nothing if all is well."""
        wrong = []
        if not await self._ticks():
            wrong.append("the daemon's clock stands still")
        try:
            rows = await self._record()
        except (StateError, RuntimeError):  # the latter: it is being closed
            rows = None
        if rows is None:
            wrong.append("the record does not answer")
        counts = self._service.counts
        if self._service.ledger.failing:
            wrong.append("the record cannot be written")
        if self._service.recording_fails:
            wrong.append("the recording of messages cannot be written")
        if counts.faults > self._faults:
            wrong.append("something inside the daemon has failed: its log says what")
        self._faults = counts.faults
        return [*wrong, *self._of_runs(rows or [], clock.steady())]

    async def _ticks(self) -> bool:
        """Whether the clock goes on. By then all that had come in has been read."""
        counts = self._service.counts
        seen, deadline = counts.ticks, clock.monotonic() + TICK
        while counts.ticks == seen:
            if clock.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    async def _record(self) -> list[RunRow] | None:
        """All runs on record, or None when no answer comes; nothing more is asked until it does."""
        service = self._service
        if self._asked is None:
            self._asked = asyncio.ensure_future(service.ledger.call(service.store.runs))
        done, _ = await asyncio.wait({self._asked}, timeout=ANSWER)
        if not done:
            return None
        answered, self._asked = self._asked, None
        return answered.result()

    def _of_runs(self, rows: Sequence[RunRow], now: float) -> Iterator[str]:
        runs = self._service.runs
        for run in runs.values():
            if why := _wrong_with(run, now):
                yield f"run {run.name} {why}"
        for row in rows:  # also those that an earlier daemon has seen last
            is_news = row.ended is not None and now - row.ended <= KEEP_LOST
            if row.state == "lost" and is_news and row.name not in runs:
                yield f"run {row.name} is lost"


def _wrong_with(run: Run, now: float) -> str:
    if run.state == "lost":
        return "is lost"
    ranks = run.ranks.values()
    if not run.active or not ranks:
        return ""
    if now - max(rank.last_seen for rank in ranks) > SILENT:
        return "is not heard of, though its connections are open"
    if now - max(rank.moved for rank in ranks) > STILL:
        return "is heard of, but does not come further"
    return ""
