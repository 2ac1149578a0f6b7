"""Where the ranks of a job on one node meet: a folder that is the user's alone, and a lock."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

# What launchers tell all ranks of a job alike.
_OF_A_JOB = (
    "SENTINEL_RUN",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)


def report_path(environment: Mapping[str, str]) -> Path:
    """The file for the reports of this node, user and job. Raises `OSError` with the reason.

    In `$XDG_RUNTIME_DIR/sentinel`, else in `sentinel-<uid>` in the folder for temporary files.
    Processes of which nothing says to what job they belong share with their siblings.
    """
    told = [environment.get(name, "") for name in _OF_A_JOB]
    if not any(told):
        told = [f"child of {os.getppid()}"]
    key = sha256("\0".join(told).encode(errors="replace")).hexdigest()[:16]
    host = socket.gethostname().replace("/", "_")[:100]  # the folder may be on a shared disk
    return _folder(environment) / f"gpu-{host}-{key}.report"


def _folder(environment: Mapping[str, str]) -> Path:
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK | os.X_OK):
        folder = Path(runtime) / "sentinel"
    else:
        folder = Path(tempfile.gettempdir()) / f"sentinel-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()
        own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if not own or status.st_mode & 0o077:
            raise PermissionError(
                f"{folder} is not a folder that only this user can reach: remove it"
            ) from None
    return folder


class Lock:
    """Held by at most one process on a node; it comes free when that process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take it if it is free. Never waits. Raises `OSError`."""
        if self._descriptor is not None:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed the file since it was opened here.
            if os.stat(self._path).st_ino == os.fstat(descriptor).st_ino:
                self._descriptor = descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self.held

    def release(self) -> None:
        """Remove it, if this process holds it."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
