"""Gives people's orders to runs, whichever way they come: the same checks and the same refusals."""

from __future__ import annotations

from sentinel.daemon import way_back
from sentinel.daemon.orders import Request
from sentinel.daemon.run import Run
from sentinel.daemon.service import Service
from sentinel.errors import ControlError, SentinelError
from sentinel.signals import did_you_mean


class NotFoundError(SentinelError):
    """There is no run or action by that name."""


class Operator:
    """Passes orders on to the runs of one daemon."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def order(self, run: str, asked: Request) -> tuple[int, Request]:
        """Give an order; returns the id of its row, and the order as it was given.

        Raises `NotFoundError` when there is no such run, `ControlError` when it cannot be carried
        out now, which is on the record then, and `StateError` when it could not be recorded: then
        nothing was done.
        """
        found = self._service.runs.get(run)
        if found is None or not found.active:
            raise await self._gone(run, found, asked)
        return await way_back.ask(found, asked)

    async def names(self) -> list[str]:
        """All runs that are known."""
        rows = await self._service.ledger.call(self._service.store.runs)
        return [*dict.fromkeys([*(row.name for row in rows), *self._service.runs])]

    async def no_such(self, name: str) -> NotFoundError:
        """That there is no run by this name, with one that may have been meant."""
        return NotFoundError(f"there is no run {name!r}{did_you_mean(name, await self.names())}")

    async def _gone(self, name: str, run: Run | None, asked: Request) -> SentinelError:
        """Why a run that is not there takes no order; on record if there ever was one."""
        if name not in await self.names():
            return await self.no_such(name)
        state = run.state if run else "lost"
        why = f"run {name} is {state}: it cannot take orders any more"
        if run is None and self._service.leftovers.expects(name):
            why = f"no rank of run {name} has come back to this restarted daemon yet: try again"
        await self._service.ledger.refused(name, asked.action, asked.by, why)
        return ControlError(why)
