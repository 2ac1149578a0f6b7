"""`sentinel rules explain`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from sentinel.cli.examples import examples
from sentinel.cli.options import json_option, rules_option, state_option
from sentinel.cli.rules import explain_text
from sentinel.engine import rulefile
from sentinel.engine.rule import Rule
from sentinel.errors import ReplayError, RuleError
from sentinel.replay import log, recorded
from sentinel.replay.explaining import Explained, explain_run
from sentinel.signals import did_you_mean
from sentinel.store.recording import Recording


def _labels(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{one!r} is no label such as rank=3 or layer=h.3")
        labels[name] = value
    return labels


@click.command(
    "explain",
    epilog=examples(
        "sentinel rules explain LossSpike --run gpt --step 431",
        "sentinel rules explain RankLossSpike --run gpt --step 431 --label rank=5",
        "sentinel rules explain LossSpike --log log.jsonl --step 431 --rules my.yaml",
    ),
)
@click.argument("rule")
@click.option("--run", metavar="RUN", help="A recorded run; may be left out if there is but one.")
@click.option(
    "--log",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A log of another tool instead, as `sentinel replay` reads it.",
)
@click.option("--step", type=click.IntRange(0), required=True, metavar="N", help="Which step.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="NAME=VALUE",
    help="Show only what has this label, such as rank=3. May be repeated.",
)
@rules_option
@state_option
@json_option
def command(
    rule: str,
    run: str | None,
    file: Path | None,
    step: int,
    labels: dict[str, str],
    rules: str,
    state: Path,
    as_json: bool,
) -> None:
    """Show why RULE fired at a step of a run, or why it did not.

    The record of the run is replayed up to that step. Every part of the rule's expression is shown
    with its value, and how the alert stood.
    """
    if run is not None and file is not None:
        raise click.UsageError("--run and --log name two runs: give one of them")
    meant = _rule(rules, rule)
    if strange := [name for name in labels if name not in meant.expression.axes]:
        has = ", ".join(meant.expression.axes) or "none"
        raise click.UsageError(f"{meant.name} has no label {strange[0]!r}; its labels: {has}")
    if file is not None:
        opened = log.open_log(file)
        moments = log.moments(opened)
        found = explain_run(opened.run, moments, meant, step, labels=labels, clock=False)
    else:
        found = _of_record(state, run, meant, step, labels)
    if labels and not found.explanation.alerts:
        asked = ", ".join(f"{name}={value}" for name, value in labels.items())
        raise ReplayError(f"nothing with {asked} was known to {meant.name} by step {step}")
    click.echo(
        msgspec.json.encode(explain_text.as_json(found)).decode()
        if as_json
        else explain_text.as_text(found)
    )


def _rule(pack: str, name: str) -> Rule:
    rules = {rule.name: rule for rule in rulefile.load(rulefile.resolve_pack(pack))}
    if name not in rules:
        raise RuleError(f"there is no rule {name!r} in {pack}{did_you_mean(name, rules)}")
    return rules[name]


def _of_record(
    state: Path, run: str | None, rule: Rule, step: int, labels: dict[str, str]
) -> Explained:
    recording = Recording.open(state, readonly=True)
    try:
        runs = recording.runs()
        if run is None and len(runs) == 1:
            run = runs[0]
        if run is None:
            named = f"{len(runs)} runs are" if runs else "no run was"
            raise ReplayError(f"{state}: {named} recorded here: name one with --run")
        if run not in runs:
            raise ReplayError(f"{state}: there is no record of {run!r}{did_you_mean(run, runs)}")
        return explain_run(run, recorded.moments(recording, run), rule, step, labels=labels)
    finally:
        recording.close()
