"""Has charts drawn by a process of its own, one at a time.

Matplotlib takes a second of processor time and never lets go of the interpreter for long: in this
process, or a thread of it, the daemon would answer nobody meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from sentinel.notify.chart import Scene

_log = logging.getLogger(__name__)
_DRAWING = 60.0  # s; the first chart of all has matplotlib look for fonts
_PNG = b"\x89PNG"
_SECRET = ("TOKEN", "SECRET", "KEY", "PASSWORD")


async def draw(scene: Scene, scratch: Path, *, timeout: float = _DRAWING) -> bytes | None:
    """A PNG, or None where it could not be drawn: why is in the log.

    `scratch`: a directory that can be written. What matplotlib has found out about fonts is kept
    there, since that takes it seconds, where the user has no such place.
    """
    command = (sys.executable, "-m", "sentinel.notify.chart")
    environment = {"MPLBACKEND": "agg"}
    if not _has_cache():
        environment["MPLCONFIGDIR"] = str(scratch)
    drawn = await ask(command, msgspec.msgpack.encode(scene), environment, timeout=timeout)
    return drawn if drawn is not None and drawn.startswith(_PNG) else None


def _has_cache() -> bool:
    """Whether there is a place where matplotlib keeps things by itself."""
    if "MPLCONFIGDIR" in os.environ:
        return True
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return False
    return os.access(cache, os.W_OK)


async def ask(
    command: Sequence[str], question: bytes, environment: dict[str, str], *, timeout: float
) -> bytes | None:
    """What a process says to `question`; None if it fails or takes longer than `timeout` s.

    It gets this process's environment without what looks like a secret. It is killed when nobody
    waits for it any more.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not any(word in name.upper() for word in _SECRET)
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**inherited, **environment},
            start_new_session=True,  # Ctrl-C at a terminal is for the daemon to hear
        )
    except OSError as error:
        _log.warning("%s cannot be started: %s", command[-1], error)
        return None
    try:
        answer, said = await asyncio.wait_for(process.communicate(question), timeout)
    except asyncio.TimeoutError:
        _log.warning("%s took longer than %g s and was ended", command[-1], timeout)
        return None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        _log.warning("%s failed (status %s): %s", command[-1], process.returncode, last[:500])
        return None
    return answer
