"""The fault barrier: what of ours fails in the trainer's call stack stays with us."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

logger = logging.getLogger("sentinel_hooks")

LIMIT = 0.8  # s; a probe that takes longer in one call has overrun its time


class Stopwatch:
    """Seconds spent in Sentinel's own code: in all, and since they were last taken."""

    __slots__ = ("_taken", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self._taken = 0.0

    def add(self, seconds: float) -> None:
        """Count this much more."""
        self.total += seconds

    def take(self) -> float:
        """All that was counted since the last call."""
        since, self._taken = self.total - self._taken, self.total
        return since


class Fence:
    """Decides what becomes of a fault in our own code: one line in the log, then silence.

    With `SENTINEL_RAISE=1`, as in our own tests, faults are raised where they happen.
    """

    def __init__(self) -> None:
        self.raises = os.environ.get("SENTINEL_RAISE") == "1"
        self._said: set[str] = set()

    def fault(self, owner: str, error: Exception) -> str:
        """The reason to report for this fault of `owner`; re-raises it in our own tests."""
        if self.raises:
            raise error
        reason = f"{type(error).__name__}: {error}"[:500]
        self.say(owner, reason)
        return reason

    def say(self, owner: str, reason: str) -> None:
        """Log this about `owner`, unless something was logged about it before."""
        if owner not in self._said:
            self._said.add(owner)
            logger.warning("sentinel: %s failed, training goes on without it: %s", owner, reason)

    def run(self, owner: str, function: Callable[[], None]) -> None:
        """Call this; an `Exception` is a fault of `owner`, anything else passes."""
        try:
            function()
        except Exception as error:  # noqa: BLE001 - the contract: no fault of ours reaches training
            self.fault(owner, error)
