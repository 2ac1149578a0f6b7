"""`sentinel stop`."""

from __future__ import annotations

from pathlib import Path

import click

from sentinel.cli.options import run_argument, state_option, wait_option
from sentinel.cli.order import give


@click.command("stop")
@run_argument
@state_option
@wait_option
def command(run: str | None, state: Path, wait: float) -> None:
    """End RUN cleanly: all ranks leave the training loop after the same step, with exit status 0.

    RUN may be left out if only one goes on.
    """
    give(state, run, "stop", wait=wait)
