"""The part of the HTTP interface that charts are drawn from.

Everything is read in a thread of its own, so that the loop waits for no disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, TypeVar

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, field

from sentinel.daemon import charts
from sentinel.daemon.charts import HeatmapJSON, SeriesJSON, SignalJSON, Wanted
from sentinel.daemon.endpoint import BadRequestError, Endpoint, endpoint
from sentinel.daemon.marks import MarkJSON, marks
from sentinel.daemon.operator import Operator
from sentinel.daemon.service import Service
from sentinel.signals import CATALOG, Signal, did_you_mean
from sentinel.store.history_reading import Look

MAX_SIGNALS = 64  # in one question
MAX_LABELS = 64  # in one question: an address has to hold them
MAX_SERIES = 256  # in one answer

_Step = Annotated[int, Meta(ge=0, le=1 << 53)]
_Signal = Annotated[str, Meta(max_length=512, extra_json_schema={"enum": [*CATALOG]})]
_Name = Annotated[str, Meta(min_length=1, max_length=512)]


class Within(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which steps are asked for: to the newest, unless `to` is said."""

    since: _Step | UnsetType = field(default=UNSET, name="from")
    until: _Step | UnsetType = field(default=UNSET, name="to")

    def __post_init__(self) -> None:
        if self.first is not None and self.last is not None and self.first > self.last:
            raise ValueError(f"from {self.first} is after to {self.last}")

    @property
    def first(self) -> int | None:
        """The first step that is asked for."""
        return None if self.since is UNSET else self.since

    @property
    def last(self) -> int | None:
        """The last one."""
        return None if self.until is UNSET else self.until


class SeriesQuery(Within):
    """What is asked of `/series`. With no label, all labels of those signals that have some."""

    signal: Annotated[tuple[_Signal, ...], Meta(min_length=1, max_length=MAX_SIGNALS)]
    label: Annotated[tuple[_Name, ...], Meta(max_length=MAX_LABELS)] = ()
    points: Annotated[int, Meta(ge=2, le=4000)] = 1000
    band: bool = False


class HeatmapQuery(Within):
    """What is asked of `/heatmap`."""

    signal: _Signal
    rows: Literal["label", "rank"]
    columns: Annotated[int, Meta(ge=1, le=1000)] = 240
    max_rows: Annotated[int, Meta(ge=1, le=2048)] = 256


T = TypeVar("T")


def series_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api = _SeriesApi(service)
    return [
        endpoint("GET", "/api/v1/runs/{run}/signals", api.signals, errors=(404,)),
        endpoint("GET", "/api/v1/runs/{run}/series", api.series, errors=(404,)),
        endpoint("GET", "/api/v1/runs/{run}/heatmap", api.heatmap, errors=(404,)),
        endpoint("GET", "/api/v1/runs/{run}/marks", api.marks, errors=(404,)),
    ]


class _SeriesApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._operator = Operator(service)

    async def signals(self, request: web.Request) -> list[SignalJSON]:
        """What there is to draw of a run."""
        return await self._look(request, lambda _, look: charts.signals(look), lambda _: [])

    async def series(self, request: web.Request, query: SeriesQuery) -> SeriesJSON:
        """Series in as many stretches of steps as are asked for."""
        for signal in query.signal:
            _known(signal)
        if query.label and not any(CATALOG[signal].label for signal in query.signal):
            raise BadRequestError(f"label: {', '.join(query.signal)} has no labels")
        return await self._look(request, partial(_series, query), partial(_no_series, query))

    async def heatmap(self, request: web.Request, query: HeatmapQuery) -> HeatmapJSON:
        """A signal by its labels or by ranks, in as many stretches of steps as are asked for."""
        if not _known(query.signal).label and query.rows == "label":
            raise BadRequestError(f"rows: {query.signal} has no labels: expected rank")
        return await self._look(request, partial(_heatmap, query), partial(_no_heatmap, query))

    async def marks(self, request: web.Request, query: Within) -> list[MarkJSON]:
        """What happened at which steps."""
        run = await self._run(request)
        found = await marks(self._service, run)
        first = query.first or 0
        return [
            one
            for one in found
            if one["step"] >= first and (query.last is None or one["step"] <= query.last)
        ]

    async def _run(self, request: web.Request) -> str:
        """The run that is asked about. Raises `NotFoundError`."""
        run = request.match_info["run"]
        if run not in self._service.runs and run not in await self._operator.names():
            raise await self._operator.no_such(run)
        return run

    async def _look(
        self,
        request: web.Request,
        read: Callable[[str, Look], T],
        nothing: Callable[[str], T],
    ) -> T:
        run = await self._run(request)

        def answer() -> T:
            look = self._service.past.look(run)
            return nothing(run) if look is None else read(run, look)

        return await asyncio.get_running_loop().run_in_executor(self._service.reading, answer)


def _known(name: str) -> Signal:
    """A signal of the catalog. Raises `BadRequestError`."""
    signal = CATALOG.get(name)
    if signal is None:
        raise BadRequestError(f"there is no signal {name!r}{did_you_mean(name, CATALOG)}")
    return signal


def _series(asked: SeriesQuery, run: str, look: Look) -> SeriesJSON:
    within = charts.span(look, asked.first, asked.last, asked.points)
    return charts.series(look, run, _wanted(asked, look), within, asked.band)


def _wanted(asked: SeriesQuery, look: Look) -> list[Wanted]:
    """The series that are meant. Raises `BadRequestError` when there are too many."""
    labels: dict[str, list[str]] = {}
    for one in look.columns():
        labels.setdefault(one.sheet, []).append(one.name)
    found: list[Wanted] = []
    for signal in asked.signal:
        if not CATALOG[signal].label:
            found.append(Wanted(signal, ""))
        else:
            found += [Wanted(signal, one) for one in asked.label or labels.get(signal, [])]
    if len(found) > MAX_SERIES:
        raise BadRequestError(
            f"label: {len(found)} series are too many, at most {MAX_SERIES}: name some"
        )
    return found


def _no_series(asked: SeriesQuery, run: str) -> SeriesJSON:
    return {
        "run": run,
        "first_step": None,
        "last_step": None,
        "from": asked.first or 0,
        "to": asked.last or 0,
        "bin": 1,
        "steps": [],
        "times": [],
        "series": [],
    }


def _heatmap(asked: HeatmapQuery, run: str, look: Look) -> HeatmapJSON:
    within = charts.span(look, asked.first, asked.last, asked.columns)
    return charts.heatmap(look, run, asked.signal, asked.rows == "rank", within, asked.max_rows)


def _no_heatmap(asked: HeatmapQuery, run: str) -> HeatmapJSON:
    return HeatmapJSON(
        run=run,
        signal=asked.signal,
        unit=CATALOG[asked.signal].unit,
        rows=[],
        dropped_rows=0,
        bin=1,
        steps=[],
        values=[],
        nonfinite=[],
    )
