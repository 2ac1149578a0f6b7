"""`sentinel token`."""

from __future__ import annotations

import os
from typing import get_args
from urllib.parse import quote

import click
import msgspec

from sentinel import clock
from sentinel.cli.client import Client
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.cli.place import Place, Remote, place_option
from sentinel.duration import seconds_of
from sentinel.store.location import prepare
from sentinel.store.tokens import Role, TokenJSON, Tokens, shown, user_name

LONGEST = 3650 * 86400.0  # s


def _seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    seconds = seconds_of(text)
    if not seconds or seconds > LONGEST:
        raise click.BadParameter(f"{text!r}: expected a time such as 90m, 12h or 30d, to 3650d")
    return seconds


@click.group(
    "token",
    epilog=examples(
        "sentinel token add anna --role operator --expires 30d",
        "sentinel token list",
    ),
)
def command() -> None:
    """Say who may reach the daemon over the network, and what they may do there.

    Each works whether the daemon runs or not; with --daemon it takes an admin's token.
    """


@command.command(
    "add",
    epilog=examples(
        "sentinel token add anna --role operator --expires 30d",
        "sentinel token add cluster --role trainer",
    ),
)
@click.argument("name")
@click.option(
    "--role",
    required=True,
    type=click.Choice(get_args(Role)),
    help="viewer: read; operator: also pause, resume, stop; admin: also tokens; trainer: report "
    "and obey on a training connection, nothing else.",
)
@click.option(
    "--expires", callback=_seconds, metavar="TIME", help="Such as 30d or 12h [default: never]."
)
@place_option
def add(name: str, role: Role, expires: float | None, place: Place) -> None:
    """Make a token by this NAME and print it, this once."""
    if isinstance(place, Remote):
        body = msgspec.json.encode({"name": name, "role": role, "expires_in": expires})
        answer = Client(place).request("POST", "/api/v1/tokens", body)
        secret = msgspec.json.decode(answer, type=dict[str, str])["token"]
    else:
        now = clock.wall()
        until = None if expires is None else now + expires
        secret = Tokens(prepare(place)).add(name, role, by=_me(), now=now, expires=until)
    click.echo(f"token {name} ({role}); it is shown this once and kept nowhere:", err=True)
    click.echo(secret)


@command.command(
    "list",
    epilog=examples(
        "sentinel token list",
        "sentinel token list --json",
    ),
)
@place_option
@json_option
def list_(place: Place, as_json: bool) -> None:
    """Show all tokens that were ever made, without their secrets."""
    found = _all(place)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    elif not found:
        click.echo(f"there is no token in {place}")
    for token in [] if as_json else found:
        line = f"{token['name']}: {token['role']}, {token['state']}, made by {token['made_by']}"
        line += f", {token['made']}"
        if token["expires"]:
            line += f", until {token['expires']}"
        if token["revoked"]:
            line += f", revoked by {token['revoked_by']}, {token['revoked']}"
        click.echo(line)


@command.command(
    "revoke",
    epilog=examples(
        "sentinel token revoke anna",
    ),
)
@click.argument("name")
@place_option
def revoke(name: str, place: Place) -> None:
    """Let the token NAME open nothing any more, and hang up on those who came with it."""
    if isinstance(place, Remote):
        Client(place).request("DELETE", f"/api/v1/tokens/{quote(name, safe='')}")
    else:
        Tokens(prepare(place)).revoke(name, by=_me(), now=clock.wall())
    click.echo(f"token {name} is revoked")


def _all(place: Place) -> list[TokenJSON]:
    if isinstance(place, Remote):
        answer = Client(place).request("GET", "/api/v1/tokens")
        return msgspec.json.decode(answer, type=list[TokenJSON])
    return [shown(token, clock.wall()) for token in Tokens(place).all()]


def _me() -> str:
    return user_name(os.geteuid())
