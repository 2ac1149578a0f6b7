"""The part of the HTTP interface that tells what happens as it happens: server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from sentinel import clock
from sentinel.daemon.answer import who
from sentinel.daemon.endpoint import Endpoint, endpoint, given
from sentinel.daemon.service import Service
from sentinel.daemon.status_api import OfRun
from sentinel.daemon.streams import Stream
from sentinel.errors import StateError
from sentinel.store.tokens import Token

MEDIA = "text/event-stream"
HEARTBEAT = 15.0  # s
LOOK = 2.0  # s between two looks at whether the listener is there and may still listen
STALLED = 30.0  # s after which a listener that takes nothing is given up


def event_endpoints(service: Service, stalled: float = STALLED) -> list[Endpoint]:
    """The endpoints."""
    api = _EventApi(service, stalled)
    return [endpoint("GET", "/api/v1/events", api.events, media=MEDIA, errors=(429,))]


class _EventApi:
    """The handlers."""

    def __init__(self, service: Service, stalled: float) -> None:
        self._service = service
        self._stalled = stalled

    async def events(self, request: web.Request, query: OfRun) -> web.StreamResponse:
        """What happens in one run or in all, as it happens: see docs/api.md."""
        response = web.StreamResponse(
            headers={"Content-Type": MEDIA, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        if request.method == "HEAD":
            return response
        streams = self._service.streams
        stream = streams.open(given(query.run), who(request))
        try:
            await response.prepare(request)
            await self._send(request, response, stream)
        except (ConnectionError, asyncio.TimeoutError):
            if request.transport is not None:  # to end it in order would wait for the listener too
                request.transport.abort()
        finally:
            streams.leave(stream)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, stream: Stream
    ) -> None:
        """Send what comes until the daemon, the token or the listener has come to an end."""
        said = b": sentinel\n\n"
        while not stream.ended and self._may_listen(request):
            if said:
                await asyncio.wait_for(response.write(said), self._stalled)
                last = clock.monotonic()
            await stream.wait(LOOK)
            said = stream.take()
            if not said and clock.monotonic() - last >= HEARTBEAT:
                said = b": still here\n\n"

    def _may_listen(self, request: web.Request) -> bool:
        transport, token = request.transport, request.get("token")
        if transport is None or transport.is_closing():
            return False
        try:
            return not isinstance(token, Token) or not self._service.access.still_good(token)
        except StateError:
            return False
