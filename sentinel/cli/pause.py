"""`sentinel pause`."""

from __future__ import annotations

import click

from sentinel import wire
from sentinel.cli.examples import examples
from sentinel.cli.options import hold_seconds, run_argument, wait_option
from sentinel.cli.order import give
from sentinel.cli.place import Place, place_option


@click.command(
    "pause",
    epilog=examples(
        "sentinel pause gpt-7b",
        "sentinel pause gpt-7b --hold-for 30m --unattended stop",
        "sentinel pause gpt-7b --daemon https://node-1:9475",
    ),
)
@run_argument
@place_option
@wait_option
@click.option(
    "--hold-for",
    callback=hold_seconds,
    metavar="DURATION",
    help="How long to wait for an answer, such as 30m or 4h [default: 2h].",
)
@click.option(
    "--unattended",
    type=click.Choice(["resume", "stop", "hold"]),
    default="resume",
    show_default=True,
    help="What happens when nobody has answered by then; hold: nothing does.",
)
def command(
    run: str | None, place: Place, wait: float, hold_for: float | None, unattended: str
) -> None:
    """Hold RUN: all ranks stand after the same step. RUN may be left out if only one goes on."""
    if hold_for is not None and unattended == "hold":
        raise click.UsageError(
            "--hold-for says when a hold ends by itself, which it never does with --unattended "
            "hold: leave out one of them"
        )
    seconds = wire.HOLD_FOR if hold_for is None else hold_for
    give(place, run, "pause", wait=wait, hold_for=seconds, unattended=unattended)
