"""`sentinel rules check`."""

from __future__ import annotations

import click
import msgspec

from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.engine import rulefile
from sentinel.engine.rule import NO_TEXT, Rule
from sentinel.errors import RuleError


@click.command(
    "check",
    epilog=examples(
        "sentinel rules check my-rules.yaml",
        "sentinel rules check default my-rules.yaml --json",
    ),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def command(files: tuple[str, ...], as_json: bool) -> int:
    """Check rule files, or shipped packs by their names; says what is wrong in which line.

    What is allowed and most likely not meant is a warning, and no reason to fail.
    """
    wrong = 0
    told: list[dict[str, object]] = []
    for name in files:
        try:
            rules = rulefile.load(rulefile.resolve_pack(name))
        except RuleError as error:
            wrong += 1
            told.append({"file": name, "rules": 0, "error": _error_json(error), "warnings": []})
            if not as_json:
                click.echo(f"sentinel: {error}", err=True)
            continue
        warnings = [warning for rule in rules for warning in _warnings(rule)]
        told.append({"file": name, "rules": len(rules), "error": None, "warnings": warnings})
        if not as_json:
            for warning in warnings:
                click.echo(f"sentinel: warning: {warning}", err=True)
            click.echo(f"{name}: {len(rules)} rules, all right")
    if as_json:
        click.echo(msgspec.json.encode(told).decode())
    return 1 if wrong else 0


def _warnings(rule: Rule) -> list[str]:
    place = f"{rule.file}:{rule.line}: {rule.name}"
    if rule.summary == NO_TEXT:
        return [f"{place} has no summary: whoever it wakes is told nothing but its name"]
    return []


def _error_json(error: RuleError) -> dict[str, object]:
    return {
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "reason": error.reason,
    }
