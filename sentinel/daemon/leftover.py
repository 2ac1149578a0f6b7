"""What an earlier daemon left behind: runs that were going on, and their open incidents.

A rank that comes back with the host and process that are on record belongs to the same job: its
run goes on, with its incident and orders. Other ranks under that name are a new job, which goes on
with the incident of the one before, and nothing else of it, if that one did not end well: if it
was lost or was stopped, no longer than an hour ago.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from sentinel import wire
from sentinel.daemon.ledger import Ledger
from sentinel.daemon.run import Run
from sentinel.engine.history import restarted
from sentinel.engine.open_incident import RETURN, OpenIncident, closing, continuing
from sentinel.store.shapes import RankRow, RunRow
from sentinel.store.store import Store

log = logging.getLogger("sentinel.daemon")

GRACE = 60.0  # s after the start within which ranks are to come back


class Leftovers:
    """Runs on record that had not ended when this daemon started."""

    def __init__(self, store: Store, now: float) -> None:
        """Raises `StateError`."""
        self._store = store
        self._until = now + GRACE
        self._expected = {row.name: row for row in store.runs() if row.ended is None}

    def hand_over(
        self, run: Run, hello: wire.Hello, ledger: Ledger, now: float, before: Run | None = None
    ) -> None:
        """Give a run that begins now in this daemon what belongs to it. Raises `StateError`.

        `before` had its name in this daemon, and may have ended since it was last saved.
        """
        self._expected.pop(run.name, None)
        row = next((row for row in self._store.runs() if row.name == run.name), None)
        if row is not None and before is not None and before.ended is not None:
            row = replace(row, state=before.state, ended=before.ended)
        incident = self._store.open_incident(run.name)
        continues = (
            row is not None
            and row.state != "finished"
            and any(_is_same(rank, hello) for rank in self._store.ranks(run.name))
        )
        returns = (
            row is not None
            and incident is not None
            and not continues
            and self._returns(row, incident, now)
        )
        run.course.begin(
            now,
            continues=continues,
            step=row.step if row is not None else None,
            returns=hello.step if returns else None,
        )
        if row is not None:
            run.adopt_checkpoints(self._store.checkpoints(run.name), row.step)
        if row is not None and continues:
            log.info("run %s goes on under this daemon", run.name)
            run.adopt(incident, row.hold, row.started, now)
            run.command = run.command or row.command
            return
        ledger.lapse(run.name, 0.0, now, now)
        if row is not None and incident is not None and returns:
            log.info("run %s was restarted: its incident goes on", run.name)
            told, kept = continuing(incident, restarted(hello.step, row.step), now)
            run.adopt_incident(kept)
            ledger.commit(told, lambda _: None)
        elif incident is not None:
            ledger.commit(closing(incident, now), lambda _: None)

    def _returns(self, row: RunRow, incident: OpenIncident, now: float) -> bool:
        """Whether a new job by the name of this run is the same one, that comes back.

        One that was stopped by an order while its incident was open counts as finished otherwise.
        """
        seen = [rank.last_seen for rank in self._store.ranks(row.name)]
        ended = row.ended if row.ended is not None else max(seen, default=row.started)
        if now - ended > RETURN:
            return False
        if row.state != "finished":
            return True
        found = (one for one in self._store.incidents(row.name) if one["id"] == incident.id)
        actions = [(one["action"], one["state"]) for each in found for one in each["actions"]]
        return ("stop", "done") in actions

    def expects(self, name: str) -> bool:
        """Whether ranks of this run have still time to come back."""
        return name in self._expected

    def given_up(self, now: float) -> list[tuple[RunRow, list[RankRow]]]:
        """The rows of runs whose ranks have not come back in time: they are lost.

        The same again until `settled` says that they are on record. Raises `StateError`.
        """
        if now < self._until or not self._expected:
            return []
        lost = partial(replace, state="lost", ended=now)
        return [(lost(row), self._store.ranks(row.name)) for row in self._expected.values()]

    def settled(self, names: Iterable[str]) -> None:
        """What became of these runs is on record."""
        for name in names:
            self._expected.pop(name, None)


def _is_same(rank: RankRow, hello: wire.Hello) -> bool:
    return (rank.rank, rank.host, rank.pid) == (hello.rank, hello.host, hello.pid)
