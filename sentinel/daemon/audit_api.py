"""The part of the HTTP interface that shows the record of what was done, and checks it."""

from __future__ import annotations

from typing import Annotated, TypedDict

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from sentinel.daemon.endpoint import Endpoint, endpoint, given
from sentinel.daemon.operator import Operator
from sentinel.daemon.service import Service
from sentinel.daemon.status_api import RunName
from sentinel.store.journal import NO_RUN, Link
from sentinel.store.store import Store


class AuditQuery(Struct, forbid_unknown_fields=True):
    """Whose record: a run's, or what belongs to none. `rows`: how many of the newest."""

    run: RunName | UnsetType = UNSET
    rows: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class BreakJSON(TypedDict):
    """The first row, counted from 1, at which the record does not hold, and why."""

    number: int
    reason: str


class AuditRowJSON(TypedDict):
    """One row; what cannot be read of one that was tampered with is empty."""

    number: int
    at: str
    action: str
    state: str
    step: int
    by: str
    reason: str
    detail: str
    incident: str | None
    order: dict[str, object]
    hash: str


class AuditJSON(TypedDict):
    """The record of a run, or (`run` empty) what belongs to none: the newest of its `total` rows,
    oldest first. `head` is the hash of the newest; `broken`: null where it is as it was written."""

    run: str
    head: str
    broken: BreakJSON | None
    total: int
    rows: list[AuditRowJSON]


def audit_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    return [endpoint("GET", "/api/v1/audit", _AuditApi(service).audit, errors=(404,))]


class _AuditApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._operator = Operator(service)

    async def audit(self, request: web.Request, query: AuditQuery) -> AuditJSON:
        """Who did what to a run, when and why, and whether that record is as it was written."""
        run = given(query.run)
        if run is not None and run not in await self._operator.names():
            raise await self._operator.no_such(run)
        return await self._service.reader.call(lambda store: _audit(store, run, query.rows))


def _audit(store: Store, run: str | None, count: int) -> AuditJSON:
    name = NO_RUN if run is None else run
    links, broken = store.verify(name)
    return AuditJSON(
        run=name,
        head=str(links[-1].hash) if links else "",
        broken=BreakJSON(number=broken.number, reason=broken.reason) if broken else None,
        total=len(links),
        rows=[_row(link) for link in links[-count:]],
    )


def _row(link: Link) -> AuditRowJSON:
    try:
        said = msgspec.json.decode(str(link.content), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        said = {}

    def text(name: str) -> str:
        return str(said.get(name) or "")

    step, order = said.get("step"), said.get("order")
    return AuditRowJSON(
        number=link.number if isinstance(link.number, int) else 0,
        at=text("at"),
        action=text("action"),
        state=text("state"),
        step=step if isinstance(step, int) else 0,
        by=text("by"),
        reason=text("reason"),
        detail=text("detail"),
        incident=text("incident") or None,
        order=order if isinstance(order, dict) else {},
        hash=str(link.hash),
    )
