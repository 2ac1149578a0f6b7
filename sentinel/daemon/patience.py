"""Hangs up on HTTP clients that open a connection and do not come to their point."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from sentinel.daemon.endpoint import Handler

REQUEST_WITHIN = 10.0  # s for the head of the first request


class Patience:
    """For the connections of one server."""

    def __init__(self) -> None:
        self._waiting: dict[RequestHandler, asyncio.TimerHandle] = {}

    def begin(self, handler: RequestHandler) -> RequestHandler:
        """A connection is to be served by this handler."""
        loop = asyncio.get_running_loop()
        self._waiting[handler] = loop.call_later(REQUEST_WITHIN, self._give_up, handler)
        return handler

    @web.middleware
    async def heard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The head of a request has come."""
        timer = self._waiting.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        return await handler(request)

    def _give_up(self, handler: RequestHandler) -> None:
        del self._waiting[handler]
        if handler.transport is not None:
            handler.transport.abort()
