"""One picture of everything, made to fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sentinel.cli import hold_text
from sentinel.cli.top import ranks, runs
from sentinel.cli.top.letters import Letters
from sentinel.cli.top.snapshot import Snapshot
from sentinel.cli.whereabouts import whereabouts
from sentinel.clock import isoformat
from sentinel.engine.transition import Cause

if TYPE_CHECKING:
    from sentinel.store.shapes import IncidentJSON

KEYS = "q quit  up/down another run  s sort ranks  p pause  r refresh"
_FEW = 6  # lines of ranks that what is said of incidents leaves room for
_MOST = 64  # lines of ranks where nothing bounds the height
_STYLES = {"critical": "bold red", "warning": "bold yellow"}


@dataclass(frozen=True)
class View:
    """What is shown and how. `trouble` says why nothing newer than the snapshot is known."""

    place: str
    snapshot: Snapshot
    order: ranks.Order = "worst"
    trouble: str = ""
    paused: bool = False
    keys: bool = False


def frame(view: View, width: int, height: int | None, letters: Letters) -> RenderableType:
    """The picture, `width` columns wide and at most `height` lines high; None: as it comes."""
    snapshot = view.snapshot
    left = 10_000 if height is None else height - 1 - bool(view.trouble) - view.keys
    parts: list[RenderableType] = [_title(view, letters)]
    if view.trouble:
        parts.append(letters.text(view.trouble, "bold red"))
    most = len(snapshot.runs) if height is None else max(2, left // 4)
    seen = runs.window(snapshot.runs, snapshot.chosen, min(most, len(snapshot.runs)))
    if seen:
        parts.append(runs.table(seen, snapshot.chosen, width, letters))
        left -= 1 + len(seen)
    else:
        parts.append(letters.text("no run is known yet: `sentinel run -- COMMAND` begins one"))
        left -= 1
    notes = [*_notes(snapshot, letters, width, left - min(len(snapshot.ranks), _FEW) - 3)]
    parts += notes
    left -= len(notes)
    if snapshot.ranks and left > 2:
        parts += _ranks(view, left, letters)
    if view.keys:
        parts.append(letters.text(KEYS, "dim"))
    return Group(*parts)


def _title(view: View, letters: Letters) -> RenderableType:
    snapshot = view.snapshot
    number = len(snapshot.runs)
    said = f"{number} run{'s' * (number != 1)}"
    for state in ("held", "lost"):
        if count := sum(line.state == state for line in snapshot.runs):
            said += f", {count} {state}"
    if count := sum(line.incidents.open for line in snapshot.runs):
        said += f", {count} open incident{'s' * (count != 1)}"
    line = Table.grid(expand=True)
    line.add_column(ratio=1, no_wrap=True)
    line.add_column(no_wrap=True, justify="right")
    left = Text.assemble(("sentinel top", "bold"), "  ", said, "  ", (view.place, "dim"))
    moment = isoformat(snapshot.at)[11:19] + " UTC"
    line.add_row(
        letters.text(left.plain) if letters.ascii else left,
        Text("PAUSED " if view.paused else "", "bold yellow") + Text(moment, "dim"),
    )
    return line


def _notes(snapshot: Snapshot, letters: Letters, width: int, most: int) -> Iterator[Text]:
    """What the chosen run waits for, and what is wrong with it: in at most so many lines."""
    lines: list[Text] = []
    if not snapshot.numbers:
        lines.append(letters.text("this daemon is of an older version: it tells no numbers", "dim"))
    if hold := snapshot.hold:
        said = f"held after step {hold['step']}, by {hold['by']}"
        lines += _wrapped(said, "bold yellow", width, letters)
        for line in hold_text.terms(hold):
            lines += _wrapped(f"  {line}", "", width, letters)
    for incident in sorted(snapshot.incidents, key=lambda one: one["severity"] != "critical"):
        style = _STYLES.get(incident["severity"], "bold")
        lines += _wrapped(_told(incident), style, width, letters)
    if not lines:
        return
    yield Text()
    if len(lines) < most:
        yield from lines
    else:
        yield from lines[: max(0, most - 2)]
        yield letters.text(f"  {len(lines) - most + 2} lines more than fit here", "dim")


def _wrapped(said: str, style: str, width: int, letters: Letters) -> list[Text]:
    """On two lines at most."""
    parts = textwrap.wrap(
        letters.plain(said),
        max(20, width),
        subsequent_indent="    ",
        max_lines=2,
        placeholder=" ...",
    )
    return [letters.text(part, style) for part in parts]


def _told(incident: IncidentJSON) -> str:
    """What went wrong first, and where."""
    cause = msgspec.convert(incident["cause"], Cause)
    said = f"{incident['severity']}: {cause.rule} {whereabouts(cause)}"
    if by := incident["acknowledged"]:
        said += f" ({by['by']} looks after it)"
    return said


def _ranks(view: View, left: int, letters: Letters) -> list[RenderableType]:
    snapshot, number = view.snapshot, len(view.snapshot.ranks)
    room = min(left - 3, _MOST) if number > min(left - 3, _MOST) else number
    shown = ranks.first(snapshot, view.order, room)
    first = {"worst": "the worst first", "rank": "by rank"}.get(
        view.order, f"most {view.order} first"
    )
    of = f"{len(shown)} of {number:,} ranks" if len(shown) < number else f"{number} ranks"
    title = letters.text(f"{snapshot.chosen}: {of}, {first}", "bold")
    return [Text(), title, ranks.table(snapshot, shown, letters)]
