"""`sentinel replay`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from sentinel.cli.options import json_option, rules_option
from sentinel.engine import rulefile
from sentinel.engine.rule import Rule
from sentinel.engine.transition import AlertChanged
from sentinel.errors import ReplayError
from sentinel.replay.event_file import event_files
from sentinel.replay.log import open_log, replay_log
from sentinel.replay.messages import begins_to_fire, replay_messages
from sentinel.replay.recorded import moments
from sentinel.store.recording import Recording
from sentinel.store.shapes import number_json


@click.command("replay")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
@rules_option
@json_option
def command(files: tuple[Path, ...], rules: str, as_json: bool) -> None:
    """Show which alerts rules would have raised.

    FILE is a state directory, all of whose recorded runs are replayed, or a log of JSON lines with
    `step` and any of `loss`, `grad_norm` and `lr`.
    """
    loaded = rulefile.load(rulefile.resolve_pack(rules))
    fired = 0
    for file in files:
        for alert in _replay(file, loaded):
            fired += 1
            click.echo(_as_json(alert) if as_json else _as_text(alert))
    if not as_json:
        click.echo(f"{fired or 'no'} alert{'s' * (fired != 1)}", err=True)


def _replay(file: Path, rules: Sequence[Rule]) -> Iterator[AlertChanged]:
    """The alerts that begin to fire in a file. Raises `ReplayError`, `StateError`."""
    if not file.is_dir() or event_files(file):
        yield from replay_log(open_log(file), rules)
        return
    recording = Recording.open(file, readonly=True)
    try:
        if not (runs := recording.runs()):
            raise ReplayError(f"{file}: no run was recorded here")
        for run in runs:
            yield from begins_to_fire(replay_messages(run, moments(recording, run), rules))
    finally:
        recording.close()


def _as_json(alert: AlertChanged) -> str:
    line = {
        "run": alert.run,
        "step": alert.fired_step,
        "rule": alert.rule,
        "severity": alert.severity,
        "actions": list(alert.actions),
        "value": number_json(alert.value),
    }
    return msgspec.json.encode(line).decode()


def _as_text(alert: AlertChanged) -> str:
    does = f" (would {', '.join(alert.actions)})" if alert.actions else ""
    place = f"{alert.run} step {alert.fired_step}"
    return f"{place}: {alert.severity}: {alert.rule}{does}: {alert.summary}"
