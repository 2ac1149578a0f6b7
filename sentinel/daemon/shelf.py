"""Keeps on record what is known of one run's checkpoints."""

from __future__ import annotations

from sentinel.daemon.ledger import Ledger
from sentinel.engine.checkpoint import Checkpoints


class Shelf:
    """What has changed is written once a second, and when a checkpoint has become complete."""

    def __init__(self, run: str, checkpoints: Checkpoints, ledger: Ledger) -> None:
        self._run = run
        self._checkpoints = checkpoints
        self._ledger = ledger
        self._written = 0  # the revision up to which all is written, or is being
        self._completed = 0

    def heard(self, now: float) -> None:
        """A rank has told of a save."""
        if self._checkpoints.completed != self._completed:
            self._completed = self._checkpoints.completed
            self.keep(now)

    def keep(self, now: float) -> None:
        """Write what has changed; what cannot be written is tried again the next time."""
        before, self._written = self._written, self._checkpoints.revision
        changed = self._checkpoints.since(before) if before != self._written else []

        def failed() -> None:
            self._written = min(self._written, before)

        if changed:
            self._ledger.save_checkpoints(self._run, changed, now, failed)
