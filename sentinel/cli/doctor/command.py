"""`sentinel doctor`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import click
import msgspec

from sentinel.cli.doctor.check import Check, Finding, Level, Setup, make
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option, notify_option, state_option
from sentinel.cli.progress import Progress
from sentinel.cli.terminal import BAD, GOOD, PLAIN, WARNING, Style, plain, styled

_STYLES: dict[Level, Style] = {"ok": GOOD, "note": WARNING, "problem": BAD}
_NAME = 16  # columns for the name of a check


@click.command(
    "doctor",
    epilog=examples(
        "sentinel doctor",
        "sentinel doctor --state /var/lib/sentinel --notify notify.yaml",
        "sentinel doctor --prometheus http://prometheus:9090 --json",
    ),
)
@state_option
@notify_option
@click.option(
    "--http",
    default="127.0.0.1:9475",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the daemon's HTTP should be.",
)
@click.option(
    "--prometheus",
    envvar="SENTINEL_PROMETHEUS_URL",
    default="",
    metavar="URL",
    help="A Prometheus that should scrape the daemon [default: $SENTINEL_PROMETHEUS_URL].",
)
@click.option(
    "--grafana",
    envvar="GRAFANA_URL",
    default="",
    metavar="URL",
    help="A Grafana to look at, with the token in $GRAFANA_TOKEN [default: $GRAFANA_URL].",
)
@click.option(
    "--within",
    type=click.FloatRange(0.1, 600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a server may take to answer; importing torch may take five times as long.",
)
@json_option
def command(
    state: Path,
    notify: Path | None,
    http: str,
    prometheus: str,
    grafana: str,
    within: float,
    as_json: bool,
) -> int:
    """Check this set-up, and say what to do about what is not right.

    Nothing is changed and nobody is told anything. Exit status 1 if there is a problem; a note is
    none.
    """
    from sentinel.cli.doctor.checks import checks

    setup = Setup(state, notify, http, prometheus, grafana, within)
    progress = Progress(wanted=not as_json)
    every = checks()
    found = make(every, setup, lambda done: progress.say(f"{done} of {len(every)} checks done"))
    progress.clear()
    if as_json:
        click.echo(msgspec.json.encode([_as_json(one, finding) for one, finding in found]).decode())
    else:
        _show(found)
    return 1 if any(finding.level == "problem" for _, finding in found) else 0


def _as_json(one: Check, finding: Finding) -> dict[str, str]:
    return {
        "group": one.group,
        "check": one.name,
        "level": finding.level,
        "text": plain(finding.text),
        "advice": plain(finding.advice),
    }


def _show(found: list[tuple[Check, Finding]]) -> None:
    colored = "NO_COLOR" not in os.environ
    group = ""
    for one, finding in found:
        if one.group != group:
            group = one.group
            click.echo(group)
        level = f"{finding.level:<8}"
        mark = styled(level, _STYLES[finding.level] if colored else PLAIN)
        click.echo(f"  {mark}{one.name:<{_NAME}} {plain(finding.text)}")
        if finding.advice:
            click.echo(f"  {'':8}{'':{_NAME}} -> {plain(finding.advice)}")
    counts = Counter(finding.level for _, finding in found)
    problems, notes = counts["problem"], counts["note"]
    click.echo(
        f"{problems or 'no'} problem{'s' * (problems != 1)}, {notes or 'no'} "
        f"note{'s' * (notes != 1)}"
    )
