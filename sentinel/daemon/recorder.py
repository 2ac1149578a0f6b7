"""Keeps what ranks say and what is judged of it, in `telemetry.db`, with a thread that writes it.

The file may be large, so that it is not read whole before the daemon serves, but beside that. One
that is damaged is put aside, then or when a write finds it so, and another begun: nothing of it is
worth a daemon that does not serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sentinel.daemon.counts import Counts
from sentinel.errors import DamagedError, StateError
from sentinel.store.database import Examination, put_aside
from sentinel.store.history import History
from sentinel.store.history_reading import HistoryReader
from sentinel.store.recording import FILE_NAME, Recording

log = logging.getLogger("sentinel.daemon")


class Recorder:
    """See above. `begin`, then `await stop()` and `close`. `worker` is the thread that writes,
    `past` what reads beside it."""

    def __init__(self, state_dir: Path, counts: Counts) -> None:
        """Raises `StateError` when there can be no file."""
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="recording")
        self._path = state_dir.absolute() / FILE_NAME
        self._counts = counts
        self._flushing, self._replaced = False, False
        self._unwritable: set[str] = set()
        self._examination = Examination(self._path)
        try:
            self._open(state_dir)
        except DamagedError as error:
            self._tell(error, put_aside(self._path))
            self._open(state_dir)

    def _open(self, state_dir: Path) -> None:
        with contextlib.ExitStack() as stack:
            self.recording = Recording.open(state_dir)
            stack.callback(self.recording.close)
            self.history = History(self.recording.database)
            self.past = HistoryReader(Recording.look_into(state_dir), self.history)
            stack.pop_all()

    def begin(self) -> None:
        """Begin to read the file whole, and put it aside if it does not hold together."""
        self._examining = asyncio.create_task(self._examine())

    async def _examine(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._examination.make)
        except DamagedError as error:
            await loop.run_in_executor(self.worker, self._replace, error)
        except StateError as error:
            log.warning("the recording could not be examined: %s", error)

    @property
    def fails(self) -> bool:
        """Whether what ranks say, or what is judged of it, cannot be written now."""
        return bool(self._unwritable)

    def flush_soon(self) -> None:
        """Have written what waits, unless that is being done."""
        if not self._flushing:
            self._flushing = True
            self.worker.submit(self._flush)

    async def flush(self, *, everything: bool = False) -> None:
        """Have it written by the time this returns. `everything`: also what need not be yet."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.worker, self._flush, everything)

    async def stop(self) -> None:
        """Write what waits, and then no more."""
        self._examination.stop()
        await asyncio.gather(self._examining, return_exceptions=True)
        await self.flush(everything=True)
        self.worker.shutdown()

    def close(self) -> None:
        """Close the file."""
        self.past.close()
        self.recording.close()

    # The worker's thread.

    def _flush(self, everything: bool = False) -> None:
        try:
            self._write("recording", self.recording.flush)
            self._write("history", partial(self.history.flush, everything=everything))
        finally:
            self._flushing = False

    def _write(self, what: str, flush: Callable[[], int]) -> None:
        try:
            try:
                flush()
            except DamagedError as error:
                self._begin_anew(error)
                flush()
            self._unwritable.discard(what)
        except StateError as error:
            if what not in self._unwritable:  # said once, not every second
                log.error("the %s cannot be written: %s", what, error)
            self._unwritable.add(what)
        except Exception:
            self._counts.faults += 1
            log.exception("the %s failed", what)

    def _replace(self, error: DamagedError) -> None:
        def replace() -> int:
            if not self._replaced:  # a write may have found it first
                self._begin_anew(error)
            return 0

        self._write("recording", replace)

    def _begin_anew(self, error: DamagedError) -> None:
        """Raises `StateError`."""
        self._replaced = True
        aside = self.recording.begin_anew()
        self.history.begin_anew()
        self.past.reopen()
        self._tell(error, aside)

    def _tell(self, error: DamagedError, aside: Path) -> None:
        log.error(
            "%s is damaged (%s): it is kept as %s, and a new one is begun",
            self._path,
            error.__cause__,
            aside,
        )
