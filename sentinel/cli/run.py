"""`sentinel run`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sentinel.cli.examples import examples
from sentinel.cli.options import daemon_options, state_option
from sentinel.cli.setup import http_option, page_url_option, parse_http_option, settings
from sentinel.errors import SentinelError

if TYPE_CHECKING:
    from sentinel.cli.launch import Launch
    from sentinel.cli.terminal import Terminal
    from sentinel.daemon.page_link import LinkJSON
    from sentinel.daemon.service import Service, Settings
    from sentinel.daemon.web import HttpAddress


@click.command(
    "run",
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "sentinel run -- torchrun --nproc-per-node 8 train.py",
        "sentinel run --name gpt-7b --http 127.0.0.1:9475 -- deepspeed train.py",
        "sentinel run --observe --rules my-rules.yaml -- python train.py",
    ),
)
@state_option
@daemon_options
@click.option("--name", metavar="RUN", help="What to call the run [default: script and time].")
@http_option(default="off")
@page_url_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def command(
    state: Path,
    rules: str,
    observe: bool,
    clean_steps: int,
    metrics_layers: int,
    notify: Path | None,
    slack_channel: str | None,
    name: str | None,
    http: str,
    page_url: str,
    command: tuple[str, ...],
) -> int:
    """Run a training command under a daemon of its own, and end as it ends.

    The script calls sentinel.attach(...); the daemon ends with the command. If this process is
    killed, the command goes on.
    """
    from sentinel.cli.launch import Launch, default_name
    from sentinel.cli.terminal import Terminal
    from sentinel.daemon.lifecycle import raise_file_limit, run_loop

    logging.basicConfig(level=logging.WARNING, format="sentinel: %(message)s")
    run = name if name is not None else default_name(command)
    if not run.strip() or len(run) > 200 or not run.isprintable() or "/" in run:
        raise click.BadParameter(f"{run!r}: up to 200 characters without '/'", param_hint="--name")
    chosen = settings(
        state,
        rules,
        observe=observe,
        notify=notify,
        slack_channel=slack_channel,
        clean_steps=clean_steps,
        metrics_layers=metrics_layers,
        page_url=page_url,
    )
    raise_file_limit()
    terminal = Terminal()
    return run_loop(_run(Launch(command, run), chosen, parse_http_option(http), terminal))


@asynccontextmanager
async def _linked(service: Service, terminal: Terminal) -> AsyncIterator[None]:
    """Show a link to the pages, if there are some, that is good while in the block."""
    from sentinel.cli.terminal import WARNING
    from sentinel.daemon.page_link import make_link
    from sentinel.store.tokens import LONGEST_LINK, user_name

    if not service.page_base:
        yield
        return
    by, link = user_name(os.geteuid()), None
    try:
        link = await make_link(service, "viewer", LONGEST_LINK, by)
        terminal.line(f"page {link['url']}")
    except SentinelError as error:  # no reason not to train
        terminal.line(f"there is no link to the page: {error}", WARNING)
    try:
        yield
    finally:
        if link is not None:
            await _withdraw(service, link, by, terminal)


async def _withdraw(service: Service, link: LinkJSON, by: str, terminal: Terminal) -> None:
    from sentinel.cli.terminal import WARNING
    from sentinel.daemon.page_link import withdraw_link

    try:
        await withdraw_link(service, link, by)
    except SentinelError as error:
        terminal.line(f"the link to the page cannot be withdrawn: {error}", WARNING)


async def _run(
    launch: Launch, chosen: Settings, http: HttpAddress | None, terminal: Terminal
) -> int:
    from sentinel import clock
    from sentinel.cli.launch import NOT_EXECUTABLE, NOT_FOUND, supervise
    from sentinel.cli.narrator import Narrator
    from sentinel.daemon.serving import serving

    begun = clock.steady()
    async with serving(chosen, http) as service, _linked(service, terminal):
        narrator = Narrator(service, terminal)
        service.listeners.append(narrator.hear)
        progress = asyncio.create_task(narrator.progress())
        try:
            terminal.line(f"run {launch.run}, state in {service.store.state_dir}")
            status = await supervise(service, launch)
        except FileNotFoundError:
            terminal.line(f"{launch.command[0]}: command not found")
            return NOT_FOUND
        except PermissionError as error:
            terminal.line(f"{launch.command[0]}: {error.strerror or error}")
            return NOT_EXECUTABLE
        finally:
            progress.cancel()
        narrator.summary(begun)
        return status
