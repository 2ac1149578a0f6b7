"""One connection of a rank: framing, limits, and the order in which things may be said.

A peer that breaks the protocol is told why and hung up on. Nothing that it sends, and no
slowness of its, harms the daemon or another rank.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterator
from typing import Protocol, cast

from sentinel import clock, wire
from sentinel.daemon.counts import Counts
from sentinel.daemon.run import BarredError, Run
from sentinel.errors import OrderError, VersionError, WireError

log = logging.getLogger("sentinel.daemon")

HELLO_WITHIN = 10.0  # s
HANG_UP_WITHIN = 5.0  # s for a refusal to be read
UNREAD_LIMIT = 1 << 20  # bytes that a peer may leave unread
BATCH = 256  # messages taken from one connection before others have their turn
RATE = 5000  # messages a second from one connection; beyond it, reading waits
_PEER = struct.Struct("3i")
_ORDERS = {"hold": "pause"}  # as orders are called on the record


class Floor(Protocol):
    """Where sessions meet the daemon."""

    counts: Counts

    def admit(self, hello: wire.Hello, session: Session, now: float, body: bytes) -> Run:
        """The run that this rank belongs to. Raises `WireError` when it is not taken in.

        `body` is the message as it came.
        """

    def turned_away(self, kind: str, by: str, asked: str, why: str, run: str) -> None:
        """Put on the record that a peer asked for what it may not; `run` is its own, or empty."""

    def opened(self, session: Session) -> bool:
        """Whether one more connection can be had."""

    def closed(self, session: Session) -> None:
        """It has ended."""


def peer_of(transport: asyncio.BaseTransport) -> tuple[int, int]:
    """Process and user at the other end of a unix socket."""
    connection = transport.get_extra_info("socket")
    pid, uid, _ = _PEER.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    )
    return pid, uid


def is_welcome(uid: int) -> bool:
    """Only this user and root may talk to the daemon."""
    return uid in (0, os.geteuid())


class Session(asyncio.Protocol):
    """The daemon's end of one connection."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._splitter = wire.Splitter()
        self._waiting: Iterator[bytes] | None = None  # bodies cut off and not yet taken
        self._transport: asyncio.Transport | None = None
        self._run: Run | None = None
        self._rank = 0
        self._peer = ""
        self._over = False
        self._deadline: asyncio.TimerHandle | None = None
        self._second, self._taken = 0, 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._floor.opened(self):
            self._reject("full", "the daemon has as many connections as it can serve")
        elif why := self._stranger(transport):
            self._reject("stranger", why, final=True)
        else:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(HELLO_WITHIN, self._silent)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._over:
            self._waiting = self._splitter.feed(data)
            self._take()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._floor.closed(self)
        if self._run is not None:
            self._run.left(self._rank, self, clock.steady())

    # Who it is.

    def _stranger(self, transport: asyncio.BaseTransport) -> str:
        """Why a peer has no business here whatever it says, or nothing."""
        pid, uid = peer_of(transport)
        self._peer = f"process {pid}"
        if is_welcome(uid):
            return ""
        why = "another user's daemon"
        self._floor.turned_away("user", f"user {uid}", "to be watched", why, "")
        return why

    def _ordered(self, tag: str, why: str) -> None:
        """The peer has given an order, which no rank may."""
        run, by = "", self._peer
        if self._run is not None:
            run, by = self._run.name, f"rank {self._rank} ({self._peer})"
        self._floor.turned_away("order", by, _ORDERS.get(tag, tag), why, run)

    # What comes in.

    def _take(self) -> None:
        """Take a batch of messages; the rest waits until others have had their turn."""
        now = clock.steady()
        if int(now) != self._second:
            self._second, self._taken = int(now), 0
        try:
            for _ in range(BATCH):
                body = next(self._waiting, None) if self._waiting and not self._over else None
                if body is None:
                    self._resume()
                    return
                self._taken += 1
                self._message(body, now)
        except BarredError as error:
            self._reject("barred", str(error), final=True)
        except OrderError as error:
            self._ordered(error.tag, str(error))
            self._reject("order", str(error))
        except VersionError as error:
            self._reject("version", str(error), final=True)
        except WireError as error:
            self._reject("malformed", str(error))
        except Exception:
            self._floor.counts.faults += 1
            log.exception("a message could not be taken")
            self._reject("fault", "the daemon failed on this message")
        else:
            self._later(int(now) + 1.0 - now if self._taken >= RATE else 0.0)

    def _message(self, body: bytes, now: float) -> None:
        message = wire.decode_from_rank(body)
        if self._run is None:
            self._open(message, body, now)
        elif isinstance(message, wire.Unknown):
            self._floor.counts.rejected["unknown"] += 1
            return
        elif isinstance(message, wire.Credentials):
            raise WireError("credentials come first, or not at all")
        else:
            if isinstance(message, wire.Frame):
                self._floor.counts.frames += 1
                self._floor.counts.last_frame = now
            self._run.hear(self._rank, message, now, body)

    def _open(self, message: wire.FromRank | wire.Unknown, body: bytes, now: float) -> None:
        """What a peer says before it has been taken in. Raises `WireError`."""
        if not isinstance(message, wire.Hello):
            raise WireError(f"expected hello first, got {type(message).__name__.lower()}")
        wire.check_version(message.version)
        self._run = self._floor.admit(message, self, now, body)
        self._rank = message.rank
        if self._deadline is not None:
            self._deadline.cancel()
        self.send(wire.Welcome(wire.VERSION))
        self._run.greet(self)

    def _later(self, delay: float) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(delay, self._take)

    def _resume(self) -> None:
        self._waiting = None
        if not self._over and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _silent(self) -> None:
        self._reject("silent", f"no hello within {HELLO_WITHIN:g} s")

    # What goes out.

    def send(self, message: wire.FromDaemon) -> None:
        """See `run.Line.send`. A peer that does not read is hung up on."""
        if self._over or self._transport is None:
            return
        self._transport.write(wire.encode(message))
        if self._transport.get_write_buffer_size() > UNREAD_LIMIT:
            self._floor.counts.rejected["unread"] += 1
            self._over = True
            self._transport.abort()

    def refuse(self, reason: str, *, final: bool = False) -> None:
        """See `run.Line.refuse`."""
        if self._over or self._transport is None:
            return
        self.send(wire.Refusal(reason[:4096], final))
        self._over = True
        self._hang_up(self._transport)
        asyncio.get_running_loop().call_later(HANG_UP_WITHIN, self._transport.abort)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        transport.close()

    def _reject(self, kind: str, reason: str, *, final: bool = False) -> None:
        self._floor.counts.rejected[kind] += 1
        if self._floor.counts.rejected[kind] <= 10 or self._run is not None:
            log.warning("hung up on a peer: %s", reason)
        self.refuse(reason, final=final)
