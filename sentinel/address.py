"""Where a daemon listens, and how to reach it.

An address is `unix:///absolute/path` or a plain absolute path. Socket paths may be longer than
the 107 bytes that the kernel takes: they are reached through the folder's file descriptor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel.errors import AddressError

SOCKET_NAME = "sentinel.sock"
_PATH_LIMIT = 107


@dataclass(frozen=True)
class UnixAddress:
    """A unix socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


def parse(text: str) -> UnixAddress:
    """The address that `text` means. Raises `AddressError` with what would have been right."""
    scheme, separator, rest = text.partition("://")
    path = rest if separator else text
    if (separator and scheme != "unix") or "\0" in text or not path.startswith("/"):
        raise AddressError(
            f"{text!r} is no daemon address: expected unix:///absolute/path/{SOCKET_NAME} "
            f"or /absolute/path/{SOCKET_NAME}"
        )
    return UnixAddress(Path(path))


def default_state_dir() -> Path:
    """`$SENTINEL_STATE`, or `sentinel` in the user's state directory."""
    if chosen := os.environ.get("SENTINEL_STATE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base).absolute() / "sentinel"


def default_address() -> UnixAddress:
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
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
