"""A connection to the daemon that never waits, and how one comes about without waiting for it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading

from sentinel import address, bearer, clock, tls, wire

UNIX_TIMEOUT = 2.0  # s
_READ = 65536


class Line:
    """One connection, over which nothing is ever waited for. All methods raise `OSError`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection

    def fileno(self) -> int:
        """For `select`."""
        return self._connection.fileno()

    def send(self, data: bytes) -> int:
        """How many of these bytes could be sent now. What could not is to be offered again."""
        try:
            return self._connection.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def receive(self) -> bytes | None:
        """What has come; None when it is nothing, though `select` may have said otherwise."""
        try:
            data = self._connection.recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        if not data:
            raise ConnectionResetError("the daemon closed the connection")
        return data

    def finish(self, seconds: float) -> None:
        """Give the daemon this long to take what was sent, then close.

        A connection that is closed while something of the daemon's is unread, or still to be
        written, takes with it what the daemon has not read yet.
        """
        until = clock.monotonic() + seconds
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while (left := until - clock.monotonic()) > 0:
                if not select.select([self._connection], [], [], left)[0]:
                    break
                if not self._connection.recv(_READ):
                    break
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class Dial:
    """An attempt to connect, on a thread of its own: looking up a name may take minutes."""

    def __init__(self, place: address.Address) -> None:
        self.over = threading.Event()
        self._place = place
        self._made: tuple[Line, bytes] | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._given_up = False
        threading.Thread(target=self._connect, name="sentinel-dial", daemon=True).start()

    def result(self) -> tuple[Line, bytes]:
        """What `connect` came to, once it is over. Raises what it raised."""
        if self._made is None:
            raise self._error or OSError("nothing came of it")
        return self._made

    def give_up(self) -> None:
        """Nobody wants the connection any more."""
        with self._lock:
            self._given_up = True
            if self._made is not None:
                self._made[0].close()

    def _connect(self) -> None:
        try:
            made = connect(self._place)
            with self._lock:
                self._made = made
                if self._given_up:
                    made[0].close()
        except Exception as error:  # noqa: BLE001 - raised by `result`
            self._error = error
        self.over.set()


def connect(place: address.Address) -> tuple[Line, bytes]:
    """A connection to the daemon at `place`, and what is to be sent there first.

    Raises `OSError` when none comes about, `AccessError` when there is no token for it, and
    `AddressError` when the authorities to trust cannot be read.
    """
    try:
        if isinstance(place, address.UnixAddress):
            return Line(address.connect(place, UNIX_TIMEOUT)), b""
        opening = wire.encode(wire.Credentials(bearer.own_token()))
        return Line(tls.connect(place)), opening
    except OSError as error:
        raise OSError(f"no daemon answers at {place} ({tls.why(error)})") from error
