"""`sentinel incidents`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click
import msgspec

from sentinel.cli import record
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option, run_argument
from sentinel.cli.place import Place, place_option
from sentinel.cli.whereabouts import whereabouts
from sentinel.engine.transition import Cause
from sentinel.notify.message import plain

if TYPE_CHECKING:
    from sentinel.store.shapes import CauseJSON, IncidentJSON

STACK_LINES = 10  # of each stack that are shown


@click.command(
    "incidents",
    epilog=examples(
        "sentinel incidents",
        "sentinel incidents gpt-7b --json",
    ),
)
@run_argument
@place_option
@json_option
def command(run: str | None, place: Place, as_json: bool) -> None:
    """Show what went wrong: in all runs, or in RUN. Works without a daemon too."""
    found = record.incidents(place, run)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    elif not found:
        click.echo("no incident")
    for incident in [] if as_json else found:
        _show(incident)
        if isinstance(place, Path) and (boxes := place / "blackbox" / incident["id"]).is_dir():
            click.echo(f"  black boxes: {boxes}")
    if not as_json and (line := record.undelivered(place)):
        click.echo(line)


def _show(incident: IncidentJSON) -> None:
    click.echo(
        f"{incident['run']}: {incident['severity']}, {incident['state']}, since step "
        f"{incident['opened_step']} ({incident['id']})"
    )
    if incident["head"]:
        click.echo(f"  record: {incident['head'][:12]} (sentinel audit {quote(incident['run'])})")
    _show_care(incident)
    click.echo(f"  cause: {describe(incident['cause'])}")
    if incident["certainty"]:
        click.echo(f"  sure: {plain(incident['certainty'])}")
    for evidence in incident["evidence"]:
        click.echo(f"  {evidence['kind']}: {plain(evidence['title'])}")
    for alert in incident["alerts"]:
        click.echo(
            f"  {alert['state']:<8} {alert['severity']:<8} step {alert['step']:<6} "
            f"{alert['rule']}: {alert['summary']}"
        )
    for piece in incident["evidence"]:
        click.echo(f"  {piece['kind']}: {piece['title']}")
        if piece["kind"] == "stack":
            _show_stack(piece["text"])
    for action in incident["actions"]:
        click.echo(
            f"  {action['action']} {action['state']} at step {action['step']} by {action['by']}, "
            f"{action['at']}"
        )


def _show_care(incident: IncidentJSON) -> None:
    """Who looks after it, and why nobody is told."""
    if incident["acknowledged"]:
        by = incident["acknowledged"]
        click.echo(f"  acknowledged by {plain(by['by'])}, {by['at']}")
    if incident["silenced"]:
        silence = incident["silenced"]
        comment = f": {plain(silence['comment'])}" if silence["comment"] else ""
        click.echo(
            f"  silenced by {plain(silence['by'])} until {silence['until']} "
            f"(silence {silence['id']}){comment}"
        )
    if incident["inhibited_by"]:
        click.echo(f"  told to nobody while incident {incident['inhibited_by']} is open")


def _show_stack(text: str) -> None:
    """Its head and the innermost frames; --json has all of it."""
    lines = text.splitlines()
    for line in lines[:STACK_LINES]:
        click.echo(f"    {line}")
    if len(lines) > STACK_LINES:
        click.echo(f"    ... and {len(lines) - STACK_LINES} more lines (--json)")


def describe(cause: CauseJSON) -> str:
    """Where it came from, in one line."""
    where = whereabouts(msgspec.convert(cause, Cause))
    return f"{cause['rule']}: {cause['signal']} {where}"
