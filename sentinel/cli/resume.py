"""`sentinel resume`."""

from __future__ import annotations

import click

from sentinel.cli.examples import examples
from sentinel.cli.options import run_argument, wait_option
from sentinel.cli.order import give
from sentinel.cli.place import Place, place_option


@click.command(
    "resume",
    epilog=examples(
        "sentinel resume gpt-7b",
        "sentinel resume gpt-7b --rollback last-good --skip 200",
        "sentinel resume gpt-7b --lr-scale 0.5 --checkpoint",
    ),
)
@run_argument
@place_option
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
@click.option(
    "--rollback",
    default="",
    metavar="TAG",
    help="Load this checkpoint first: its tag, or last-good for the newest healthy one.",
)
@click.option("--rewind", is_flag=True, help="With --rollback: go back in the data as well.")
@click.option("--checkpoint", is_flag=True, help="Save the state as it stands first.")
@click.option(
    "--force",
    is_flag=True,
    help="Go on with weights that are not finite, or from a checkpoint that is not good.",
)
def command(
    run: str | None,
    place: Place,
    wait: float,
    lr_scale: float,
    skip: int,
    rollback: str,
    rewind: bool,
    checkpoint: bool,
    force: bool,
) -> None:
    """Let RUN go on, which is held. RUN may be left out if only one goes on.

    What is asked for besides is done by all ranks or by none, in this order: --checkpoint,
    --rollback, --rewind, --skip, --lr-scale.
    """
    if rewind and not rollback:
        raise click.UsageError("--rewind goes with --rollback")
    give(
        place,
        run,
        "resume",
        wait=wait,
        lr_scale=lr_scale,
        skip_batches=skip,
        rollback=rollback,
        rewind=rewind,
        checkpoint=checkpoint,
        force=force,
    )
