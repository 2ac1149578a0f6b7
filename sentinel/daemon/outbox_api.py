"""The part of the HTTP interface that is about messages which have not arrived."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from sentinel import clock
from sentinel.daemon.answer import who
from sentinel.daemon.endpoint import Endpoint, endpoint
from sentinel.daemon.service import Service
from sentinel.errors import ControlError
from sentinel.store.outbox_json import OutboxJSON, shown
from sentinel.store.outbox_row import OutboxRow

log = logging.getLogger("sentinel.daemon")

MessageId = Annotated[str, Meta(pattern="^[0-9a-f]{6,32}$")]


class ResendBody(Struct, forbid_unknown_fields=True):
    """Which messages are to be sent again: these, each by its id or how that begins, or `all`."""

    ids: Annotated[tuple[MessageId, ...], Meta(max_length=1000)] = ()
    all: bool = False


def outbox_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api = _OutboxApi(service)
    return [
        endpoint("GET", "/api/v1/outbox", api.all),
        endpoint("POST", "/api/v1/outbox/resend", api.resend, errors=(409,)),
    ]


class _OutboxApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def all(self, request: web.Request) -> list[OutboxJSON]:
        """What waits, and what could not be delivered."""
        rows = await self._service.ledger.call(self._service.store.outbox.unsettled)
        now = clock.steady()
        return [shown(row, now) for row in rows]

    async def resend(self, request: web.Request, body: ResendBody) -> list[str]:
        """Have messages sent again that could not be delivered; answers with their ids."""
        if bool(body.ids) == body.all:
            raise ControlError("name the messages to be sent again, or say all, not both")

        def resend() -> list[OutboxRow]:
            store = self._service.store
            ids = None if body.all else _chosen(body.ids, store.outbox.unsettled())
            return store.resend(lambda row: ids is None or row.event_id in ids, clock.steady())

        rows = await self._service.ledger.call(resend)
        log.info("%d messages are due again, as %s asked", len(rows), who(request))
        return [row.event_id for row in rows]


def _chosen(ids: Sequence[str], rows: Sequence[OutboxRow]) -> frozenset[str]:
    """The failed message that each of these stands for. Raises `ControlError`."""
    chosen = set()
    for wanted in ids:
        found = [row for row in rows if row.event_id.startswith(wanted)]
        if len(found) > 1:
            raise ControlError(f"{len(found)} messages begin with {wanted}: give more of the id")
        if not found or found[0].state != "failed":
            why = "it still waits" if found else "see `sentinel outbox --failed`"
            raise ControlError(f"no message {wanted} has failed: {why}")
        chosen.add(found[0].event_id)
    return frozenset(chosen)
