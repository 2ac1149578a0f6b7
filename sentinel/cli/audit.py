"""`sentinel audit`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click
import msgspec

from sentinel.cli import audit_text
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option, run_argument, state_option
from sentinel.cli.progress import Progress
from sentinel.cli.terminal import plain
from sentinel.errors import SentinelError
from sentinel.signals import did_you_mean

if TYPE_CHECKING:
    from sentinel.store.journal import Link
    from sentinel.store.store import Store

_HEAD = re.compile(r"[0-9a-f]{12,64}")


class RowJSON(TypedDict):
    """One row of a journal. `content` is the text that was hashed, `row` the same as JSON."""

    hash: str
    content: str
    row: object


class VerifiedJSON(TypedDict):
    """Whether a journal holds: with which row it ends, and at which it breaks, counted from 1."""

    run: str
    rows: int
    head: str
    intact: bool
    broken_row: int | None
    reason: str | None


def _head(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None or _HEAD.fullmatch(value.lower()):
        return value and value.lower()
    raise click.BadParameter(f"{value!r} is no head: 12 to 64 hexadecimal digits make one")


@click.command(
    "audit",
    epilog=examples(
        "sentinel audit gpt-7b",
        "sentinel audit --verify",
        "sentinel audit gpt-7b --head 4be1f20c9d3a  # as a message showed it",
    ),
)
@run_argument
@state_option
@json_option
@click.option("--verify", is_flag=True, help="Check that no row was changed, removed or added.")
@click.option(
    "--head",
    callback=_head,
    metavar="HASH",
    help="Check also that the row with this hash, as a message shows it, is still there.",
)
def command(
    run: str | None, state: Path, as_json: bool, verify: bool, head: str | None
) -> int | None:
    """Show who did what to RUN, when, on what evidence, and what came of it.

    Without RUN: of all runs, and what was refused and belongs to none. Reads the state directory
    itself, with or without a daemon. With --verify or --head, exit status 1 when it does not hold.
    """
    if head is not None and run is None:
        raise click.UsageError("--head needs the RUN whose record it belongs to")
    from sentinel.store.store import Store

    store = Store.open(state, readonly=True)
    try:
        names = _chosen(store, run)
        if verify or head is not None:
            return _verify(store, names, head, as_json)
        _show([(name, store.journal(name)) for name in names], as_json)
    finally:
        store.close()
    return None


def _chosen(store: Store, run: str | None) -> list[str]:
    """The journals that are meant. Raises `SentinelError` when there is no such run."""
    if run is None:
        return store.journals()
    known = [row.name for row in store.runs()]
    if run not in {*known, *store.journals()}:
        raise SentinelError(f"there is no run {run!r}{did_you_mean(run, known)}")
    return [run]


def _show(journals: list[tuple[str, list[Link]]], as_json: bool) -> None:
    if as_json:
        rows = [_row_json(link) for _, links in journals for link in links]
        click.echo(msgspec.json.encode(rows).decode())
        return
    if not any(links for _, links in journals):
        click.echo("nothing is on record")
    for name, links in journals:
        for line in audit_text.lines(name, links) if links else ():
            click.echo(line)


def _row_json(link: Link) -> RowJSON:
    content = str(link.content)
    try:
        row: object = msgspec.json.decode(content)
    except msgspec.MsgspecError:
        row = None
    return RowJSON(hash=str(link.hash), content=content, row=row)


def _verify(store: Store, names: list[str], head: str | None, as_json: bool) -> int:
    progress = Progress(wanted=not as_json)
    verified = [_verified(store, name, head, progress) for name in names]
    progress.clear()
    if as_json:
        click.echo(msgspec.json.encode(verified).decode())
    for one in [] if as_json else verified:
        name = one["run"] or audit_text.NO_RUN
        if one["intact"]:
            end = f", up to {one['head']}" if one["head"] else ""
            click.echo(f"{name}: {audit_text.count(one['rows'])}, unbroken{end}")
        else:
            where = f" at row {one['broken_row']}" if one["broken_row"] else ""
            click.echo(f"{name}: BROKEN{where}: {one['reason']}")
    if not verified and not as_json:
        click.echo("nothing is on record")
    return 0 if all(one["intact"] for one in verified) else 1


def _verified(store: Store, name: str, head: str | None, progress: Progress) -> VerifiedJSON:
    shown = plain(name) or audit_text.NO_RUN
    links, broken = store.verify(name, lambda row: progress.say(f"{shown}: row {row:,}"))
    reason = broken.reason if broken else None
    if broken is None and head and not any(str(link.hash).startswith(head) for link in links):
        reason = (
            f"no row has the hash {head}: the newest rows were cut off, or all since then were "
            "written anew"
        )
    return VerifiedJSON(
        run=name,
        rows=len(links),
        head=str(links[-1].hash) if links else "",
        intact=reason is None,
        broken_row=broken.number if broken else None,
        reason=reason,
    )
