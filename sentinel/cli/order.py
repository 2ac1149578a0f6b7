"""Gives an order to a run and waits until it has been carried out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from sentinel import clock
from sentinel.cli import record
from sentinel.cli.client import Client
from sentinel.cli.place import Place, Remote
from sentinel.errors import ControlError, NoDaemonError
from sentinel.notify.message import plain

if TYPE_CHECKING:
    from sentinel.store.shapes import BecameJSON

POLL = 0.1  # s
_DONE = {
    "pause": "held after",
    "resume": "resumed after",
    "stop": "stopped after",
    "checkpoint": "checkpoint saved after",
}


def give(place: Place, run: str | None, action: str, *, wait: float, **body: float | str) -> None:
    """Give an order, wait for `wait` seconds at most, and say what became of it.

    Raises `ControlError` when it is refused, comes to nothing, or has not happened by then.
    """
    client = Client(place)
    name = record.the_run(client, run)
    given = client.order(name, action, dict(body))
    if tag := given["rollback"]:
        click.echo(f"{name}: rolling back to {plain(tag)}")
    if not wait:
        click.echo(f"{name}: {action} asked for")
        return
    deadline = clock.monotonic() + wait
    while (became := look(client, given["id"]))["state"] == "requested":
        if clock.monotonic() > deadline:
            raise ControlError(
                f"{name}: {action} was asked for but has not happened within {wait:g} s; the order "
                "stands, see `sentinel status`"
            )
        time.sleep(POLL)
    _tell(name, action, became)


def look(client: Client, action_id: int) -> BecameJSON:
    """What became of it; an embedded daemon may end with its run before it could be asked."""
    try:
        return client.became(action_id)
    except NoDaemonError:
        if isinstance(client.place, Remote):
            raise
        return record.became(client.place, action_id)


def _tell(name: str, action: str, became: BecameJSON) -> None:
    detail = became["detail"]
    if became["state"] != "done":
        raise ControlError(f"{name}: {action} {became['state']}: {detail}")
    with_what = f", {detail}" if action == "resume" and detail else ""
    click.echo(f"{name}: {_DONE[action]} step {became['step']}{with_what}")
