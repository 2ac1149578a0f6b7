"""Standard output as a receiver: one JSON object a line, for a supervisor or a log collector.

Whoever reads there may stop reading, or be gone; the daemon lives on and waits for neither.
"""

from __future__ import annotations

import asyncio
import os
import select
from errno import EBADF, EPIPE

from sentinel import clock
from sentinel.errors import DeliveryError
from sentinel.notify import event
from sentinel.notify.receiver import Letter, Posted

_TIMEOUT = 5.0  # s for one line; the end of the daemon waits for it, too
_PART = 512  # bytes; a pipe that is ready takes at least so many (POSIX's PIPE_BUF) at once


class StdoutReceiver:
    """Writes each letter as a line; see `event`."""

    folds = False  # whoever reads lines is to have each, in order

    def __init__(self, name: str, *, descriptor: int = 1, timeout: float = _TIMEOUT) -> None:
        """`descriptor`: where to write, if not to standard output."""
        self.name = name
        self._descriptor = descriptor
        self._timeout = timeout
        self._torn = False  # whether what was written last is half a line

    async def check(self) -> str:
        """It takes what it can when it comes."""
        return "lines of JSON"

    async def deliver(self, letter: Letter) -> Posted:
        """Write a letter. Raises `DeliveryError`; permanent when nobody can read any more."""
        line = event.encode(letter) + b"\n"
        try:
            await asyncio.to_thread(self._write, line)
        except OSError as error:
            gone = error.errno in (EPIPE, EBADF)
            why = "nobody reads standard output any more" if gone else f"standard output: {error}"
            raise DeliveryError(why, permanent=gone) from None
        return Posted(self.name, letter.event_id)

    def _write(self, line: bytes) -> None:
        """In parts, and each only when it can be taken, so that no thread is caught here."""
        deadline = clock.monotonic() + self._timeout
        left = memoryview(b"\n" + line if self._torn else line)
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while left:
            if not ready.poll(max(0.0, deadline - clock.monotonic()) * 1000.0):
                why = "standard output is full and nobody reads it"
                raise DeliveryError(why, doubtful=self._torn)
            try:
                written = os.write(self._descriptor, left[:_PART])
            except BlockingIOError:  # somebody else has filled it meanwhile
                continue
            left = left[written:]
            self._torn = bool(left)

    async def find(self, letter: Letter, since: float) -> Posted | None:
        """What was written cannot be read again."""
        raise DeliveryError("standard output has no history", permanent=True)

    async def refresh(self, letter: Letter) -> None:
        """What was written stays."""

    async def close(self) -> None:
        """Standard output is the process's own."""
