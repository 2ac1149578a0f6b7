"""What all of the HTTP interface has in common: who asks, and what an answer looks like."""

from __future__ import annotations

import msgspec
from aiohttp import web

from sentinel.daemon.session import peer_of
from sentinel.store.tokens import user_name

# No page may run or load anything but the daemon's own files, nor be shown inside another.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "sentinel",
}


def respond(value: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer says to a browser, whatever it is an answer to."""
    for name, value in _HEADERS.items():
        if name == "Server" or name not in response.headers:
            response.headers[name] = value


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
