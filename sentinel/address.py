"""Where a daemon listens, and how to reach it.

An address is `unix:///absolute/path`, a plain absolute path, or `tls://HOST:PORT`. Socket paths may
be longer than the 107 bytes that the kernel takes: they are reached through the folder's file
descriptor.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel.errors import AddressError

SOCKET_NAME = "sentinel.sock"
BACKLOG = 1024  # ranks of a host that may knock at one moment; the kernel may allow fewer
_PATH_LIMIT = 107
_HOST_PORT = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})"
)


@dataclass(frozen=True)
class UnixAddress:
    """A unix socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True)
class TlsAddress:
    """A port that speaks TLS. Port 0, where one listens, is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tls://{join_host_port(self.host, self.port)}"


Address = UnixAddress | TlsAddress


def parse(text: str) -> Address:
    """The address that `text` means. Raises `AddressError` with what would have been right."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "tls":
        return _parse_tls(text, rest)
    path = rest if separator else text
    if (separator and scheme != "unix") or "\0" in text or not path.startswith("/"):
        raise AddressError(
            f"{text!r} is no daemon address: expected unix:///absolute/path/{SOCKET_NAME}, "
            f"/absolute/path/{SOCKET_NAME} or tls://HOST:PORT"
        )
    return UnixAddress(Path(path))


def _parse_tls(text: str, rest: str) -> TlsAddress:
    found = split_host_port(rest)
    if found is None:
        raise AddressError(f"{text!r} is no daemon address: expected tls://HOST:PORT")
    return TlsAddress(*found)


def split_host_port(text: str) -> tuple[str, int] | None:
    """`HOST:PORT` or `[IPV6]:PORT` in two; None when it is neither."""
    found = _HOST_PORT.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        return None
    return found["ipv6"] or found["host"], int(found["port"])


def join_host_port(host: str, port: int) -> str:
    """The reverse of `split_host_port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether this name or address always means this machine."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_state_dir() -> Path:
    """`$SENTINEL_STATE`, or `sentinel` in the user's state directory."""
    if chosen := os.environ.get("SENTINEL_STATE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base).absolute() / "sentinel"


def default_address() -> Address:
    """`$SENTINEL_DAEMON`, or the socket in the default state directory. Raises `AddressError`."""
    if chosen := os.environ.get("SENTINEL_DAEMON"):
        return parse(chosen)
    return UnixAddress(default_state_dir() / SOCKET_NAME)


@contextmanager
def usable_path(path: Path) -> Iterator[str]:
    """A path to the same socket that is short enough to bind or connect to, while in the block."""
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def connect(address: UnixAddress, timeout: float) -> socket.socket:
    """A connected socket with this timeout in seconds. Raises `OSError` when nobody answers."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with usable_path(address.path) as path:
            connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def listen(path: Path) -> socket.socket:
    """A listening socket at `path` that only this user can reach. Raises `OSError`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with usable_path(path) as usable:
            listener.bind(usable)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
