"""The sockets in a state directory: taken over from the dead, never from the living."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from sentinel import address
from sentinel.errors import StateError, StateTakenError

API_NAME = "api.sock"


def own_address(state_dir: Path) -> address.UnixAddress:
    """Where ranks find the daemon of this state directory."""
    return address.UnixAddress(Path(os.path.abspath(state_dir)) / address.SOCKET_NAME)


def bind(path: Path) -> socket.socket:
    """A listening socket at `path`, in place of one that nobody listens on any more.

    Raises `StateTakenError` when somebody does, `StateError` when it cannot be had.
    """
    _clear(path)
    try:
        listener = address.listen(path)
    except OSError as error:
        raise StateError(
            f"cannot listen on {path} ({error.strerror or error}): choose another directory with "
            "--state or $SENTINEL_STATE"
        ) from error
    listener.setblocking(False)
    return listener


def _clear(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"{path} cannot be looked at ({error.strerror or error})") from error
    if not is_socket:
        raise StateError(
            f"{path} is in the way and is no socket: move it, or choose another --state"
        )
    if (holder := _holder(path)) is not None:
        raise StateTakenError(
            f"{path} is in use by process {holder or 'unknown'}: stop it, or choose another "
            "directory with --state or $SENTINEL_STATE"
        )
    path.unlink(missing_ok=True)


def _holder(path: Path) -> int | None:
    """The process that listens there; None when nobody does."""
    try:
        with address.connect(address.UnixAddress(path), timeout=1.0) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except OSError:  # it does not answer, yet it is there
        return 0
    return int.from_bytes(credentials[:4], "little")


def remove(path: Path, listener: socket.socket) -> None:
    """Take away the socket file that `bind` has made, unless another is there by now."""
    listener.close()
    path.unlink(missing_ok=True)
