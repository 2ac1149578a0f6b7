"""Put the HTTP applications on their sockets."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web

from sentinel.address import is_loopback, join_host_port, split_host_port
from sentinel.daemon import place
from sentinel.daemon.api import application
from sentinel.daemon.listener import Listener, bind
from sentinel.daemon.page_link import base_of
from sentinel.daemon.patience import Patience
from sentinel.daemon.remote import remote_application
from sentinel.daemon.service import Service
from sentinel.errors import AddressError

LINGER = 1.0  # s that the rest of a request is read after its refusal
MAX_ADDRESS = 64 * 1024  # bytes of what is asked for, which may name many labels
KEPT = 75.0  # s that a connection may be idle between two requests


@dataclass(frozen=True)
class HttpAddress:
    """Where HTTP is served over TCP, under TLS if there is a `context`. Port 0: any."""

    host: str
    port: int
    context: ssl.SSLContext | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)

    def url(self) -> str:
        """What a client asks for."""
        return f"{'https' if self.context else 'http'}://{self}"


def parse_http(text: str, context: ssl.SSLContext | None = None) -> HttpAddress:
    """`HOST:PORT`: plain on this machine's loopback, under TLS everywhere else.

    Raises `AddressError` with what would have been right.
    """
    found = split_host_port(text)
    if found is None:
        raise AddressError(f"{text!r} is no address: expected HOST:PORT, such as 127.0.0.1:9475")
    host, port = found
    if is_loopback(host):
        return HttpAddress(host, port)
    if context is None:
        raise AddressError(
            f"{host} is not this machine's loopback, and off it HTTP is served under TLS only: "
            "give `sentinel daemon` --tls-cert FILE and --tls-key FILE, or an address such as "
            "127.0.0.1:9475"
        )
    return HttpAddress(host, port, context)


class Web:
    """The two HTTP servers of a daemon. `await open()`, then `await close()`."""

    def __init__(self, service: Service, http: HttpAddress | None) -> None:
        self.http = http
        self._service = service
        self._runners: list[web.AppRunner] = []
        self._api: tuple[Path, socket.socket] | None = None
        self._listener: Listener | None = None

    async def open(self) -> None:
        """Begin to serve. Raises `StateError` when a socket cannot be had."""
        path = self._service.store.state_dir / place.API_NAME
        listener = place.bind(path)
        self._api = (path, listener)
        runner = await self._runner(application(self._service))
        await web.SockSite(runner, listener).start()
        if self.http is not None:
            await self._serve(self.http)

    async def _serve(self, http: HttpAddress) -> None:
        advice = "choose another address with --http HOST:PORT, or --http off"
        bound = bind(http.host, http.port, advice)
        self.http = replace(http, port=bound.getsockname()[1])
        encrypted = http.context is not None
        self._service.page_base = base_of(self.http.host, self.http.port, encrypted=encrypted)
        app = remote_application(self._service, loopback=http.context is None)
        patience = Patience()
        app.middlewares.insert(0, patience.heard)
        runner = await self._runner(app)
        server = runner.server
        assert server is not None
        self._listener = Listener(
            bound, lambda: patience.begin(server()), http.context, self._turned_away
        )

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=KEPT,
            lingering_time=LINGER,
            max_line_size=MAX_ADDRESS,
        )
        self._runners.append(runner)
        await runner.setup()
        return runner

    def _turned_away(self, address: str, why: str) -> None:
        self._service.turned_away("tls", f"somebody from {address}", "HTTP", why, "")

    async def close(self) -> None:
        """Answer what has been asked, and end."""
        self._service.streams.close()
        if self._listener is not None:
            await self._listener.close()
        for runner in self._runners:
            await runner.cleanup()
        if self._api is not None:
            place.remove(*self._api)
