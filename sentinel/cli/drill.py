"""`sentinel drill`."""

from __future__ import annotations

import logging
import shlex
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from sentinel.errors import SentinelError

FAULTS = ("nan", "lr-jump", "kill-rank")


@click.command("drill")
@click.argument("fault", type=click.Choice(FAULTS))
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="State directory [default: a new one under the system's temporary directory].",
)
def command(fault: str, state: Path | None) -> int:
    """Train a small model on 2 ranks (ZeRO-2, bf16), break it on purpose, and show what happens.

    Alerts go to Slack if $SLACK_BOT_TOKEN and $SLACK_CHANNEL are set; otherwise to a server in
    this process that speaks Slack's Web API and shows each message. Ends with status 0 only if
    everything that the fault demands has truly happened.
    """
    from sentinel.cli.rehearsal import Rehearsal
    from sentinel.cli.terminal import Terminal
    from sentinel.daemon.lifecycle import raise_file_limit, run_loop

    for needed in ("torch", "deepspeed"):
        if find_spec(needed) is None:
            raise SentinelError(
                f"the drill trains with {needed}, which is not installed here: "
                "pip install 'sentinel-train[daemon,trainer]'"
            )
    logging.basicConfig(level=logging.WARNING, format="sentinel: %(message)s")
    raise_file_limit()
    chosen = state.absolute() if state is not None else Path(tempfile.mkdtemp(prefix="sentinel-"))
    terminal = Terminal(sys.stdout, prefix="")
    held = run_loop(Rehearsal(fault, chosen, terminal).perform())
    terminal.line("")
    terminal.line(f"to look again: sentinel incidents --state {shlex.quote(str(chosen))}")
    return 0 if held else 1
