"""`sentinel notify`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sentinel.cli.examples import examples
from sentinel.cli.options import notify_option, state_option
from sentinel.signals import did_you_mean

if TYPE_CHECKING:
    from sentinel.notify.receiver import Receiver
    from sentinel.notify.settings import Route


@click.group(
    "notify",
    epilog=examples(
        "sentinel notify check notify.yaml",
        "sentinel notify test --notify notify.yaml",
    ),
)
def command() -> None:
    """Check whom incidents are told to, and send everybody a sample."""


@command.command(
    "check",
    epilog=examples(
        "sentinel notify check notify.yaml",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check a notification FILE: its form, its receivers and routes, and that secrets are there.

    Nothing is sent.
    """
    from sentinel.notify.building import build, ping_of
    from sentinel.notify.notify_file import load

    found = load(file)
    build(found.receivers, file.parent)
    ping_of(found)
    routes = _count(found.route)
    click.echo(
        f"{file}: {_many(len(found.receivers), 'receiver')}, {_many(routes, 'route')}, "
        f"{_many(len(found.inhibitions), 'inhibit rule')}"
        f"{', a dead man' if found.dead_man else ''}"
    )


@command.command(
    "test",
    epilog=examples(
        "sentinel notify test",
        "sentinel notify test oncall --notify notify.yaml",
    ),
)
@click.argument("receiver", required=False)
@notify_option
@state_option
def test(receiver: str | None, notify: Path | None, state: Path) -> int:
    """Send a sample incident, marked as such, to all receivers or to RECEIVER, and see it resolved.

    Works without a daemon, and goes past its outbox. Ends with status 1 if one of them failed.
    """
    from sentinel.cli.setup import receivers_of

    found = receivers_of(state, notify, None)[0]
    if not found:
        raise click.UsageError("nobody is to be told: give --notify FILE, or set up Slack")
    names = [one.name for one in found]
    if receiver is not None and receiver not in names:
        raise click.UsageError(f"there is no receiver {receiver!r}{did_you_mean(receiver, names)}")
    chosen = [one for one in found if receiver in (None, one.name)]
    return 0 if asyncio.run(_try_out(chosen)) else 1


async def _try_out(receivers: list[Receiver]) -> bool:
    """One line for each; whether all took the sample."""
    from sentinel.errors import SentinelError
    from sentinel.notify.sample import try_out

    well = True
    for one in receivers:
        try:
            click.echo(f"{one.name}: ok, as {await try_out(one)}")
        except SentinelError as error:
            well = False
            click.echo(f"{one.name}: failed: {error}")
        finally:
            await one.close()
    return well


def _count(route: Route) -> int:
    return 1 + sum(map(_count, route.routes))


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
