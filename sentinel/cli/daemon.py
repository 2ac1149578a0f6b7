"""`sentinel daemon`."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from sentinel.cli.options import daemon_options, state_option
from sentinel.cli.setup import http_option, settings


@click.command("daemon")
@state_option
@daemon_options
@http_option(default="127.0.0.1:9475")
def command(
    state: Path, rules: str, observe: bool, clean_steps: int, slack_channel: str | None, http: str
) -> None:
    """Serve all runs that find their daemon in this state directory, until SIGTERM."""
    from sentinel.cli.setup import parse_http_option
    from sentinel.daemon.lifecycle import run_loop
    from sentinel.daemon.serving import stand

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    chosen = settings(
        state, rules, observe=observe, slack_channel=slack_channel, clean_steps=clean_steps
    )
    run_loop(stand(chosen, parse_http_option(http)))
