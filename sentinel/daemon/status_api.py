"""The part of the HTTP interface that tells how runs stand, as the command line shows it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from sentinel import clock
from sentinel.daemon.endpoint import Endpoint, endpoint, given
from sentinel.daemon.operator import Operator
from sentinel.daemon.service import Service
from sentinel.daemon.view import status_of
from sentinel.engine.coverage import RunCoverage
from sentinel.store.shapes import IncidentJSON, StatusJSON
from sentinel.store.shelf import CheckpointJSON, as_json
from sentinel.store.store import Store

RunName = Annotated[str, Meta(min_length=1, max_length=512)]


class OfRun(Struct, forbid_unknown_fields=True):
    """One run, or all."""

    run: RunName | UnsetType = UNSET


def status_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api = _StatusApi(service)
    return [
        endpoint("GET", "/api/v1/status", api.status, errors=(404,)),
        endpoint("GET", "/api/v1/coverage", api.coverage, errors=(404,)),
        endpoint("GET", "/api/v1/incidents", api.incidents, errors=(404,)),
        endpoint("GET", "/api/v1/checkpoints", api.checkpoints, errors=(404,)),
    ]


class _StatusApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._operator = Operator(service)

    async def status(self, request: web.Request, query: OfRun) -> list[StatusJSON]:
        """All runs that are known, or one, with their ranks."""
        wanted, now = given(query.run), clock.steady()
        stored = await self._service.ledger.call(lambda: self._service.store.status(now, wanted))
        shown: dict[str, StatusJSON] = {entry["run"]: entry for entry in stored}
        for name, run in [*self._service.runs.items()]:
            if wanted in (None, name):
                shown[name] = status_of(run, now)
                await asyncio.sleep(0)  # there may be thousands of ranks
        if wanted is not None and not shown:
            raise await self._operator.no_such(wanted)
        return [*shown.values()]

    async def coverage(self, request: web.Request, query: OfRun) -> list[RunCoverage]:
        """What can be seen of all runs that are known, or of one."""
        wanted = given(query.run)
        reports = await self._service.reader.call(lambda store: store.coverage(wanted))
        shown = {report.run: report for report in reports}
        for name, run in [*self._service.runs.items()]:
            if wanted in (None, name):
                shown[name] = run.engine.coverage()
                await asyncio.sleep(0)  # each takes some milliseconds
        if wanted is not None and not shown and wanted not in await self._operator.names():
            raise await self._operator.no_such(wanted)
        return [*shown.values()]

    async def incidents(self, request: web.Request, query: OfRun) -> list[IncidentJSON]:
        """All incidents, or those of one run, oldest first."""
        wanted = given(query.run)
        if wanted is not None and wanted not in await self._operator.names():
            raise await self._operator.no_such(wanted)
        found = await self._service.reader.call(lambda store: store.incidents(wanted))
        await self._service.quieting.why_quiet(found)
        return found

    async def checkpoints(self, request: web.Request, query: OfRun) -> list[CheckpointJSON]:
        """The checkpoints of all runs that are known, or of one, in the order of saving."""
        wanted, names = given(query.run), await self._operator.names()
        if wanted is not None and wanted not in names:
            raise await self._operator.no_such(wanted)
        shown: list[CheckpointJSON] = []
        for name in names if wanted is None else [wanted]:
            run = self._service.runs.get(name)
            if run is not None:
                known = run.engine.checkpoints.all()
            else:
                known = await self._service.reader.call(partial(Store.checkpoints, run=name))
            shown += as_json(name, known)
        return shown
