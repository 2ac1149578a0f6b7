"""`sentinel silence`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from sentinel.cli.client import Client
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.cli.place import Place, place_option
from sentinel.cli.terminal import plain
from sentinel.duration import seconds_of
from sentinel.matcher import parse_matcher

if TYPE_CHECKING:
    from sentinel.store.silences import SilenceJSON


@click.command(
    "silence",
    epilog=examples(
        "sentinel silence run=gpt-7b --for 2h --comment 'moving racks'",
        "sentinel silence rule=LossSpike 'host=~\"node-1.*\"' --for 30m",
        "sentinel silence --list",
        "sentinel silence --end 3",
    ),
)
@click.argument("matchers", nargs=-1, metavar="[MATCHER]...")
@click.option("--for", "lasts", metavar="DURATION", help="How long, such as 30m or 2h [needed].")
@click.option("--comment", default="", metavar="TEXT", help="Why, for those who look later.")
@click.option("--list", "listed", is_flag=True, help="Show the silences that are in force.")
@click.option("--all", "ended", is_flag=True, help="With --list: also those that are over.")
@click.option("--end", metavar="ID", help="End a silence now.")
@json_option
@place_option
def command(
    matchers: tuple[str, ...],
    lasts: str | None,
    comment: str,
    listed: bool,
    ended: bool,
    end: str | None,
    as_json: bool,
    place: Place,
) -> None:
    """Tell nobody of what matches all MATCHERs, for a time.

    A MATCHER is such as run=gpt, rule!=LossSpike, host=~"node-1.*": on run, rule, severity, and any
    label of an alert. What is silenced is still recorded and shown, and rules still act; what is
    open when the silence ends is told then.
    """
    client = Client(place)
    asked = [bool(matchers), listed, end is not None]
    if sum(asked) != 1:
        raise click.UsageError("give matchers and --for, or --list, or --end ID")
    if not matchers and (lasts or comment):
        raise click.UsageError("--for and --comment go with matchers")
    if ended and not listed:
        raise click.UsageError("--all goes with --list")
    if listed:
        _show(client.silences(ended=ended), as_json)
    elif end is not None:
        _show([client.end_silence(end)], as_json)
    else:
        _add(client, matchers, lasts, comment, as_json)


def _add(
    client: Client, matchers: tuple[str, ...], lasts: str | None, comment: str, as_json: bool
) -> None:
    seconds = None if lasts is None else seconds_of(lasts)
    if not seconds:
        given = "" if lasts is None else f", not {lasts!r}"
        raise click.UsageError(f"say for how long: --for 30m, or 2h, or 1d12h{given}")
    for text in matchers:
        parse_matcher(text)
    made = client.silence([*matchers], seconds, comment.encode(errors="replace").decode())
    _show([made["silence"]], as_json)
    if made["everything"]:
        click.echo("sentinel: this matches EVERYTHING: nobody is told of any incident", err=True)


def _show(silences: list[SilenceJSON], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(silences).decode())
        return
    for one in silences:
        by = f", ended by {plain(one['ended_by'])}" if one["ended_by"] else ""
        comment = f": {plain(one['comment'])}" if one["comment"] else ""
        click.echo(
            f"{one['id']}: {one['state']} until {one['until']}{by}, "
            f"{plain(' '.join(one['matchers']))}, by {plain(one['by'])} at {one['since']}{comment}"
        )
    if not silences:
        click.echo("no silence")
