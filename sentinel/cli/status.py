"""`sentinel status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sentinel.cli import record
from sentinel.cli.options import json_option, run_argument, state_option

if TYPE_CHECKING:
    from sentinel.store.shapes import StatusJSON


@click.command("status")
@run_argument
@state_option
@json_option
def command(run: str | None, state: Path, as_json: bool) -> None:
    """Show what goes on: all runs, or RUN. Works without a daemon too."""
    entries = record.status(state, run)
    if as_json:
        click.echo(msgspec.json.encode(entries).decode())
    elif not entries:
        click.echo(f"no run is known in {state}")
    for entry in [] if as_json else entries:
        _show(entry)


def _show(entry: StatusJSON) -> None:
    line = f"{entry['run']}: {entry['state']}"
    if hold := entry["hold"]:
        line += f" after step {hold['step']} since {hold['since']}, by {hold['by']}"
    else:
        line += f", step {entry['step']}"
    click.echo(f"{line}, {len(entry['ranks'])} of {entry['world_size']} ranks known")
    if entry["state"] in record.OVER:
        return
    for rank in entry["ranks"]:
        click.echo(
            f"  rank {rank['rank']:<5} {rank['host']}, process {rank['pid']}: "
            f"step {rank['step']}, {rank['phase'] or 'not begun'}, "
            f"last seen {rank['last_seen_s']:.1f} s ago"
        )
