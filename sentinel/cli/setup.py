"""From options to what a daemon is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from sentinel.daemon.service import Settings
    from sentinel.daemon.web import HttpAddress

F = TypeVar("F", bound=Callable[..., object])


def http_option(default: str) -> Callable[[F], F]:
    """`--http HOST:PORT`."""
    return click.option(
        "--http",
        default=default,
        show_default=True,
        metavar="HOST:PORT",
        help="Where to serve /metrics and /healthz, on this machine only; or `off`.",
    )


def parse_http_option(text: str) -> HttpAddress | None:
    """The address, or None for `off`. Raises `AddressError`."""
    from sentinel.daemon.web import parse_http

    return None if text == "off" else parse_http(text)


def settings(
    state: Path,
    rules: str,
    *,
    observe: bool,
    slack_channel: str | None,
    clean_steps: int,
) -> Settings:
    """What a daemon is told. Raises `RuleError` for rules that cannot be used."""
    from sentinel.daemon.service import Settings
    from sentinel.engine import rulefile
    from sentinel.notify.slack import SlackReceiver

    loaded = rulefile.load(rulefile.resolve_pack(rules))
    receiver = SlackReceiver.from_environment(state, channel=slack_channel)
    return Settings(state, loaded, observe=observe, receiver=receiver, clean_steps=clean_steps)
