"""`sentinel pause`."""

from __future__ import annotations

from pathlib import Path

import click

from sentinel.cli.options import run_argument, state_option, wait_option
from sentinel.cli.order import give


@click.command("pause")
@run_argument
@state_option
@wait_option
def command(run: str | None, state: Path, wait: float) -> None:
    """Hold RUN: all ranks stand after the same step. RUN may be left out if only one goes on."""
    give(state, run, "pause", wait=wait)
