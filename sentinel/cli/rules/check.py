"""`sentinel rules check`."""

from __future__ import annotations

import click

from sentinel.engine import rulefile
from sentinel.errors import RuleError


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def command(files: tuple[str, ...]) -> int:
    """Check rule files, or shipped packs by their names; says what is wrong in which line."""
    wrong = 0
    for name in files:
        try:
            rules = rulefile.load(rulefile.resolve_pack(name))
        except RuleError as error:
            wrong += 1
            click.echo(f"sentinel: {error}", err=True)
        else:
            click.echo(f"{name}: {len(rules)} rules, all right")
    return 1 if wrong else 0
