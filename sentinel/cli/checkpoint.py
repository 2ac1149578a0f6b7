"""`sentinel checkpoint`."""

from __future__ import annotations

import click

from sentinel.cli.examples import examples
from sentinel.cli.options import run_argument, wait_option
from sentinel.cli.order import give
from sentinel.cli.place import Place, place_option


@click.command(
    "checkpoint",
    epilog=examples(
        "sentinel checkpoint gpt-7b",
        "sentinel checkpoint --wait 600",
    ),
)
@run_argument
@place_option
@wait_option
def command(run: str | None, place: Place, wait: float) -> None:
    """Save a checkpoint of RUN after a step that all ranks have done, and let it go on.

    RUN may be left out if only one goes on.
    """
    give(place, run, "checkpoint", wait=wait)
