"""Which daemon a command is for: that of a state directory, or one over the network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click

from sentinel import address, bearer
from sentinel.errors import AddressError

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Remote:
    """A daemon over the network. `ca`: the file of the authorities to trust; None: the usual."""

    host: str
    port: int
    encrypted: bool
    token: str = field(repr=False)
    ca: str | None = None

    def __str__(self) -> str:
        scheme = "https" if self.encrypted else "http"
        return f"{scheme}://{address.join_host_port(self.host, self.port)}"


Place = Path | Remote


def place_option(function: F) -> F:
    """`--state DIR`, or `--daemon URL` with what it takes to be let in there; given as `place`."""

    @functools.wraps(function)
    def command(
        *arguments: object,
        state: Path | None,
        daemon: str | None,
        token_file: Path | None,
        ca: str | None,
        **options: object,
    ) -> object:
        place = chosen(state, daemon, token_file, ca)
        return function(*arguments, place=place, **options)

    for option in reversed(_OPTIONS):
        option(command)
    return command  # type: ignore[return-value]


def chosen(
    state: Path | None, daemon: str | None, token_file: Path | None, ca: str | None
) -> Place:
    """What these options say. Raises `AddressError`, and `AccessError` when there is no token."""
    if daemon is not None:
        if state is not None:
            raise click.UsageError("--state and --daemon name two daemons: give one of them")
        return parse_remote(daemon, token_file, ca)
    if token_file is not None or ca is not None:
        raise click.UsageError("--token-file and --ca go with --daemon")
    return state.absolute() if state is not None else address.default_state_dir()


def parse_remote(text: str, token_file: Path | None, ca: str | None) -> Remote:
    """`https://HOST:PORT`, or `http://` where that is this machine's loopback.

    Raises `AddressError`, and `AccessError` when there is no token.
    """
    if bearer.looks_like(text):
        raise _shown("--daemon")
    scheme, _, rest = text.partition("://")
    found = address.split_host_port(rest.removesuffix("/"))
    if scheme not in ("https", "http") or found is None:
        raise AddressError(f"{text!r} is no daemon address: expected https://HOST:PORT")
    if scheme == "http" and not address.is_loopback(found[0]):
        raise AddressError(f"{text}: a token would be read on its way: use https://")
    return Remote(*found, scheme == "https", bearer.own_token(token_file), ca)


def _shown(option: str) -> click.UsageError:
    return click.UsageError(
        f"{option}: no token belongs on a command line, where `ps` shows it to everybody and the "
        "shell keeps it: revoke it, and put another into $SENTINEL_TOKEN or a file"
    )


def _no_token(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise _shown("--token")


def _file(_: click.Context, __: click.Parameter, value: str | None) -> Path | None:
    if value is not None and bearer.looks_like(value):
        raise _shown("--token-file")
    return None if value is None else Path(value)


_OPTIONS = (
    click.option(
        "--state",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="State directory [default: $SENTINEL_STATE, then ~/.local/state/sentinel].",
    ),
    click.option(
        "--daemon",
        metavar="URL",
        help="A daemon elsewhere, as https://HOST:PORT, with the token in $SENTINEL_TOKEN.",
    ),
    click.option(
        "--token-file", metavar="FILE", callback=_file, help="Where the token for --daemon is."
    ),
    click.option(
        "--ca",
        metavar="FILE",
        help="Authorities to trust with --daemon [default: $SENTINEL_CA, then the system's].",
    ),
    click.option("--token", hidden=True, expose_value=False, callback=_no_token),
)
