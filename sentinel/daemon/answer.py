"""What all of the HTTP interface has in common: who asks, and what an answer looks like."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

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
_AT_ONCE = 1 << 18  # bytes of JSON, which take a millisecond or two


def respond(value: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return _json(msgspec.json.encode(value), status)


async def respond_in_turns(value: object) -> web.Response:
    """The same of what may be large, such as charts: everybody else has a turn now and then."""
    parts, since = [], 0
    for part in in_parts(value):
        parts.append(part)
        since += len(part)
        if since >= _AT_ONCE:
            since = 0
            await asyncio.sleep(0)
    return _json(b"".join(parts), 200)


def in_parts(value: object, depth: int = 2) -> Iterator[bytes]:
    """JSON of this, element by element as deep as that."""
    if depth and isinstance(value, dict):
        yield b"{"
        for number, (name, one) in enumerate(value.items()):
            yield b"%s%s:" % (b"," if number else b"", msgspec.json.encode(str(name)))
            yield from in_parts(one, depth - 1)
        yield b"}"
    elif depth and isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        for number, one in enumerate(value):
            yield b"," if number else b"["
            yield from in_parts(one, depth - 1)
        yield b"]"
    else:
        yield msgspec.json.encode(value)


def _json(body: bytes, status: int) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


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
