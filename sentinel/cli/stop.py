"""`sentinel stop`."""

from __future__ import annotations

import click

from sentinel.cli.examples import examples
from sentinel.cli.options import run_argument, wait_option
from sentinel.cli.order import give
from sentinel.cli.place import Place, place_option


@click.command(
    "stop",
    epilog=examples(
        "sentinel stop gpt-7b",
        "sentinel stop gpt-7b --wait 0  # only ask for it",
    ),
)
@run_argument
@place_option
@wait_option
def command(run: str | None, place: Place, wait: float) -> None:
    """End RUN cleanly: all ranks leave the training loop after the same step, with exit status 0.

    RUN may be left out if only one goes on.
    """
    give(place, run, "stop", wait=wait)
