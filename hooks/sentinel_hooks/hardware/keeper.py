"""Keeps one sampler alive on this node, for all ranks of the job that run here.

Whichever rank takes the lock first is the one that keeps it. The sampler ends with that rank (by
the kernel's word, with the thread that started it: then it is started again by the next); the
others see its reports grow old, and one of them takes over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from sentinel_hooks.hardware import report as reports
from sentinel_hooks.hardware.place import Lock
from sentinel_hooks.hardware.report import Report

INTERVAL = 5.0  # s between two readings
PAUSES = (1, 3, 9)  # intervals before each time that a dead sampler is started again
_FAREWELL = 1.0  # s for the kernel to end a killed process


class Keeper:
    """The sampler of this node, if it is this process that keeps it."""

    def __init__(self, path: Path, interval: float = INTERVAL) -> None:
        self._path = path
        self._interval = interval
        self._lock = Lock(path.with_suffix(".lock"))
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._start_at = 0.0
        self._over = False  # it said that there is nothing to read here, or it died too often
        self._pid = os.getpid()

    def tend(self, now: float, *, wanted: bool) -> None:
        """Start a sampler if none is needed to be waited for. Never waits. Raises `OSError`.

        `wanted`: there is no fresh report. `now` is monotonic. Called again and again.
        """
        if os.getpid() != self._pid or self._over:
            return
        if self._process is not None:
            status = self._process.poll()
            if status is not None:
                self._bury(status, now)
        elif (self._lock.held or wanted) and now >= self._start_at and self._lock.take():
            self._start()

    def _start(self) -> None:
        if not self._deaths:
            self._path.unlink(missing_ok=True)  # an earlier job's
        # The sampler finds its modules where this process found them, and keeps no folder busy.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        arguments = [str(self._path), str(self._interval), str(self._pid)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sentinel_hooks.hardware", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
        )

    def _bury(self, status: int, now: float) -> None:
        """The sampler has ended: say so where every rank reads it, and start it again later."""
        self._drop()
        self._over = status == 0  # it has said why, and it will not change
        if self._over:
            return
        self._over = self._deaths == len(PAUSES)
        then = "it is not started again" if self._over else "it will be started again"
        last = reports.Reader(self._path).read()
        said = f" ({last.trouble})" if last is not None and status > 0 and last.trouble else ""
        trouble = f"the sampler {_cause_of_death(status)}{said}; {then}"
        if not self._over:
            self._start_at = now + PAUSES[self._deaths] * self._interval
        self._deaths += 1
        reports.write(self._path, Report(self._interval, trouble=trouble, lasting=self._over))

    def _drop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = None

    def close(self) -> None:
        """End the sampler. May be called more than once."""
        if os.getpid() != self._pid:
            return
        self._over = True
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_FAREWELL)
            self._drop()
        if self._lock.held:
            self._path.unlink(missing_ok=True)
            self._lock.release()


def _cause_of_death(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
