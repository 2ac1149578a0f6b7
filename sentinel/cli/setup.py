"""From options to what a daemon is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from sentinel import address, credentials
from sentinel.errors import AddressError
from sentinel.signals.exposition import LAYERS

if TYPE_CHECKING:
    import ssl

    from sentinel.daemon.service import Settings
    from sentinel.daemon.training import TrainingDoor
    from sentinel.daemon.web import HttpAddress
    from sentinel.notify.receiver import Receiver
    from sentinel.notify.settings import NotifySettings

F = TypeVar("F", bound=Callable[..., object])


def http_option(default: str) -> Callable[[F], F]:
    """`--http HOST:PORT`."""
    return click.option(
        "--http",
        default=default,
        show_default=True,
        metavar="HOST:PORT",
        help="Where to serve metrics, and with a token the pages and all else; or `off`.",
    )


def page_url_option(function: F) -> F:
    """`--page-url URL`, checked."""
    return click.option(
        "--page-url",
        envvar="SENTINEL_PAGE_URL",
        default="",
        callback=_page_url,
        metavar="URL",
        help="Where people reach the pages, for links in messages and through a proxy "
        "[default: $SENTINEL_PAGE_URL, then the address of --http, which messages do not name].",
    )(function)


def _page_url(_: click.Context, __: click.Parameter, value: str) -> str:
    from sentinel.daemon.page_link import parse_page_url

    return parse_page_url(value) if value else ""


def tls_options(function: F) -> F:
    """`--listen`, `--tls-cert` and `--tls-key`."""
    listen = click.option(
        "--listen",
        metavar="tls://HOST:PORT",
        help="Where ranks of other machines may report, with a trainer's token [default: nowhere].",
    )
    certificate = click.option(
        "--tls-cert",
        metavar="FILE",
        help="The certificate to show, in PEM, for --listen and for --http off loopback.",
    )
    key = click.option("--tls-key", metavar="FILE", help="Its key, in PEM.")
    return listen(certificate(key(function)))


def parse_tls_options(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """The certificate to show, if there is one. Raises `AddressError`."""
    from sentinel.tls import server_context

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise AddressError("--tls-cert and --tls-key go together: give both or none")
    return server_context(certificate, key)


def parse_http_option(text: str, context: ssl.SSLContext | None = None) -> HttpAddress | None:
    """The address, or None for `off`. Raises `AddressError`."""
    from sentinel.daemon.web import parse_http

    return None if text == "off" else parse_http(text, context)


def parse_listen_option(text: str | None, context: ssl.SSLContext | None) -> TrainingDoor | None:
    """Where to take training connections, if anywhere. Raises `AddressError`."""
    from sentinel.daemon.training import TrainingDoor

    if text is None:
        return None
    place = address.parse(text)
    if not isinstance(place, address.TlsAddress):
        raise AddressError(f"{text!r}: TCP listens with TLS only: expected tls://HOST:PORT")
    if context is None:
        raise AddressError(
            f"{place} needs a certificate, on loopback too: give --tls-cert FILE and --tls-key FILE"
        )
    return TrainingDoor(place, context)


def settings(
    state: Path,
    rules: str,
    *,
    observe: bool,
    notify: Path | None,
    slack_channel: str | None,
    clean_steps: int,
    metrics_layers: int = LAYERS,
    standing: bool = False,
    page_url: str = "",
) -> Settings:
    """What a daemon is told; `standing`: it is one that stands by itself.

    Raises `RuleError` and `NotifyError` for files that cannot be used, `SentinelError` for a
    credential that cannot.
    """
    from sentinel.daemon.offering import offerings
    from sentinel.daemon.service import Settings
    from sentinel.engine import rulefile

    loaded = rulefile.load(rulefile.resolve_pack(rules))
    receivers, routes = receivers_of(state, notify, slack_channel)
    return Settings(
        state,
        loaded,
        observe=observe,
        receivers=receivers,
        notify=routes,
        clean_steps=clean_steps,
        metrics_layers=metrics_layers,
        buttons=offerings(receivers, routes, credentials.environment()) if standing else (),
        page_url=page_url,
    )


def receivers_of(
    state: Path, notify: Path | None, slack_channel: str | None
) -> tuple[list[Receiver], NotifySettings | None]:
    """Who is told, and of what: by a notification file, or else all of it in Slack.

    Raises `NotifyError` for a file that cannot be used, `SentinelError` for a credential that
    cannot.
    """
    from sentinel.notify.building import build
    from sentinel.notify.notify_file import load
    from sentinel.notify.slack import SlackReceiver

    environment = credentials.environment()
    if notify is not None:
        if slack_channel is not None:
            raise click.UsageError(
                "--slack-channel goes without --notify: name the channel in the file"
            )
        routes = load(notify, environment)
        return build(routes.receivers, state, environment), routes
    slack = SlackReceiver.from_environment(state, channel=slack_channel, environment=environment)
    return [slack] if slack else [], None
