"""`sentinel page`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from sentinel.cli.client import Client
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.cli.place import Place, place_option
from sentinel.duration import in_words, seconds_of
from sentinel.store.tokens import LONGEST_LINK, SHORTEST_LINK

if TYPE_CHECKING:  # the daemon takes a second to import, and a client does not need it
    from sentinel.daemon.page_link import PageRole


def _seconds(_: click.Context, __: click.Parameter, text: str) -> float:
    seconds = seconds_of(text)
    if seconds is None or not SHORTEST_LINK <= seconds <= LONGEST_LINK:
        raise click.BadParameter(
            f"{text!r}: expected a time such as 90m, 12h or 7d, from "
            f"{in_words(SHORTEST_LINK)} to {LONGEST_LINK / 86_400:g} days"
        )
    return seconds


@click.command("page", epilog=examples("sentinel page", "sentinel page --role operator --for 2h"))
@click.option(
    "--role",
    type=click.Choice(["viewer", "operator"]),
    default="viewer",
    show_default=True,
    help="What whoever opens it may do: read, or also pause, resume and stop runs.",
)
@click.option(
    "--for",
    "seconds",
    default="12h",
    show_default=True,
    callback=_seconds,
    metavar="TIME",
    help="How long it lets anybody in, such as 90m or 7d.",
)
@place_option
@json_option
def command(role: PageRole, seconds: float, place: Place, as_json: bool) -> None:
    """Print a link to the daemon's pages.

    Whoever has the link is let in, until its token expires or is revoked: send it to nobody else.
    Needs a daemon that serves HTTP (--http), and with --daemon an admin's token.
    """
    body = msgspec.json.encode({"role": role, "expires_in": seconds})
    answer = Client(place).request("POST", "/api/v1/pages", body)
    if as_json:
        click.echo(answer.decode())
        return
    link = msgspec.json.decode(answer, type=dict[str, str])
    click.echo(
        f"a {link['role']}'s link, until {link['expires']}; to withdraw it before: "
        f"sentinel token revoke {link['name']}",
        err=True,
    )
    click.echo(link["url"])
