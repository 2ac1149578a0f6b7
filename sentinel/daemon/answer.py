"""What all of the HTTP interface has in common: who asks, and what an answer looks like."""

from __future__ import annotations

import msgspec
from aiohttp import web

from sentinel.daemon.session import peer_of
from sentinel.store.tokens import user_name


def respond(value: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


def who(request: web.Request, said: str = "") -> str:
    """Who asks: "token NAME", or "user NAME" as the kernel says.

    `said` is what they call themselves, and counts only where neither is known.
    """
    if (by := request.get("by")) is not None:
        return str(by)
    assert request.transport is not None
    try:
        _, uid = peer_of(request.transport)
    except (OSError, AttributeError):
        return f"user {said or 'unknown'}"
    return user_name(uid)
