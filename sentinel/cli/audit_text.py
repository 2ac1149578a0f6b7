"""A journal as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from sentinel.cli.terminal import plain
from sentinel.duration import in_words

if TYPE_CHECKING:
    from sentinel.store.journal import Link

NO_RUN = "(no run)"
_KNOWN = {"user ": "by the kernel's word", "token ": "by its token"}


class _Alert(Struct, frozen=True):
    signal: str = ""
    labels: dict[str, str] = {}
    step: int = 0
    value: float | str | None = None
    score: float | str | None = None


class _Evidence(Struct, frozen=True):
    step: int | None = None
    alerts: tuple[_Alert, ...] = ()
    alert_count: int = 0


class _Row(Struct, frozen=True):
    number: int
    at: str
    action: str
    state: str
    step: int = 0
    by: str = ""
    incident: str | None = None
    reason: str = ""
    detail: str = ""
    order: dict[str, object] = {}
    evidence: _Evidence = _Evidence()
    imported: bool = False


_decoder = msgspec.json.Decoder(_Row)


def count(rows: int) -> str:
    """As `1 row`, `2 rows`."""
    return f"{rows} row{'s' * (rows != 1)}"


def lines(run: str, links: Sequence[Link]) -> Iterator[str]:
    """All rows of a journal that has some, with its head at the end."""
    yield f"{plain(run) or NO_RUN}: {count(len(links))}"
    for link in links:
        try:
            row = _decoder.decode(str(link.content))
        except msgspec.MsgspecError:
            yield "  a row that cannot be read: see --verify"
            continue
        yield from _row(row)
    yield f"  head {plain(str(links[-1].hash))}"


def _row(row: _Row) -> Iterator[str]:
    known = next((how for prefix, how in _KNOWN.items() if row.by.startswith(prefix)), "")
    who = f"{plain(row.by)}{f' ({known})' if known else ''}"
    old = ", from before there was a chain" if row.imported else ""
    yield (
        f"  {row.number:>4}  {plain(row.at)}  {plain(row.action)} {plain(row.state)} "
        f"at step {row.step}, {who}{old}"
    )
    about = [plain(part) for part in (row.reason, row.detail) if part]
    for line in [*about, *([_order(row.order)] if row.order else [])]:
        yield f"        {line}"
    if row.evidence.alerts:
        yield f"        incident {plain(row.incident or '?')}, on {row.evidence.alert_count} of:"
    for alert in row.evidence.alerts:
        where = "".join(f", {plain(name)} {plain(at)}" for name, at in alert.labels.items())
        yield f"          {plain(alert.signal)} = {alert.value} at step {alert.step}{where}"


def _order(order: dict[str, object]) -> str:
    """As `held for 2 h, then resume`, or the remedies."""
    unattended, seconds = order.get("unattended"), order.get("hold_for")
    if unattended == "hold":
        return "held until somebody answers"
    if isinstance(seconds, int | float):
        return f"held for {in_words(seconds)}, then {plain(str(unattended))} if nobody answers"
    return ", ".join(f"{plain(name)} {plain(str(value))}" for name, value in order.items())
