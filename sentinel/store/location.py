"""The state directory: made, checked, and locked by one daemon at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sentinel.errors import StateError, StateTakenError

LOCK_NAME = "daemon.lock"

# WAL keeps its index in memory that all readers share: it works within one kernel only, and a
# person may well look at this directory from another machine.
_NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "coda", "glusterfs"))
_CLUSTER = frozenset(
    ("lustre", "gpfs", "beegfs", "ceph", "panfs", "wekafs", "pvfs2", "orangefs", "gfs2", "ocfs2")
)
_LOCAL_FUSE = frozenset(("ntfs", "ntfs-3g", "overlay", "fuse-overlayfs", "grpcfuse", "bindfs"))


def file_system_of(path: Path, mountinfo: str) -> str:
    """The type of the file system that holds `path`, by the text of `/proc/self/mountinfo`.

    `path` must be absolute and free of symbolic links. "" when no line fits.
    """
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5 or not after:
            continue
        point = _unescape(fields[4])
        # Of mounts on the same point, the last hides the others.
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), after.split(" ")[0]
    return kind


def why_unsafe(path: Path, mountinfo: str) -> str | None:
    """The type of a file system on which SQLite's WAL is not safe, or None where it is."""
    kind = file_system_of(path, mountinfo)
    family, _, implementation = kind.partition(".")
    if family.startswith("fuse") and implementation and implementation not in _LOCAL_FUSE:
        return kind
    return kind if kind in _NETWORK | _CLUSTER else None


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits."""
    for character in " \t\n":
        text = text.replace(f"\\{ord(character):03o}", character)
    return text.replace("\\134", "\\")


def prepare(state_dir: Path) -> Path:
    """Make the state directory if need be (0700) and check it; returns its real path.

    Raises `StateError` when it cannot be used.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        real = state_dir.resolve(strict=True)
    except (FileExistsError, NotADirectoryError):
        raise StateError(
            f"{state_dir} is no directory: choose another with --state or $SENTINEL_STATE"
        ) from None
    except OSError as error:
        raise _unusable(state_dir, error) from error
    if kind := why_unsafe(real, _mountinfo()):
        raise StateError(
            f"{real} is on {kind}, where SQLite's write-ahead log is not safe: choose a "
            "directory on a local disk with --state or $SENTINEL_STATE"
        )
    return real


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _unusable(state_dir: Path, error: OSError) -> StateError:
    return StateError(
        f"{state_dir} cannot be written ({error.strerror or error}): make it writable for this "
        "user, or choose another with --state or $SENTINEL_STATE"
    )


class Lock:
    """Held by one process at a time; the kernel frees it when that process dies.

    The file `daemon.lock` stays behind and says, while it is held, by whom.
    """

    def __init__(self, state_dir: Path) -> None:
        """Take the lock. Raises `StateTakenError` naming the holder, `StateError` if unusable."""
        path = state_dir / LOCK_NAME
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(state_dir, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise StateTakenError(
                f"{state_dir} is in use by another daemon (process {holder or 'unknown'}): stop "
                "it, or choose another directory with --state or $SENTINEL_STATE"
            ) from None
        except OSError as error:
            os.close(self._file)
            raise _unusable(state_dir, error) from error

    def release(self) -> None:
        """Let another process take it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
