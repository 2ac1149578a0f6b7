"""The part of the HTTP interface with which people ask for quiet: silences, acknowledgments."""

from __future__ import annotations

from typing import Annotated, TypedDict

from aiohttp import web
from msgspec import Meta, Struct

from sentinel import clock
from sentinel.daemon.answer import who
from sentinel.daemon.endpoint import Endpoint, endpoint, number
from sentinel.daemon.quieting import LONGEST, MAX_COMMENT
from sentinel.daemon.service import Service
from sentinel.errors import ControlError
from sentinel.matcher import MAX_MATCHERS, match_everything, parse_matcher
from sentinel.store.silences import MadeSilenceJSON, SilenceJSON, as_json


class AcknowledgeBody(Struct, forbid_unknown_fields=True):
    """What may be said with it. `by` counts only where the kernel names nobody."""

    by: Annotated[str, Meta(max_length=100)] = ""


class SilenceBody(Struct, forbid_unknown_fields=True):
    """A silence to be made, for so many seconds from now."""

    matchers: Annotated[list[str], Meta(min_length=1, max_length=MAX_MATCHERS)]
    seconds: Annotated[float, Meta(gt=0, le=LONGEST)]
    comment: Annotated[str, Meta(max_length=MAX_COMMENT)] = ""
    by: Annotated[str, Meta(max_length=100)] = ""


class Ended(Struct, forbid_unknown_fields=True):
    """Whether those that have ended are wanted too."""

    ended: bool = False


class SaidJSON(TypedDict):
    """A sentence for whoever asked."""

    said: str


def quiet_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api = _QuietApi(service)
    acknowledge = "/api/v1/incidents/{incident}/acknowledge"
    return [
        endpoint("GET", "/api/v1/silences", api.all),
        endpoint("POST", "/api/v1/silences", api.add, errors=(409,)),
        endpoint("DELETE", "/api/v1/silences/{id}", api.end, errors=(409,)),
        endpoint("POST", acknowledge, api.acknowledge, errors=(409,)),
    ]


class _QuietApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def all(self, request: web.Request, query: Ended) -> list[SilenceJSON]:
        """The silences that are in force, or all that ever were."""
        found = await self._service.quieting.silences(ended=query.ended)
        return [as_json(silence, clock.steady()) for silence in found]

    async def add(self, request: web.Request, body: SilenceBody) -> MadeSilenceJSON:
        """Make a silence."""
        matchers = [parse_matcher(text) for text in body.matchers]
        silence = await self._service.quieting.add(
            matchers, body.seconds, who(request, body.by), body.comment
        )
        shown = as_json(silence, clock.steady())
        return MadeSilenceJSON(silence=shown, everything=match_everything(matchers))

    async def end(self, request: web.Request) -> SilenceJSON:
        """End a silence."""
        wanted = request.match_info["id"]
        id = number(wanted)
        if id is None:
            raise ControlError(f"no silence {wanted} is in force")
        silence = await self._service.quieting.end(id, who(request))
        return as_json(silence, clock.steady())

    async def acknowledge(self, request: web.Request, body: AcknowledgeBody) -> SaidJSON:
        """Say that somebody looks after an incident."""
        incident = request.match_info["incident"]
        said = await self._service.quieting.acknowledge(incident, who(request, body.by))
        return SaidJSON(said=said)
