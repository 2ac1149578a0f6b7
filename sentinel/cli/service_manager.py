"""systemd, as far as commands ask something of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sentinel.errors import SentinelError

_BOOTED = Path("/run/systemd/system")  # as sd_booted(3) has it
_TIMEOUT = 120.0  # s; starting a unit of type notify takes until it is ready
_PROPERTIES = (
    "ActiveState",
    "SubState",
    "UnitFileState",
    "StatusText",
    "MainPID",
    "NRestarts",
    "DropInPaths",
    "NeedDaemonReload",
)


@dataclass(frozen=True)
class ServiceManager:
    """The system's, or `per_user` the one of this user. All methods raise `SentinelError`."""

    per_user: bool = False

    def check(self) -> None:
        """See that there is one."""
        if not _BOOTED.is_dir() or shutil.which("systemctl") is None:
            raise SentinelError(
                "systemd does not run this machine (in a container it seldom does): let whatever "
                "starts services here start `sentinel daemon`, or write the files of another "
                "system with --root DIR"
            )
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        if self.per_user and not (runtime and Path(runtime, "systemd").is_dir()):
            raise SentinelError(
                "you have no service manager of your own here: log in as yourself rather than by "
                "`su` or `sudo` (`loginctl enable-linger` keeps one for you)"
            )

    def call(self, *words: str) -> str:
        """What `systemctl` prints."""
        scope = ["--user"] if self.per_user else []
        command = ["systemctl", *scope, "--no-pager", *words]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise SentinelError(f"`{' '.join(command)}` takes longer than {_TIMEOUT:g} s") from None
        except OSError as error:
            raise SentinelError(f"`systemctl` cannot be run ({error.strerror})") from error
        if ran.returncode != 0:
            raise SentinelError(f"`{' '.join(command)}` failed: {ran.stderr.strip()}")
        return ran.stdout

    def properties(self, unit: str) -> dict[str, str]:
        """What systemd knows of a unit; empty where it knows nothing."""
        answer = self.call("show", unit, f"--property={','.join(_PROPERTIES)}")
        found = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
        return {name: found.get(name, "") for name in _PROPERTIES}
