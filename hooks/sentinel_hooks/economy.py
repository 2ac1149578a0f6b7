"""Keeps this rank's probes within the budget, at the same steps as every other rank's.

Rank 0 decides for all, since ranks that measured at different steps would leave every sum over
shards incomplete. It leaves its decisions on the job's board, each with a step that is far enough
ahead for all ranks to have read it by then. A rank that reads one too late follows at once: what
it did not measure meanwhile is missing.

The board is read and written by the sender's thread alone; the training thread never waits for it.
Nothing here raises in either.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sentinel_hooks.budget import CAP, Budget, Decision, steps_ahead
from sentinel_hooks.job import Board
from sentinel_hooks.probes.panel import Panel

REFRESHES = 5  # looks at the board within which every rank has surely read what is there


class Notice(Struct, frozen=True):
    """A decision as it stands on the board: `step` is the first that it is about."""

    step: Annotated[int, Meta(ge=1)]
    every: dict[str, Annotated[int, Meta(ge=1, le=CAP)]]
    reason: Annotated[str, Meta(max_length=500)]


class Economy:
    """One rank's part. With a `budget` it decides; without one it follows."""

    def __init__(self, panel: Panel, board: Board, budget: Budget | None, interval: float) -> None:
        """`interval` is the time between two calls of `refresh`, in seconds."""
        self._panel = panel
        self._board = board
        self._budget = budget
        self._interval = interval
        self._decided: Decision | None = None  # from the training thread to the sender's
        self._notices: deque[Notice] = deque()  # and back
        self._known = 0  # notices that were read or written
        self._adopted = 0
        self._resumed: float | None = None
        self._cost = 0.0
        self._spent: dict[str, float] = {}

    # The training thread.

    def reached(self, step: int) -> None:
        """The boundary after `step`: count what it cost, and follow what is due from the next."""
        self._panel.fence.run("the budget", lambda: self._reach(step))

    def _reach(self, step: int) -> None:
        if self._budget is not None:
            self._count(self._budget)
        while self._notices and self._notices[0].step <= step + 1:
            notice = self._notices.popleft()
            for probe in self._panel.probes:
                every = notice.every.get(probe.name, 0)
                if every > probe.every and not probe.core:
                    self._panel.reschedule(probe, every, notice.reason)
            self._adopted += 1

    def resumed(self) -> None:
        """The boundary is over: the next step begins."""
        if self._budget is not None:
            self._panel.fence.run("the budget", self._begin)

    def _begin(self) -> None:
        panel = self._panel
        self._cost = panel.cost.total
        self._spent = {
            probe.name: panel.shares.get(probe, 0.0)
            for probe in panel.probes
            if not probe.core and panel.due(probe)
        }
        self._resumed = perf_counter()

    def _count(self, budget: Budget) -> None:
        if self._resumed is None:
            return
        panel, before = self._panel, self._spent
        seconds, self._resumed = perf_counter() - self._resumed, None
        spent = {
            probe.name: panel.shares.get(probe, 0.0) - before[probe.name]
            for probe in panel.probes
            if probe.name in before
        }
        budget.observe(seconds, panel.cost.total - self._cost, spent)
        if self._decided is None and self._adopted == self._known:
            every = {probe.name: probe.every for probe in panel.probes if not probe.core}
            self._decided = budget.decide(every)

    # The sender's thread.

    def refresh(self, step: int) -> None:
        """Look at the board, or write to it; `step` is the last one done."""
        self._panel.fence.run("the budget", lambda: self._exchange(step))

    def _exchange(self, step: int) -> None:
        key = f"budget/{self._known + 1}"
        if self._budget is None:
            text = self._board.look_up(key)
            if text is None:
                return
            notice = msgspec.json.decode(text, type=Notice)
        else:
            decision = self._decided
            if decision is None:
                return
            ahead = steps_ahead(REFRESHES * self._interval, decision.step_seconds)
            notice = Notice(step + ahead, dict(decision.every), decision.reason)
            self._board.publish(key, msgspec.json.encode(notice).decode())
        self._known += 1
        self._notices.append(notice)
        self._decided = None
