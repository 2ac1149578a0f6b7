"""Files that a command writes for others to read: whole or not at all."""

from __future__ import annotations

import difflib
import os
import tempfile
from pathlib import Path

from sentinel.errors import SentinelError


def reads(path: Path) -> str | None:
    """What is there; None when nothing is. Raises `SentinelError` for what is no file of text."""
    if path.is_symlink():
        raise SentinelError(
            f"{path} is a link to {os.readlink(path)} (a unit that links to /dev/null is masked): "
            "take it away first"
        )
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise SentinelError(f"{path} holds no text: it is left as it is") from None


def write(path: Path, text: str, *, mode: int) -> None:
    """Put the text there at once, with this mode. Raises `OSError`."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def diff(path: Path, before: str | None, after: str) -> str:
    """What changes, as `diff -u` has it; empty when nothing was there or nothing changes."""
    if before is None or before == after:
        return ""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"{path} (now)",
        f"{path} (then)",
        n=1,
    )
    return "".join(lines)
