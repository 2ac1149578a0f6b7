"""Where a rank stands while its run is held: the boundary after an optimizer step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from sentinel import clock
from sentinel.control.barrier import Barrier, Verdict
from sentinel.wire import Standing

log = logging.getLogger("sentinel")

POLL = 0.02  # s between two looks at the register, while standing
POLL_PER_RANK = 1e-4  # s: all ranks together look at it at most 10,000 times a second
STORE_PATIENCE = 30.0  # s without an answer of the job's store before a rank goes on


class Attendant(Protocol):
    """What a gate asks of the rank that stands at it."""

    def settle(self) -> None:
        """Wait until the device has done all that was asked of it, and report what it measured."""
        ...

    def first_bad_weight(self) -> str:
        """The first parameter with NaN or Inf, or nothing."""
        ...

    def say(self, message: Standing) -> None:
        """Tell the daemon."""
        ...

    def absent(self) -> float:
        """Seconds without a daemon."""
        ...


class Gate:
    """Passes a rank through every boundary, except where the job has agreed to stand."""

    def __init__(self, barrier: Barrier, attendant: Attendant) -> None:
        self._barrier = barrier
        self._attendant = attendant
        self._interval = max(POLL, barrier.world_size * POLL_PER_RANK)
        self.standing: Standing | None = None

    def boundary(self, step: int, on_stand: Callable[[], None]) -> Verdict:
        """The boundary after `step`: GO at once, or stand until the job's register says so.

        `on_stand` is called once before standing. Returns GO or STOP.
        """
        if self._barrier.leave(step):
            return Verdict.GO
        on_stand()
        try:
            return self._stand(step)
        finally:
            self.standing = None

    def _stand(self, step: int) -> Verdict:
        self._barrier.arrive(step, clock.monotonic())
        self._attendant.settle()
        epoch = self._barrier.seen.epoch if self._barrier.seen else 0
        self.standing = Standing(epoch, step, self._attendant.first_bad_weight())
        self._attendant.say(self.standing)
        answered = clock.monotonic()
        while True:
            now = clock.monotonic()
            try:
                verdict = self._barrier.poll(now, self._attendant.absent())
                answered = clock.monotonic()  # remedies may have taken long
            except Exception as error:  # noqa: BLE001 - a store that fails must not end training
                verdict = Verdict.STAND
                if now - answered > STORE_PATIENCE:
                    log.warning("sentinel: the job's store is gone, going on: %s", error)
                    self._barrier.abandon()
                    return Verdict.GO
            if verdict is not Verdict.STAND:
                return verdict
            time.sleep(self._interval)
