"""`sentinel checkpoint`."""

from __future__ import annotations

from pathlib import Path

import click

from sentinel.cli.options import run_argument, state_option, wait_option
from sentinel.cli.order import give


@click.command("checkpoint")
@run_argument
@state_option
@wait_option
def command(run: str | None, state: Path, wait: float) -> None:
    """Save a checkpoint of RUN after a step that all ranks have done, and let it go on.

    RUN may be left out if only one goes on.
    """
    give(state, run, "checkpoint", wait=wait)
