"""The part of the HTTP interface that a page begins with: who asks, and what runs there are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypedDict

from aiohttp import web
from msgspec import Meta, Struct

from sentinel import __version__, clock
from sentinel.clock import isoformat
from sentinel.daemon.answer import who
from sentinel.daemon.endpoint import Endpoint, PersonRole, endpoint
from sentinel.daemon.glance import Glance, Glances, SparklineJSON
from sentinel.daemon.operator import Operator
from sentinel.daemon.service import Service
from sentinel.daemon.view import row_of
from sentinel.engine.coverage import RunCoverage
from sentinel.signals import CATALOG
from sentinel.store.shapes import HoldJSON, RunRow, RunState, hold_json
from sentinel.store.store import Store
from sentinel.store.tally import Tally, tallies
from sentinel.store.tokens import Token


class RunsQuery(Struct, forbid_unknown_fields=True):
    """How many runs, the newest first."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class WhoJSON(TypedDict):
    """Who asks, as the record would name them, what they may do, and which version answers."""

    by: str
    role: PersonRole
    version: str


class CatalogJSON(TypedDict):
    """A signal of the catalog. `label` names the label its series carry, or is empty; `stage` is
    where in a step it arises, 0 first."""

    signal: str
    unit: str
    help: str
    label: str
    reduction: str
    stage: int
    made_by: str


class IncidentCountsJSON(TypedDict):
    """Incidents of a run; `worst` is the severity of the worst that is open, null if none is."""

    open: int
    total: int
    worst: str | None


class CoverageCountsJSON(TypedDict):
    """How many signals are measured on some rank, how many on none, and how many rules cannot see
    what they judge. Of the latter two, `not_applicable` and `rules_not_applicable` are those of
    which it is known that there is nothing to be seen in such a run."""

    measured: int
    missing: int
    blind_rules: int
    not_applicable: int
    rules_not_applicable: int


class RunJSON(TypedDict):
    """A run at a glance. `latest` has, of some signals without labels, those that were measured."""

    run: str
    state: RunState
    step: int
    world_size: int
    started: str
    ended: str | None
    command: str
    hold: HoldJSON | None
    incidents: IncidentCountsJSON
    open_incident: str | None
    latest: dict[str, float | str]
    sparkline: SparklineJSON
    coverage: CoverageCountsJSON


@dataclass(frozen=True)
class _Known:
    """What is on record of all runs."""

    rows: dict[str, RunRow]
    tallies: Mapping[str, Tally]
    coverage: Mapping[str, RunCoverage]


def overview_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api = _OverviewApi(service)
    return [
        endpoint("GET", "/api/v1/whoami", api.whoami),
        endpoint("GET", "/api/v1/catalog", api.catalog),
        endpoint("GET", "/api/v1/runs", api.runs),
        endpoint("GET", "/api/v1/runs/{run}", api.run, errors=(404,)),
    ]


class _OverviewApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._operator = Operator(service)
        self._glances = Glances(service.past)

    async def whoami(self, request: web.Request) -> WhoJSON:
        """Who asks, and what they may do."""
        token = request.get("token")
        role = token.role if isinstance(token, Token) else "admin"
        assert role != "trainer"  # who is let in nowhere here
        return WhoJSON(by=who(request), role=role, version=__version__)

    async def catalog(self, request: web.Request) -> list[CatalogJSON]:
        """All signals that there are, whether or not any run measures them."""
        return [
            CatalogJSON(
                signal=one.name,
                unit=one.unit,
                help=one.help,
                label=one.label,
                reduction=one.reduction.value,
                stage=one.stage.value,
                made_by=one.made_by,
            )
            for one in CATALOG.values()
        ]

    async def runs(self, request: web.Request, query: RunsQuery) -> list[RunJSON]:
        """All runs at a glance, the newest first."""
        known = await self._known()
        newest = sorted(known.rows.values(), key=lambda row: row.started, reverse=True)
        return await self._shown(newest[: query.limit], known)

    async def run(self, request: web.Request) -> RunJSON:
        """One run at a glance."""
        name = request.match_info["run"]
        known = await self._known(name)
        if name not in known.rows:
            raise await self._operator.no_such(name)
        (shown,) = await self._shown([known.rows[name]], known)
        return shown

    async def _known(self, run: str | None = None) -> _Known:
        known = await self._service.reader.call(partial(_known, run=run))
        living = {name: row_of(run) for name, run in self._service.runs.items()}
        return _Known(known.rows | living, known.tallies, known.coverage)

    async def _shown(self, rows: Sequence[RunRow], known: _Known) -> list[RunJSON]:
        def look() -> list[Glance]:
            return [self._glances.of(row) for row in rows]

        loop = asyncio.get_running_loop()
        glances = await loop.run_in_executor(self._service.reading, look)
        return [self._one(row, known, one) for row, one in zip(rows, glances, strict=True)]

    def _one(self, row: RunRow, known: _Known, glance: Glance) -> RunJSON:
        tally = known.tallies.get(row.name, Tally())
        living = self._service.runs.get(row.name)
        coverage = known.coverage.get(row.name)
        if coverage is None and living is not None:  # it has only just begun
            coverage = living.engine.coverage()
        return RunJSON(
            run=row.name,
            state=row.state,
            step=row.step,
            world_size=row.world_size,
            started=isoformat(row.started),
            ended=None if row.ended is None else isoformat(row.ended),
            command=row.command,
            hold=hold_json(row.hold, clock.steady()) if row.hold else None,
            incidents=IncidentCountsJSON(open=tally.open, total=tally.total, worst=tally.worst),
            open_incident=tally.newest,
            latest=glance.latest,
            sparkline=glance.sparkline,
            coverage=_counts(coverage),
        )


def _known(store: Store, run: str | None) -> _Known:
    """What is on record of all runs; of what can be seen, only of `run` if that is not None."""
    return _Known(
        {row.name: row for row in store.runs()},
        store.look(tallies),
        {report.run: report for report in store.coverage(run)},
    )


def _counts(coverage: RunCoverage | None) -> CoverageCountsJSON:
    signals = coverage.signals if coverage else ()
    measured = {one.signal for one in signals if one.state in ("measured", "sampled")}
    missing = {one.signal for one in signals} - measured
    rules = coverage.rules if coverage else ()
    blind = sum(one.state == "blind" for one in rules)
    applicable = {one.signal for one in signals if one.applicable}
    return CoverageCountsJSON(
        measured=len(measured),
        missing=len(missing),
        blind_rules=blind,
        not_applicable=len(missing - applicable),
        rules_not_applicable=sum(not one.applicable for one in rules),
    )
