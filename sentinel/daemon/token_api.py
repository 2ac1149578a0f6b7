"""The part of the HTTP interface that is for admins: tokens."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from sentinel import clock
from sentinel.daemon.answer import respond, who
from sentinel.daemon.service import Service
from sentinel.store.tokens import Role, shown

FOR_ADMINS = "/api/v1/tokens"  # what their paths begin with
LONGEST = 3650 * 86400.0  # s


class TokenBody(Struct, forbid_unknown_fields=True):
    """A token to be made. `expires_in`: seconds from now; None: it does not expire."""

    name: str
    role: Role
    expires_in: Annotated[float, Meta(gt=0, le=LONGEST)] | None = None


def token_routes(service: Service) -> list[web.RouteDef]:
    """The routes."""
    api = _TokenApi(service)
    return [
        web.get("/api/v1/tokens", api.all),
        web.post("/api/v1/tokens", api.add),
        web.delete("/api/v1/tokens/{name}", api.revoke),
    ]


class _TokenApi:
    """The handlers. Files are read and written by the thread that writes the record."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def all(self, request: web.Request) -> web.Response:
        """All tokens that were ever made; no secret is among what is known of them."""
        found = await self._service.ledger.call(self._service.access.tokens.all)
        return respond([shown(token, clock.wall()) for token in found])

    async def add(self, request: web.Request) -> web.Response:
        """Make a token: `{"name": ..., "token": ...}`, once."""
        body = msgspec.json.decode(await request.read(), type=TokenBody)
        by, now = who(request), clock.wall()
        expires = None if body.expires_in is None else now + body.expires_in
        tokens = self._service.access.tokens
        secret = await self._service.ledger.call(
            lambda: tokens.add(body.name, body.role, by=by, now=now, expires=expires)
        )
        return respond({"name": body.name, "token": secret})

    async def revoke(self, request: web.Request) -> web.Response:
        """Let a token open nothing any more."""
        name, by, now = request.match_info["name"], who(request), clock.wall()
        tokens = self._service.access.tokens
        await self._service.ledger.call(lambda: tokens.revoke(name, by=by, now=now))
        return respond({"name": name})
