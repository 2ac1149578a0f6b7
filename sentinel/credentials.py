"""Secrets that a service manager hands over as files instead of in the environment.

systemd puts what a unit names with `LoadCredential=NAME:FILE` into a folder that only the service
can read, and names the folder in $CREDENTIALS_DIRECTORY (systemd.exec(5), "CREDENTIALS"). A
credential that has the name of an environment variable stands for this variable: no child process
inherits it, and `systemctl show` does not print it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sentinel.errors import SentinelError

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_MAX_FILE = 4096  # bytes


def environment(inherited: Mapping[str, str] = os.environ) -> Mapping[str, str]:
    """The environment, with credentials in it; one goes before a variable of the same name.

    Raises `SentinelError` for a credential that cannot be used.
    """
    if not (named := inherited.get("CREDENTIALS_DIRECTORY", "")):
        return inherited
    folder = Path(named)
    try:
        names = sorted(name for name in os.listdir(folder) if _VARIABLE.fullmatch(name))
    except OSError as error:
        raise SentinelError(
            f"{folder}, named by $CREDENTIALS_DIRECTORY, cannot be read: {error.strerror}"
        ) from error
    return {**inherited, **{name: _read(folder / name) for name in names}}


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise SentinelError(
            f"the credential {file.name} cannot be read: {error.strerror}"
        ) from error
    if len(data) > _MAX_FILE:
        raise SentinelError(
            f"the credential {file.name} is too large: one secret, at most {_MAX_FILE} bytes"
        )
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise SentinelError(f"the credential {file.name} holds no text") from None
    if not text:
        raise SentinelError(f"the credential {file.name} is empty")
    return text
