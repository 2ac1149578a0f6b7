"""Asks the daemon again and again, beside the terminal: a slow answer never holds up a key."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from sentinel import clock
from sentinel.cli.client import Client
from sentinel.cli.top.snapshot import Snapshot, take
from sentinel.errors import SentinelError

_SHARE = 4  # times as long as an answer took: no question comes sooner than that after it


class Asking:
    """The newest snapshot, and why there is none newer. `wake` is called at every change."""

    def __init__(self, client: Client, every: float, newest: Snapshot) -> None:
        self.newest = newest
        self.trouble = ""
        self.fault: BaseException | None = None
        self.paused = False
        self._client = client
        self._every = every
        self.wanted = newest.chosen
        self._again = threading.Event()
        self._thread = threading.Thread(target=self._go, name="asking", daemon=True)
        self._wake: Callable[[], None] = lambda: None

    def start(self, wake: Callable[[], None]) -> None:
        """Begin. The thread dies with the process: it holds nothing that would be lost."""
        self._wake = wake
        self._thread.start()

    def ask(self, run: str | None) -> None:
        """Ask at once, for this run in full."""
        self.wanted = run
        self._again.set()

    def _go(self) -> None:
        took = 0.0
        try:
            while True:
                asked = self._again.wait(None if self.paused else max(self._every, _SHARE * took))
                self._again.clear()
                if asked or not self.paused:
                    begun = clock.monotonic()
                    self._look()
                    took = clock.monotonic() - begun
                    self._wake()
        except BaseException as fault:
            self.fault = fault
            self._wake()
            raise

    def _look(self) -> None:
        wanted = self.wanted
        try:
            found = take(self._client, wanted)
        except (SentinelError, OSError, msgspec.MsgspecError) as error:
            self.trouble = str(error)
            return
        self.trouble = ""
        if wanted == self.wanted:  # otherwise the answer to the newer question follows
            self.newest = found
            self.wanted = found.chosen
