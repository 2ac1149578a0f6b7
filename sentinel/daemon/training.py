"""Training connections over TLS: a token first, then as over the unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass

from sentinel import wire
from sentinel.address import TlsAddress
from sentinel.daemon.listener import Listener, bind
from sentinel.daemon.service import Service
from sentinel.daemon.session import Session
from sentinel.errors import AccessError, StateError
from sentinel.store.tokens import Token

log = logging.getLogger("sentinel.daemon")

LINGER = 1.0  # s for a peer to read why it was refused
LOOK_AGAIN = 2.0  # s between looks at whether tokens that were let in are still good


@dataclass(frozen=True)
class TrainingDoor:
    """Where training connections are taken over TLS, and with which certificate."""

    address: TlsAddress
    context: ssl.SSLContext


class TlsSession(Session):
    """The daemon's end of a connection over TLS."""

    def __init__(self, service: Service, door: Training) -> None:
        super().__init__(service)
        self._service = service
        self._door = door
        self._splitter.limit = wire.MAX_CREDENTIALS  # until it is known who this is
        self.token: Token | None = None

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._door.sessions.discard(self)
        super().connection_lost(error)

    def _stranger(self, transport: asyncio.BaseTransport) -> str:
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else "an unknown address"
        return ""

    def _open(self, message: wire.FromRank | wire.Unknown, body: bytes, now: float) -> None:
        if self.token is not None:
            super()._open(message, body, now)
            return
        presented = message.token if isinstance(message, wire.Credentials) else None
        try:
            self.token = self._service.access.check(
                presented, "trainer", address=self._peer, asked="to be watched"
            )
        except AccessError as error:
            self._reject("credentials", str(error), final=True)
            return
        except StateError as error:
            self._reject("credentials", str(error))
            return
        self._peer = f"token {self.token.name} from {self._peer}"
        self._splitter.limit = wire.MAX_MESSAGE
        self._door.sessions.add(self)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        # Over TCP, closing while something is unread takes the refusal with it: let the peer go
        # first, and pass over what it still sends.
        asyncio.get_running_loop().call_later(LINGER, transport.close)

    def revoke(self, why: str) -> None:
        """The token is not good any more."""
        assert self.token is not None
        known = f"token {self.token.name}"
        self._service.refusals.note("token", self._peer, "to be watched", why, known=known)
        self._reject("credentials", why, final=True)


class Training:
    """The port for training connections. `open`, then `close`."""

    def __init__(self, service: Service, door: TrainingDoor) -> None:
        self.address = door.address
        self.sessions: set[TlsSession] = set()
        self._service = service
        self._context = door.context

    def open(self) -> None:
        """Begin to serve. Raises `StateError` when the port cannot be had."""
        host = self.address.host
        listening = bind(host, self.address.port, "choose another address with --listen")
        self.address = TlsAddress(host, listening.getsockname()[1])
        self._listener = Listener(listening, self._session, self._context, self._turned_away)
        self._looking = asyncio.create_task(self._look_forever())

    async def close(self) -> None:
        """Take no more."""
        self._looking.cancel()
        await self._listener.close()

    def _session(self) -> TlsSession:
        return TlsSession(self._service, self)

    def _turned_away(self, address: str, why: str) -> None:
        self._service.turned_away("tls", f"somebody from {address}", "to be watched", why, "")

    async def _look_forever(self) -> None:
        """Hang up on those whose token has been revoked or has expired."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            verdicts: dict[str, str] = {}
            # While the tokens cannot be read nobody new is let in, and who is in may stay.
            with contextlib.suppress(StateError):
                for session in [*self.sessions]:
                    token = session.token
                    assert token is not None
                    if token.digest not in verdicts:
                        verdicts[token.digest] = self._service.access.still_good(token)
                    if why := verdicts[token.digest]:
                        session.revoke(why)
