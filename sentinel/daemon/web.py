"""Put the HTTP applications on their sockets."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from sentinel.daemon import place
from sentinel.daemon.api import application, is_local, public_application
from sentinel.daemon.service import Service
from sentinel.errors import AddressError, StateError


@dataclass(frozen=True)
class HttpAddress:
    """Where metrics are served over TCP. Port 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_http(text: str) -> HttpAddress:
    """`HOST:PORT` on this machine. Raises `AddressError` with what would have been right."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise AddressError(f"{text!r} is no address: expected HOST:PORT, such as 127.0.0.1:9475")
    if not is_local(host):
        raise AddressError(
            f"{host} is not this machine's loopback: metrics are served there only; let a proxy "
            "with access control pass them on"
        )
    return HttpAddress(host, int(port))


class Web:
    """The two HTTP servers of a daemon. `await open()`, then `await close()`."""

    def __init__(self, service: Service, http: HttpAddress | None) -> None:
        self.http = http
        self._service = service
        self._runners: list[web.AppRunner] = []
        self._api: tuple[Path, socket.socket] | None = None

    async def open(self) -> None:
        """Begin to serve. Raises `StateError` when a socket cannot be had."""
        path = self._service.store.state_dir / place.API_NAME
        listener = place.bind(path)
        self._api = (path, listener)
        await self._serve(application(self._service), listener)
        if self.http is not None:
            bound = _bind(self.http)
            self.http = HttpAddress(self.http.host, bound.getsockname()[1])
            await self._serve(public_application(self._service), bound)

    async def _serve(self, app: web.Application, listener: socket.socket) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._runners.append(runner)
        await runner.setup()
        await web.SockSite(runner, listener).start()

    async def close(self) -> None:
        """Answer what has been asked, and end."""
        for runner in self._runners:
            await runner.cleanup()
        if self._api is not None:
            place.remove(*self._api)


def _bind(http: HttpAddress) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise StateError(
            f"cannot serve metrics on {http} ({error.strerror or error}): choose another address "
            "with --http HOST:PORT, or --http off"
        ) from error
    listener.listen(128)
    listener.setblocking(False)
    return listener
