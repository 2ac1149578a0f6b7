"""What is known of runs: from their daemon, or from the state directory when it is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sentinel import clock
from sentinel.cli.client import Client
from sentinel.cli.place import Place, Remote
from sentinel.errors import ControlError, NoDaemonError, SentinelError
from sentinel.signals import did_you_mean

if TYPE_CHECKING:
    from sentinel.engine.coverage import RunCoverage
    from sentinel.store.outbox_json import OutboxJSON
    from sentinel.store.shapes import BecameJSON, IncidentJSON, StatusJSON
    from sentinel.store.shelf import CheckpointJSON
    from sentinel.store.store import Store

OVER = ("lost", "finished")


def status(place: Place, run: str | None) -> list[StatusJSON]:
    """All runs, or one. Without a daemon, what had not ended counts as lost: nobody sees it.

    Raises `SentinelError` when there is no such run, or nothing to read.
    """
    try:
        return Client(place).status(run)
    except NoDaemonError as absence:
        store = _open(place, absence)
    try:
        entries = store.status(clock.steady())
    finally:
        store.close()
    _check(run, [entry["run"] for entry in entries])
    for entry in entries:
        if entry["state"] not in OVER:
            entry["state"] = "lost"
    return [entry for entry in entries if run in (None, entry["run"])]


def coverage(place: Place, run: str | None) -> list[RunCoverage]:
    """What can be seen of all runs, or of one; without a daemon, what could be seen.

    Raises as `status`, and when a run has ended before anything was known of it.
    """
    try:
        reports = Client(place).coverage(run)
    except NoDaemonError as absence:
        store = _open(place, absence)
        try:
            _check(run, [row.name for row in store.runs()])
            reports = store.coverage(run)
        finally:
            store.close()
    if run is not None and not reports:
        raise SentinelError(f"nothing is on record of what could be seen of run {run!r}")
    return reports


def incidents(place: Place, run: str | None) -> list[IncidentJSON]:
    """All incidents, or those of one run. Raises as `status`."""
    try:
        return Client(place).incidents(run)
    except NoDaemonError as absence:
        store = _open(place, absence)
    try:
        _check(run, [row.name for row in store.runs()])
        return store.incidents(run)
    finally:
        store.close()


def checkpoints(place: Place, run: str | None) -> list[CheckpointJSON]:
    """The checkpoints of all runs, or of one. Raises as `status`."""
    try:
        return Client(place).checkpoints(run)
    except NoDaemonError as absence:
        store = _open(place, absence)
    from sentinel.store.shelf import as_json

    try:
        names = [row.name for row in store.runs()]
        _check(run, names)
        chosen = names if run is None else [run]
        return [one for name in chosen for one in as_json(name, store.checkpoints(name))]
    finally:
        store.close()


def outbox(place: Place) -> list[OutboxJSON]:
    """Messages that have not arrived. Raises `SentinelError` when there is nothing to read."""
    try:
        return Client(place).outbox()
    except NoDaemonError as absence:
        store = _open(place, absence)
    from sentinel.store.outbox_json import shown

    try:
        now = clock.steady()
        return [shown(row, now) for row in store.outbox.unsettled()]
    finally:
        store.close()


def undelivered(place: Place) -> str:
    """A line for those who look at something else, where messages could not be delivered."""
    try:
        number = Client(place).undelivered()
    except NoDaemonError as absence:
        store = _open(place, absence)
        try:
            number = store.outbox.counts().get("failed", 0)
        finally:
            store.close()
    many = "messages" if number > 1 else "message"
    return f"{number} {many} could not be delivered: see `sentinel outbox`" if number else ""


def became(state_dir: Path, action_id: int) -> BecameJSON:
    """What became of an order, read from the directory. Raises `SentinelError`."""
    from sentinel.store.shapes import became_json
    from sentinel.store.store import Store

    store = Store.open(state_dir, readonly=True)
    try:
        row = store.action(action_id)
    finally:
        store.close()
    if row is None:
        raise SentinelError(f"there is no action {action_id} in {state_dir}")
    return became_json(row)


def the_run(client: Client, run: str | None) -> str:
    """The run that is meant: the named one, or the only one that goes on."""
    if run is not None:
        return run
    names = [entry["run"] for entry in client.status() if entry["state"] not in OVER]
    if len(names) == 1:
        return names[0]
    if not names:
        raise ControlError(f"no run goes on in {client.place}")
    raise ControlError(f"{len(names)} runs go on, name one of them: {', '.join(names)}")


def _open(place: Place, absence: NoDaemonError) -> Store:
    if isinstance(place, Remote) or not place.is_dir():
        raise absence
    from sentinel.store.store import Store

    return Store.open(place, readonly=True)


def _check(run: str | None, names: list[str]) -> None:
    if run is not None and run not in names:
        raise SentinelError(f"there is no run {run!r}{did_you_mean(run, names)}")
