"""`sentinel ack`."""

from __future__ import annotations

import click

from sentinel.cli.client import Client
from sentinel.cli.examples import examples
from sentinel.cli.place import Place, place_option
from sentinel.errors import ControlError
from sentinel.signals import did_you_mean


@click.command(
    "ack",
    epilog=examples(
        "sentinel ack",
        "sentinel ack gpt-7b",
    ),
)
@click.argument("which", required=False, metavar="[RUN|INCIDENT]")
@place_option
def command(which: str | None, place: Place) -> None:
    """Say that you look after an open incident: nobody is reminded of it any more.

    It may be left out if only one is open. When the incident becomes more severe, that is told and
    repeated again.
    """
    client = Client(place)
    click.echo(client.acknowledge(_the_incident(client, which)))


def _the_incident(client: Client, which: str | None) -> str:
    found = client.incidents()
    if which is not None and any(one["id"] == which for one in found):
        return which
    opened = [one for one in found if one["state"] == "open"]
    meant = [one for one in opened if which in (None, one["run"])]
    if len(meant) == 1:
        return meant[0]["id"]
    if len(meant) > 1:
        names = ", ".join(f"{one['id']} of {one['run']}" for one in meant)
        raise ControlError(f"{len(meant)} incidents are open, name one of them: {names}")
    if which is None or any(one["run"] == which for one in found):
        raise ControlError(f"no incident is open{'' if which is None else f' in run {which}'}")
    known = [name for one in opened for name in (one["run"], one["id"])]
    raise ControlError(f"there is no run or incident {which!r}{did_you_mean(which, known)}")
