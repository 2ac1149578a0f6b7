"""`sentinel blackbox`."""

from __future__ import annotations

import math
from pathlib import Path

import click
import msgspec

from sentinel import clock
from sentinel.blackbox import MAX_FILE, BlackBox, Record, read
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.errors import BlackBoxError

_SHOWN = ("loss", "grad_norm", "skipped", "step_seconds")


@click.command(
    "blackbox",
    epilog=examples(
        "sentinel blackbox ~/.local/state/sentinel/blackbox/8a1c/rank3.blackbox",
        "sentinel blackbox rank3.blackbox --json",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def command(file: Path, as_json: bool) -> None:
    """Read the last steps of a rank from its black box FILE.

    Those that were handed over are in the state directory, under blackbox/INCIDENT; the one of a
    process that was killed is still in /dev/shm/sentinel-UID on its host. With --json: one line a
    step, with every value that was measured and the states of the random generators in hex.
    """
    with file.open("rb") as opened:
        try:
            box = read(opened.read(MAX_FILE))
        except BlackBoxError as error:
            raise BlackBoxError(f"{file}: {error}") from None
    if as_json:
        for record in box.records:
            click.echo(msgspec.json.encode(_json(box, record)).decode())
    else:
        _show(box)


def _show(box: BlackBox) -> None:
    head = box.header
    click.echo(
        f"run {head.run}, rank {head.rank} of {head.world_size} on {head.host}, "
        f"process {head.pid}, since {clock.isoformat(head.started)}"
    )
    torn = f", {box.torn} torn" if box.torn else ""
    click.echo(f"{len(box.records)} steps kept{torn}")
    shown = [name for name in _SHOWN if any(one.signal == name for one in box.series)]
    click.echo("  ".join(["step", "time", *shown, "batches", "found"]) if box.records else "")
    for record in box.records:
        values = dict(box.measured(record))
        row = [str(record.frame.step), clock.isoformat(record.frame.time)]
        row += [f"{values[name]:.6g}" if name in values else "-" for name in shown]
        row.append(",".join(record.batches) or "-")
        row += [
            f"{one.signal} in {one.module}" if one.module else one.signal
            for one in record.frame.findings
        ]
        click.echo("  ".join(row))


def _json(box: BlackBox, record: Record) -> dict[str, object]:
    return {
        "run": box.header.run,
        "rank": box.header.rank,
        "step": record.frame.step,
        "time": clock.isoformat(record.frame.time),
        "batches": record.batches,
        "values": {
            # JSON has no words for these.
            name: value if math.isfinite(value) else str(value)
            for name, value in box.measured(record)
        },
        "findings": [
            {"signal": one.signal, "module": one.module, "micro_batch": one.micro_batch}
            for one in record.frame.findings
        ],
        "random": {name: state.hex() for name, state in record.random.items()},
    }
