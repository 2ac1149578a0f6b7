"""The part of the HTTP interface that gives orders to runs, and says what became of them."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from sentinel import wire
from sentinel.daemon.answer import who
from sentinel.daemon.endpoint import Endpoint, endpoint, number
from sentinel.daemon.operator import NotFoundError, Operator
from sentinel.daemon.orders import Request
from sentinel.daemon.service import Service
from sentinel.engine.rule import Unattended
from sentinel.store.shapes import BecameJSON, GivenJSON, became_json


class OrderBody(Struct, forbid_unknown_fields=True):
    """What may be said with any order. `by` counts only where the kernel names nobody."""

    by: Annotated[str, Meta(max_length=100)] = ""


class PauseBody(OrderBody, forbid_unknown_fields=True):
    """What may be said with a pause: for how long, in seconds, and what comes then."""

    hold_for: Annotated[float, Meta(ge=wire.SHORTEST_HOLD, le=wire.LONGEST_HOLD)] = wire.HOLD_FOR
    unattended: Unattended = "resume"


class ResumeBody(OrderBody, forbid_unknown_fields=True):
    """What may be said with a resume; see `wire.Remedies`."""

    lr_scale: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    skip_batches: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    rollback: Annotated[str, Meta(max_length=512)] = ""
    checkpoint: bool = False
    rewind: bool = False
    force: bool = False

    def remedies(self) -> wire.Remedies:
        """What is to be done before training goes on."""
        return wire.Remedies(
            self.lr_scale, self.skip_batches, self.rollback, self.checkpoint, self.rewind
        )


def order_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api = _OrderApi(service)
    of_run = "/api/v1/runs/{run}"
    return [
        endpoint("GET", "/api/v1/actions/{id}", api.action, errors=(404,)),
        endpoint("POST", f"{of_run}/pause", api.pause, errors=(404, 409)),
        endpoint("POST", f"{of_run}/resume", api.resume, errors=(404, 409)),
        endpoint("POST", f"{of_run}/stop", api.stop, errors=(404, 409)),
        endpoint("POST", f"{of_run}/checkpoint", api.checkpoint, errors=(404, 409)),
    ]


class _OrderApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._operator = Operator(service)

    async def action(self, request: web.Request) -> BecameJSON:
        """What became of one order."""
        wanted = request.match_info["id"]
        id = number(wanted)
        if id is not None:
            row = await self._service.reader.call(lambda store: store.action(id))
            if row is not None:
                return became_json(row)
        raise NotFoundError(f"there is no action {wanted}")

    async def pause(self, request: web.Request, body: PauseBody) -> GivenJSON:
        """Hold a run: all ranks stand after the same step."""
        by = who(request, body.by)
        asked = Request("pause", by, hold_for=body.hold_for, unattended=body.unattended)
        return await self._order(request, asked)

    async def resume(self, request: web.Request, body: ResumeBody) -> GivenJSON:
        """Let a held run go on."""
        by = who(request, body.by)
        return await self._order(request, Request("resume", by, body.remedies(), body.force))

    async def stop(self, request: web.Request, body: OrderBody) -> GivenJSON:
        """End a run cleanly after a step."""
        return await self._order(request, Request("stop", who(request, body.by)))

    async def checkpoint(self, request: web.Request, body: OrderBody) -> GivenJSON:
        """Save a checkpoint of a run now, and let it go on."""
        return await self._order(request, Request("checkpoint", who(request, body.by)))

    async def _order(self, request: web.Request, asked: Request) -> GivenJSON:
        run = request.match_info["run"]
        action_id, given = await self._operator.order(run, asked)
        return GivenJSON(
            id=action_id, action=asked.action, run=run, rollback=given.remedies.rollback
        )
