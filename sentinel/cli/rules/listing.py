"""`sentinel rules list`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

import click
import msgspec

from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.engine import rulefile
from sentinel.engine.detectors import DETECTORS
from sentinel.engine.language.expression import readings
from sentinel.engine.language.functions import USAGE
from sentinel.engine.rule import Rule, Span
from sentinel.signals import CATALOG, Reduction, Signal

_LEAST = 32  # characters that the last column is given, however narrow the terminal


@click.command(
    "list",
    epilog=examples(
        "sentinel rules list",
        "sentinel rules list my-rules.yaml --json",
        "sentinel rules list --signals",
        "sentinel rules list --functions",
    ),
)
@click.argument("pack", default="default")
@click.option("--signals", is_flag=True, help="List instead the signals that rules can read.")
@click.option("--functions", is_flag=True, help="List instead the functions that rules can call.")
@json_option
def command(pack: str, signals: bool, functions: bool, as_json: bool) -> None:
    """List the rules of a pack, or what rules can be made of.

    PACK is a shipped pack or a rule file.
    """
    if signals or functions:
        (_print_signals if signals else _print_functions)(as_json)
        return
    rules = rulefile.load(rulefile.resolve_pack(pack))
    if as_json:
        click.echo(msgspec.json.encode([_rule_json(rule) for rule in rules]).decode())
        return
    head = ("rule", "severity", "actions", "for", "needs", "expression")
    _print_table([head, *map(_rule_row, rules)])


def _rule_row(rule: Rule) -> tuple[str, ...]:
    return (
        rule.name,
        rule.severity,
        ", ".join(rule.actions) or "-",
        _span(rule.holds) if rule.holds.amount else "-",
        _shortened(", ".join(_needs(rule)), 40),
        " ".join(rule.expression.text.split()),
    )


def _needs(rule: Rule) -> list[str]:
    return list(dict.fromkeys(one.signal for one in readings(rule.expression.root)))


def _span(span: Span) -> str:
    return f"{span.amount:g} {'steps' if span.unit == 'steps' else 's'}"


def _rule_json(rule: Rule) -> dict[str, object]:
    return {
        "rule": rule.name,
        "group": rule.group,
        "severity": rule.severity,
        "actions": rule.actions,
        "for": rule.holds,
        "keep_firing_for": rule.keeps,
        "expr": rule.expression.text,
        "needs": _needs(rule),
        "labels": rule.expression.axes,
        "summary": rule.summary.text,
        "advice": rule.advice.text,
        "file": rule.file,
        "line": rule.line,
    }


def _print_signals(as_json: bool) -> None:
    if as_json:
        signals = [_signal_json(signal) for signal in CATALOG.values()]
        click.echo(msgspec.json.encode(signals).decode())
        return
    head = ("signal", "unit", "label", "over ranks", "what it is")
    _print_table([head, *map(_signal_row, CATALOG.values())])


def _print_functions(as_json: bool) -> None:
    takes = {name: usage.removeprefix(f"{name} takes ") for name, usage in USAGE.items()}
    if as_json:
        rows = [
            {"function": name, "takes": text, "parameters": _parameters(name)}
            for name, text in takes.items()
        ]
        click.echo(msgspec.json.encode(rows).decode())
        return
    _print_table([("function", "takes"), *takes.items()])
    for name, detector in DETECTORS.items():
        click.echo(f"\n{name}: {_first_sentence(detector)}")
        for parameter, about in detector.parameters.items():
            bounds = f"{about.lowest:g} to {about.highest:g}, {about.default:g} if not given"
            click.echo(f"  {parameter}: {about.help} ({bounds})")


def _first_sentence(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _parameters(name: str) -> list[dict[str, object]]:
    known = DETECTORS[name].parameters if name in DETECTORS else {}
    return [
        {
            "name": parameter,
            "default": about.default,
            "lowest": about.lowest,
            "highest": about.highest,
            "help": about.help,
        }
        for parameter, about in known.items()
    ]


def _signal_row(signal: Signal) -> tuple[str, ...]:
    return (
        signal.name,
        signal.unit,
        signal.label or "-",
        "2-norm" if signal.reduction is Reduction.ROOT_SUM else signal.reduction.value,
        signal.help,
    )


def _signal_json(signal: Signal) -> dict[str, object]:
    return {
        "signal": signal.name,
        "unit": signal.unit,
        "label": signal.label or None,
        "over_ranks": signal.reduction.value,
        "made_by": signal.made_by,
        "help": signal.help,
    }


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as they must be; the last one has what is left."""
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    left = shutil.get_terminal_size((140, 24)).columns - sum(widths) - 2 * len(widths)
    for row in rows:
        cells: Iterable[str] = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        click.echo("  ".join((*cells, _shortened(row[-1], max(_LEAST, left)))).rstrip())


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
