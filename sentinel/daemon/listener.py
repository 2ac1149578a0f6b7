"""Takes connections over TCP, makes TLS of them, and hands them to whoever serves them.

Nobody who dawdles, speaks no TLS or leaves at once is noticed by anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from sentinel import address, tls
from sentinel.errors import StateError

log = logging.getLogger("sentinel.daemon")

HANDSHAKE_WITHIN = 5.0  # s
MAX_HANDSHAKES = 256  # at once; others wait where the kernel keeps them
AGAIN = 1.0  # s, after no connection could be taken for want of files


def bind(host: str, port: int, advice: str) -> socket.socket:
    """A listening socket. Raises `StateError` with this advice when it cannot be had."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        where = address.join_host_port(host, port)
        raise StateError(
            f"cannot listen on {where} ({error.strerror or error}): {advice}"
        ) from error
    listener.listen(1024)
    listener.setblocking(False)
    return listener


class Listener:
    """Serves one port until it is closed.

    `turned_away(address, why)` hears of those with whom no TLS came about.
    """

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None,
        turned_away: Callable[[str, str], None],
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._context = context
        self._turned_away = turned_away
        self._free = asyncio.Semaphore(MAX_HANDSHAKES)
        self._beginning: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept_forever())

    async def close(self) -> None:
        """Take no more; those that are being served are not touched."""
        tasks = [self._accepting, *self._beginning]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._free.acquire()
            try:
                connection, peer = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("no connection can be taken: %s", error.strerror or error)
                self._free.release()
                await asyncio.sleep(AGAIN)
                continue
            task = asyncio.create_task(self._begin(connection, str(peer[0])))
            self._beginning.add(task)
            task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        self._free.release()

    async def _begin(self, connection: socket.socket, peer: str) -> None:
        try:
            tls.keep_alive(connection)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_WITHIN if self._context else None,
            )
        except (ssl.SSLError, TimeoutError, ConnectionAbortedError) as error:
            self._turned_away(peer, why_no_tls(error))
        except OSError:
            pass  # gone before it said anything, as those who only look whether the port is open
        except BaseException:
            connection.close()
            raise
        else:
            return
        with contextlib.suppress(OSError):
            connection.close()


def why_no_tls(error: OSError | TimeoutError) -> str:
    """In words, why no TLS came about."""
    if isinstance(error, ssl.SSLError):
        reason = tls.why(error)
        if "alert" in reason:
            return f"the other side broke off the handshake: {reason}"
        return f"only TLS 1.2 and newer is spoken here: {reason}"
    return f"only TLS is spoken here: no handshake within {HANDSHAKE_WITHIN:g} s"
