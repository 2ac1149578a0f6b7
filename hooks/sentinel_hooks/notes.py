"""Who stands beside a loader and takes notes."""

from __future__ import annotations

import os
from collections.abc import Callable

from sentinel_hooks.data_order import Order
from sentinel_hooks.probes.mark import Mark, Marker
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.source import Source


class Notes:
    """Where a pass over a loader puts down what it sees; faults in doing so stay here."""

    def __init__(self, panel: Panel, marker: Marker, on_phase: Callable[[str], None]) -> None:
        self._panel = panel
        self._marker = marker
        self._on_phase = on_phase
        self._pid = os.getpid()

    def began(self) -> Mark | None:
        """The loop begins to wait for what comes next."""
        if os.getpid() != self._pid:  # a process forked off, such as a loader's worker
            return None
        marks: list[Mark] = []
        self._run(lambda: self._on_phase("data"))
        self._run(lambda: marks.append(self._marker.now()))
        return marks[0] if marks else None

    def waited(self, source: Source, began: Mark | None) -> None:
        """It waits no more."""
        if began is not None:
            self._run(lambda: source.waited((began, self._marker.now())))

    def came(self, source: Source, batch: object) -> None:
        """It got this batch."""
        if os.getpid() == self._pid:
            self._panel.batch_came(source, batch)

    def order(self, loader: object) -> Order | None:
        """How the pass that is about to begin is ordered; None if that cannot be read."""
        found: list[Order] = []
        self._run(lambda: found.append(Order(loader)))
        return found[0] if found else None

    def ask(self, ids: Callable[[], object]) -> list[object]:
        """What the caller's own function says; empty if it raised."""
        said: list[object] = []
        self._panel.fence.run("ids= of watch.batches", lambda: said.append(ids()))
        return said

    def _run(self, function: Callable[[], None]) -> None:
        self._panel.fence.run("watching the loader", function)
