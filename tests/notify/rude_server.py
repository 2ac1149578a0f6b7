"""A server on 127.0.0.1 that answers every request in the same wrong way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Literal

Rudeness = Literal[
    "silent", "drop", "noise", "html", "rubbish", "redirect", "endless", "limit", "busy", "500"
]

_JSON = "Content-Type: application/json\r\n"
_HEADS = {
    "html": ("200 OK", "Content-Type: text/html\r\n", "<html><body>Please log in.</body></html>"),
    "rubbish": ("200 OK", _JSON, '[{"ok": tru'),
    "redirect": ("302 Found", "Location: /\r\n", ""),
    "limit": (
        "429 Too Many Requests",
        f"{_JSON}Retry-After: 3000\r\n",
        '{"ok": false, "error": "ratelimited"}',
    ),
    "busy": ("503 Service Unavailable", "Retry-After: 90\r\n", "later"),
    "500": ("500 Internal Server Error", _JSON, '{"message": "out of order"}'),
}


class RudeServer:
    """`async with RudeServer("drop") as server:`; `requests` counts what has been asked."""

    def __init__(self, rudeness: Rudeness) -> None:
        self.rudeness = rudeness
        self.requests = 0
        self._answering: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RudeServer:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._answering:
            task.cancel()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            await self._say(writer)
        writer.close()
        self._answering.discard(task)

    async def _say(self, writer: asyncio.StreamWriter) -> None:
        if self.rudeness == "silent":
            await asyncio.Event().wait()
        elif self.rudeness == "noise":
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif self.rudeness == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
            while True:
                writer.write(b'"more",' * 4000)
                await writer.drain()
                await asyncio.sleep(0.005)
        elif self.rudeness != "drop":
            status, headers, body = _HEADS[self.rudeness]
            head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode())
        await writer.drain()
