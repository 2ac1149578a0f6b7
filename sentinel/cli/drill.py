"""`sentinel drill`."""

from __future__ import annotations

import logging
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.errors import SentinelError

# Here, for help that is quick; a test holds it together with the scenarios.
FAULTS = {
    "nan": "NaN in a module's output; all ranks are held, and resumed past it",
    "poison": "a shard of random bytes on one rank; a warning names it, the black box the batch",
    "lr-jump": "a learning rate 100 times too high; a warning",
    "leak": "memory of one process grows; a warning long before it is full",
    "slow-rank": "one rank makes the others wait; a warning names it",
    "disagree": "bits of one replica's weights flip; the rank is named, against those that agree",
    "hang": "one rank stands still within a step; it is named, and the job ended by hand",
    "kill-rank": "one process is killed; it is named",
    "daemon-kill": "the daemon is killed over a hold and comes back; nothing is lost or told twice",
}


class _Drill(click.Command):
    """A command that names the faults under its help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command`."""
        with formatter.section("Faults"):
            formatter.write_dl([*FAULTS.items()])
        super().format_epilog(ctx, formatter)


@click.command(
    "drill",
    cls=_Drill,
    epilog=examples(
        "sentinel drill  # list the faults",
        "sentinel drill nan",
        "sentinel drill slow-rank --json",
    ),
)
@click.argument("fault", type=click.Choice([*FAULTS]), metavar="[FAULT]", required=False)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="State directory [default: a new one under the system's temporary directory].",
)
@json_option
def command(fault: str | None, state: Path | None, as_json: bool) -> int:
    """Train a small model on 2 or 3 ranks, break it on purpose, and show what happens.

    Each takes half a minute on two cores and ends with a report: noticed when and by which rule,
    held where, resumed how, and how long after the fault. Status 0 only if everything that the
    fault demands has truly happened. Without FAULT, the faults are listed.

    Alerts go to Slack if $SLACK_BOT_TOKEN and $SLACK_CHANNEL are set (daemon-kill: never);
    otherwise to a server in this process that speaks Slack's Web API and shows each message. With
    --json the report is printed as JSON, and everything else goes to standard error.
    """
    if fault is None:
        for name, title in FAULTS.items():
            click.echo(f"{name:<13}{title}")
        return 0
    for needed in ("torch", "deepspeed"):
        if find_spec(needed) is None:
            raise SentinelError(
                f"the drill trains with {needed}, which is not installed here: "
                "pip install 'sentinel-train[daemon,trainer]'"
            )
    return _perform(fault, state, as_json)


def _perform(fault: str, state: Path | None, as_json: bool) -> int:
    import msgspec

    from sentinel.cli.drills.rehearsal import Rehearsal
    from sentinel.cli.drills.scenario import SCENARIOS
    from sentinel.daemon.lifecycle import raise_file_limit, run_loop

    logging.basicConfig(level=logging.WARNING, format="sentinel: %(message)s")
    raise_file_limit()
    chosen = state.absolute() if state is not None else Path(tempfile.mkdtemp(prefix="sentinel-"))
    stream = sys.stderr if as_json else sys.stdout
    report = run_loop(Rehearsal(SCENARIOS[fault], chosen, stream).perform())
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    return 0 if report["ok"] else 1
