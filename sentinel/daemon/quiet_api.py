"""The part of the HTTP interface with which people ask for quiet: silences, acknowledgments."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from sentinel import clock
from sentinel.daemon.answer import respond, who
from sentinel.daemon.quieting import LONGEST, MAX_COMMENT
from sentinel.daemon.service import Service
from sentinel.errors import ControlError
from sentinel.matcher import MAX_MATCHERS, match_everything, parse_matcher
from sentinel.store.silences import as_json


class AcknowledgeBody(Struct, forbid_unknown_fields=True):
    """What may be said with it. `by` counts only where the kernel names nobody."""

    by: Annotated[str, Meta(max_length=100)] = ""


class SilenceBody(Struct, forbid_unknown_fields=True):
    """A silence to be made, for so many seconds from now."""

    matchers: Annotated[list[str], Meta(min_length=1, max_length=MAX_MATCHERS)]
    seconds: Annotated[float, Meta(gt=0, le=LONGEST)]
    comment: Annotated[str, Meta(max_length=MAX_COMMENT)] = ""
    by: Annotated[str, Meta(max_length=100)] = ""


def quiet_routes(service: Service) -> list[web.RouteDef]:
    """The routes."""
    api = _QuietApi(service)
    return [
        web.get("/api/v1/silences", api.all),
        web.post("/api/v1/silences", api.add),
        web.delete("/api/v1/silences/{id}", api.end),
        web.post("/api/v1/incidents/{incident}/acknowledge", api.acknowledge),
    ]


class _QuietApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def all(self, request: web.Request) -> web.Response:
        """The silences that are in force; with `?ended=1`, all that ever were."""
        ended = request.query.get("ended") == "1"
        found = await self._service.quieting.silences(ended=ended)
        return respond([as_json(silence, clock.steady()) for silence in found])

    async def add(self, request: web.Request) -> web.Response:
        """Make a silence: it, and `everything`, whether there is nothing that it does not match."""
        body = msgspec.json.decode(await request.read(), type=SilenceBody)
        matchers = [parse_matcher(text) for text in body.matchers]
        silence = await self._service.quieting.add(
            matchers, body.seconds, who(request, body.by), body.comment
        )
        shown = as_json(silence, clock.steady())
        return respond({"silence": shown, "everything": match_everything(matchers)})

    async def end(self, request: web.Request) -> web.Response:
        """End a silence."""
        wanted = request.match_info["id"]
        if not wanted.isdecimal() or len(wanted) > 15:
            raise ControlError(f"no silence {wanted} is in force")
        silence = await self._service.quieting.end(int(wanted), who(request))
        return respond(as_json(silence, clock.steady()))

    async def acknowledge(self, request: web.Request) -> web.Response:
        """Acknowledge an incident: `{"said": ...}`, a sentence."""
        body = msgspec.json.decode(await request.read() or b"{}", type=AcknowledgeBody)
        incident = request.match_info["incident"]
        said = await self._service.quieting.acknowledge(incident, who(request, body.by))
        return respond({"said": said})
