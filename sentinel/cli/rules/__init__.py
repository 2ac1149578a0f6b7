"""`sentinel rules`."""

from __future__ import annotations

import click

from sentinel.cli.examples import examples
from sentinel.cli.rules import check, explain, listing, run_tests


@click.group(
    "rules",
    epilog=examples(
        "sentinel rules check my-rules.yaml",
        "sentinel rules list --signals",
    ),
)
def command() -> None:
    """Check, test and list rules, and see why one fired or did not."""


command.add_command(check.command)
command.add_command(run_tests.command)
command.add_command(listing.command)
command.add_command(explain.command)
