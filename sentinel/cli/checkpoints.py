"""`sentinel checkpoints`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import click
import msgspec

from sentinel.cli import record
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option, run_argument
from sentinel.cli.place import Place, place_option
from sentinel.notify.message import plain

if TYPE_CHECKING:
    from sentinel.store.shelf import CheckpointJSON

_TAG = 32  # characters of a tag that are shown
_WHY = 300


@click.command(
    "checkpoints",
    epilog=examples(
        "sentinel checkpoints gpt-7b",
        "sentinel checkpoints --all --json",
    ),
)
@run_argument
@place_option
@json_option
@click.option("--all", "every", is_flag=True, help="Show also those that are gone.")
def command(run: str | None, place: Place, as_json: bool, every: bool) -> None:
    """Show the checkpoints of all runs, or of RUN, and which is good to go back to.

    Works without a daemon too.
    """
    known = record.checkpoints(place, run)
    if as_json:
        click.echo(msgspec.json.encode(known).decode())
        return
    if not known:
        click.echo("no checkpoint was seen being saved")
    for name, of_run in groupby(known, key=lambda one: one["run"]):
        for line in _lines(name, [*of_run], every=every):
            click.echo(line)


def _lines(run: str, known: list[CheckpointJSON], *, every: bool) -> Iterator[str]:
    good = next((one for one in known if one["last_good"]), None)
    yield f"{run}: " + (
        f"last good is {_tag(good)}, step {good['step']}" if good else "none is known to be healthy"
    )
    shown = [one for one in known if every or one["state"] != "gone"]
    tags = max((len(_tag(one)) for one in shown), default=0)
    steps = max((len(_step(one)) for one in shown), default=0)
    shown.sort(key=lambda one: one["folder"])
    for folder, there in groupby(shown, key=lambda one: one["folder"]):
        if folder:
            yield f"  in {plain(folder, 1000)}"
        for one in there:
            mark = "*" if one["last_good"] else " "
            saved = (one["saved_at"] or "?")[:19].replace("T", " ")
            yield (
                f"  {mark} {_tag(one):<{tags}}  {_step(one):>{steps}}  {saved:<19}  {_state(one)}"
            )
    if gone := len(known) - len(shown):
        yield f"  {gone} gone (--all shows {'it' if gone == 1 else 'them'})"


def _tag(one: CheckpointJSON) -> str:
    return plain(one["tag"], _TAG)


def _step(one: CheckpointJSON) -> str:
    return "?" if one["step"] is None else str(one["step"])


def _state(one: CheckpointJSON) -> str:
    """The state, and why, where that says more."""
    plainly = one["state"] in ("healthy", "gone", "unseen")
    return one["state"] if plainly else f"{one['state']}: {plain(one['why'], _WHY)}"
