"""`sentinel status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from sentinel.cli import coverage_text, record
from sentinel.cli.examples import examples
from sentinel.cli.hold_text import terms
from sentinel.cli.options import json_option, run_argument
from sentinel.cli.place import Place, place_option

if TYPE_CHECKING:
    from sentinel.engine.coverage import RunCoverage
    from sentinel.store.shapes import StatusJSON


@click.command(
    "status",
    epilog=examples(
        "sentinel status",
        "sentinel status gpt-7b --json",
        "sentinel status gpt-7b --coverage  # what is seen, what is not",
    ),
)
@run_argument
@place_option
@json_option
@click.option(
    "--coverage", is_flag=True, help="Show what is measured where, and which rules are blind."
)
def command(run: str | None, place: Place, as_json: bool, coverage: bool) -> None:
    """Show what goes on: all runs, or RUN. Works without a daemon too."""
    if coverage:
        _cover(record.coverage(place, run), place, as_json)
        return
    entries = record.status(place, run)
    if as_json:
        click.echo(msgspec.json.encode(entries).decode())
    elif not entries:
        click.echo(f"no run is known in {place}")
    for entry in [] if as_json else entries:
        _show(entry)
    if not as_json and (line := record.undelivered(place)):
        click.echo(line)


def _cover(reports: list[RunCoverage], place: Place, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(reports).decode())
    elif not reports:
        click.echo(f"no run is known in {place}")
    for report in [] if as_json else reports:
        for line in coverage_text.lines(report):
            click.echo(line)


def _show(entry: StatusJSON) -> None:
    line = f"{entry['run']}: {entry['state']}"
    if hold := entry["hold"]:
        line += f" after step {hold['step']} since {hold['since']}, by {hold['by']}"
    else:
        line += f", step {entry['step']}"
    click.echo(f"{line}, {len(entry['ranks'])} of {entry['world_size']} ranks known")
    if entry["state"] in record.OVER:
        return
    for line in terms(hold) if hold and entry["state"] == "held" else ():
        click.echo(f"  {line}")
    for rank in entry["ranks"]:
        click.echo(
            f"  rank {rank['rank']:<5} {rank['host']}, process {rank['pid']}: "
            f"step {rank['step']}, {rank['phase'] or 'not begun'}, "
            f"last seen {rank['last_seen_s']:.1f} s ago"
        )
