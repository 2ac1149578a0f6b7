"""The part of the HTTP interface that is for admins: tokens."""

from __future__ import annotations

from typing import Annotated, TypedDict

from aiohttp import web
from msgspec import Meta, Struct

from sentinel import clock
from sentinel.daemon.answer import who
from sentinel.daemon.endpoint import Endpoint, endpoint
from sentinel.daemon.page_link import USUAL, LinkJSON, PageRole, make_link
from sentinel.daemon.service import Service
from sentinel.store.tokens import LONGEST_LINK, SHORTEST_LINK, Role, TokenJSON, shown

LONGEST = 3650 * 86400.0  # s


class TokenBody(Struct, forbid_unknown_fields=True):
    """A token to be made. `expires_in`: seconds from now; None: it does not expire."""

    name: str
    role: Role
    expires_in: Annotated[float, Meta(gt=0, le=LONGEST)] | None = None


class LinkBody(Struct, forbid_unknown_fields=True):
    """A link to the pages to be made, with a token of this role, good for `expires_in` seconds."""

    role: PageRole = "viewer"
    expires_in: Annotated[float, Meta(ge=SHORTEST_LINK, le=LONGEST_LINK)] = USUAL


class MadeTokenJSON(TypedDict):
    """A token that was made; it is told this once."""

    name: str
    token: str


class RevokedJSON(TypedDict):
    """The token that is meant."""

    name: str


def token_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api, tokens = _TokenApi(service), "/api/v1/tokens"
    return [
        endpoint("GET", tokens, api.all, role="admin"),
        endpoint("POST", tokens, api.add, role="admin", errors=(409,)),
        endpoint("POST", "/api/v1/pages", api.link, role="admin", errors=(409,)),
        endpoint("DELETE", tokens + "/{name}", api.revoke, role="admin", errors=(409,)),
    ]


class _TokenApi:
    """The handlers. Files are read and written by the thread that writes the record."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def all(self, request: web.Request) -> list[TokenJSON]:
        """All tokens that were ever made; no secret is among what is known of them."""
        found = await self._service.ledger.call(self._service.access.tokens.all)
        return [shown(token, clock.wall()) for token in found]

    async def add(self, request: web.Request, body: TokenBody) -> MadeTokenJSON:
        """Make a token."""
        by, now = who(request), clock.wall()
        expires = None if body.expires_in is None else now + body.expires_in
        tokens = self._service.access.tokens
        secret = await self._service.ledger.call(
            lambda: tokens.add(body.name, body.role, by=by, now=now, expires=expires)
        )
        return MadeTokenJSON(name=body.name, token=secret)

    async def link(self, request: web.Request, body: LinkBody) -> LinkJSON:
        """Make a link to the pages, with a token of its own in it."""
        return await make_link(self._service, body.role, body.expires_in, who(request))

    async def revoke(self, request: web.Request) -> RevokedJSON:
        """Let a token open nothing any more."""
        name, by, now = request.match_info["name"], who(request), clock.wall()
        tokens = self._service.access.tokens
        await self._service.ledger.call(lambda: tokens.revoke(name, by=by, now=now))
        return RevokedJSON(name=name)
