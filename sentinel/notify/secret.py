"""Secrets that a notification file names: where they are, and that nobody else can read them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from sentinel.errors import NotifyError
from sentinel.notify.settings import Secret

_MAX_FILE = 4096  # bytes


def reveal(secret: Secret, environment: Mapping[str, str]) -> str:
    """The secret itself. Raises `NotifyError` when it is not there, or open to others."""
    if secret.file is None:
        if value := environment.get(secret.variable, "").strip():
            return value
        raise NotifyError(f"the environment variable {secret.variable} is not set")
    try:
        with secret.file.open("rb") as file:
            _check(os.fstat(file.fileno()), str(secret.file))
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise NotifyError(f"{secret.file} cannot be read: {error.strerror}") from None
    try:
        value = data.decode().strip()
    except UnicodeDecodeError:
        raise NotifyError(f"{secret.file} holds no text") from None
    if not value or len(data) > _MAX_FILE:
        raise NotifyError(
            f"{secret.file} is {'too large' if value else 'empty'}: one secret a file"
        )
    return value


def _check(status: os.stat_result, file: str) -> None:
    """As ssh has it: what others can read is no secret."""
    if not stat.S_ISREG(status.st_mode):
        raise NotifyError(f"{file} is no file")
    if status.st_mode & 0o077:
        raise NotifyError(
            f"{file} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}): "
            f"chmod 600 {file}"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise NotifyError(f"{file} belongs to another user")
