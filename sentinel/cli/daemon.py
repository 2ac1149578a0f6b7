"""`sentinel daemon`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import click

from sentinel import credentials
from sentinel.cli.examples import examples
from sentinel.cli.options import daemon_options, state_option
from sentinel.cli.setup import http_option, page_url_option, settings, tls_options


@click.command(
    "daemon",
    epilog=examples(
        "sentinel daemon",
        "sentinel daemon --notify /etc/sentinel/notify.yaml --observe",
        "sentinel daemon --listen tls://0.0.0.0:9476 --tls-cert c.pem --tls-key k.pem",
    ),
)
@state_option
@daemon_options
@http_option(default="127.0.0.1:9475")
@page_url_option
@tls_options
def command(
    state: Path,
    rules: str,
    observe: bool,
    clean_steps: int,
    metrics_layers: int,
    notify: Path | None,
    slack_channel: str | None,
    http: str,
    page_url: str,
    listen: str | None,
    tls_cert: str | None,
    tls_key: str | None,
) -> None:
    """Serve all runs that find their daemon in this state directory, until SIGTERM."""
    from sentinel.cli.setup import parse_http_option, parse_listen_option, parse_tls_options
    from sentinel.daemon.lifecycle import run_loop
    from sentinel.daemon.serving import stand
    from sentinel.notify.building import ping_of

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    context = parse_tls_options(tls_cert, tls_key)
    served = parse_http_option(http, context), parse_listen_option(listen, context)
    chosen = settings(
        state,
        rules,
        observe=observe,
        notify=notify,
        slack_channel=slack_channel,
        clean_steps=clean_steps,
        metrics_layers=metrics_layers,
        standing=True,
        page_url=page_url,
    )
    ping = ping_of(chosen.notify, credentials.environment())
    run_loop(stand(replace(chosen, ping=ping), *served))
