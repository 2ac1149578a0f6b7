"""`sentinel outbox`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from sentinel import clock
from sentinel.cli import record
from sentinel.cli.client import Client
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.cli.order import POLL
from sentinel.cli.place import Place, place_option
from sentinel.cli.progress import Progress
from sentinel.clock import timestamp
from sentinel.duration import in_words
from sentinel.errors import SentinelError

if TYPE_CHECKING:
    from sentinel.store.outbox_json import OutboxJSON

_ID = 12  # digits shown of an id


@click.group(
    "outbox",
    invoke_without_command=True,
    epilog=examples(
        "sentinel outbox",
        "sentinel outbox --failed --json",
        "sentinel outbox resend --all",
    ),
)
@place_option
@click.option("--failed", is_flag=True, help="Only what will not be tried again by itself.")
@json_option
@click.pass_context
def command(context: click.Context, place: Place, failed: bool, as_json: bool) -> None:
    """Show messages to people that have not arrived: why, since when, and what was tried.

    Works without a daemon too.
    """
    if context.invoked_subcommand is not None:
        sources = map(context.get_parameter_source, context.params)
        if ParameterSource.COMMANDLINE in sources:
            raise click.UsageError(f"give options after `{context.invoked_subcommand}`")
        return
    found = [one for one in record.outbox(place) if one["state"] == "failed" or not failed]
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    elif not found:
        click.echo("no message has failed" if failed else "every message has arrived")
    for one in [] if as_json else found:
        _show(one)


@command.command(
    "resend",
    epilog=examples(
        "sentinel outbox resend --all --wait 60",
        "sentinel outbox resend 1f0c9a7be2d4",
    ),
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that have failed.")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until they have arrived, or failed again; 0: not at all.",
)
@place_option
def resend(ids: tuple[str, ...], everything: bool, wait: float, place: Place) -> None:
    """Send messages again that failed: those with these IDs, as `sentinel outbox` shows them.

    Needs a daemon, and there the rights of an operator. What comes late says so. Exit status 1 if
    they were waited for, and one has not arrived.
    """
    if bool(ids) == everything:
        raise click.UsageError("name the messages to be sent again, or give --all")
    client = Client(place)
    again = client.resend(None if everything else [one.lower() for one in ids])
    if wait and again:
        _await_arrival(client, again, wait)
    else:
        click.echo(f"{len(again)} message{'s' * (len(again) != 1)} will be sent again")


def _await_arrival(client: Client, ids: Sequence[str], wait: float) -> None:
    """Until nothing more comes of these messages. Raises `SentinelError` if one is left."""
    progress, deadline = Progress(), clock.monotonic() + wait
    while True:
        left = [one for one in client.outbox() if one["id"] in ids]
        arrived = f"{len(ids) - len(left)} of {len(ids)} messages have arrived"
        if all(one["state"] == "failed" for one in left) or clock.monotonic() > deadline:
            break
        progress.say(arrived)
        time.sleep(POLL)
    progress.clear()
    if left:
        why = f" ({left[0]['error']})" if left[0]["error"] else ""
        raise SentinelError(f"{arrived}{why}: see `sentinel outbox`")
    click.echo(arrived)


def _show(one: OutboxJSON) -> None:
    age, attempts = in_words(one["age_s"]), one["attempts"]
    tried = f"{attempts} attempt{'s' * (attempts != 1)}"
    line = (
        f"{one['id'][:_ID]}  {one['state']:<7}  {one['kind']} of {one['run']} for "
        f"{one['receiver']}, {age} old, {tried}"
    )
    if one["next_attempt"] is not None:
        wait = timestamp(one["next_attempt"]) - clock.steady()
        line += f", next in {in_words(wait)}" if wait > 1.0 else ", due"
    click.echo(line)
    if one["error"]:
        click.echo(f"  {one['error']}")
    if one["doubtful"]:
        click.echo("  it may have arrived: that is looked up before it is sent again")
