"""`sentinel resume`."""

from __future__ import annotations

from pathlib import Path

import click

from sentinel.cli.options import run_argument, state_option, wait_option
from sentinel.cli.order import give


@click.command("resume")
@run_argument
@state_option
@wait_option
@click.option(
    "--lr-scale",
    type=click.FloatRange(0, 1000, min_open=True),
    default=1.0,
    metavar="X",
    help="Multiply the learning rate by X from here on.",
)
@click.option(
    "--skip",
    type=click.IntRange(0, 1_000_000),
    default=0,
    metavar="N",
    help="Leave out the next N batches.",
)
@click.option("--force", is_flag=True, help="Go on even with weights that are not finite.")
def command(
    run: str | None, state: Path, wait: float, lr_scale: float, skip: int, force: bool
) -> None:
    """Let RUN go on, which is held. RUN may be left out if only one goes on."""
    give(state, run, "resume", wait=wait, lr_scale=lr_scale, skip_batches=skip, force=force)
