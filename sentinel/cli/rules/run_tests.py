"""`sentinel rules test`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from sentinel.assets import asset_dir
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.cli.progress import Progress
from sentinel.errors import RuleError
from sentinel.replay.rule_test.case import Case
from sentinel.replay.rule_test.reading import read_cases
from sentinel.replay.rule_test.verdict import Failure, failures


@click.command(
    "test",
    epilog=examples(
        "sentinel rules test",
        "sentinel rules test my-rules-test.yaml --json",
    ),
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@json_option
def command(files: tuple[Path, ...], as_json: bool) -> int:
    """Run tests of rules: made-up series, and which alerts they must raise.

    Without FILE, the tests of the shipped packs are run. The exit status is 1 if a test fails or
    a file cannot be read.

    \b
    A file of tests:
      rule_files: [default]            # packs by name, or files beside this one
      tests:
        - name: one NaN warns at once
          input_series:
            - series: loss             # or loss{rank="1"}, layer_grad_norm{layer="h.3"}
              values: "2.5x40 NaN 2.5x3"
          alert_rule_test:
            - alertname: NonFiniteLoss
              eval_step: 42
              exp_alerts: [{exp_labels: {rank: "0"}}]
    """
    results: list[dict[str, object]] = []
    count = failed = broken = 0
    progress = Progress(wanted=not as_json)
    for file in files or _shipped():
        try:
            cases = read_cases(file)
        except RuleError as error:
            broken += 1
            progress.clear()
            click.echo(f"sentinel: {error}", err=True)
            continue
        for case in cases:
            progress.say(f"{count} tests done, now {case.name} of {file.name}")
            found = failures(case)
            count, failed = count + 1, failed + bool(found)
            results.append(_as_json(file, case, found))
            if found and not as_json:
                progress.clear()
                click.echo(_as_text(file, case, found))
    progress.clear()
    if as_json:
        click.echo(msgspec.json.encode(results).decode())
    else:
        click.echo(_summary(count, failed, broken), err=True)
    return 1 if failed or broken or not count else 0


def _shipped() -> list[Path]:
    return sorted((asset_dir("rules") / "tests").glob("*.yaml"))


def _summary(count: int, failed: int, broken: int) -> str:
    tests = f"{count} test{'s' * (count != 1)}"
    told = f"{failed} of {tests} failed" if failed else f"{tests}, all right"
    told = told if count else "no test was run"
    if broken:
        told += f"; {broken} file{'s' * (broken != 1)} could not be read"
    return told


def _as_json(file: Path, case: Case, found: list[Failure]) -> dict[str, object]:
    return {
        "file": str(file),
        "line": case.line,
        "test": case.name,
        "passed": not found,
        "failures": found,
    }


def _as_text(file: Path, case: Case, found: list[Failure]) -> str:
    lines = [f"FAILED {file}:{case.line}: {case.name}"]
    for one in found:
        lines.append(f"  {file}:{one.line}: {one.rule} {one.when}")
        lines += _listed("expected", one.expected)
        lines += _listed("fired", one.fired)
        lines += _listed("seen", one.seen) if one.seen != one.fired else []
    return "\n".join(lines)


def _listed(what: str, of: tuple[str, ...]) -> list[str]:
    first, *others = of or ("nothing",)
    return [f"    {what + ':':<10}{first}", *(f"{'':14}{other}" for other in others)]
