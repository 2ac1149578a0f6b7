"""The journal: every action and refusal as a row of its own, chained so that changes show.

One chain for each run, and one, of the run with no name, for what was refused and belongs to no
run. A row's `content` is the text that is hashed, byte for byte, and it names the hash of the row
before; docs/record.md has the form, and a script that checks it without this program.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from sentinel import clock
from sentinel.clock import isoformat
from sentinel.store.database import rows

GENESIS = "0" * 64  # what the first row of a chain has for the row before
NO_RUN = ""
MAX_TEXT = 4096  # characters of one text in a row

Detail = Mapping[str, object]  # what JSON can hold


@dataclass(frozen=True)
class Entry:
    """What a row says.

    `by` is "rule:NAME", "user NAME" (the kernel's word for who was at the other end of the
    socket), "token NAME", "slack:ID (NAME)", or begins with "unattended". `order` is what was
    asked for in particular, `evidence` what it was asked on: both only in the first row of an
    action.
    `action_id` is None for what never became an action. `imported`: from before there was a chain.
    """

    run: str
    action_id: int | None
    action: str
    state: str
    step: int
    by: str
    at: float
    incident: str | None = None
    reason: str = ""
    detail: str = ""
    order: Detail = field(default_factory=dict)
    evidence: Detail = field(default_factory=dict)
    imported: bool = False


@dataclass(frozen=True)
class Link:
    """One row as it stands in the file; what was tampered with may have other types."""

    run: object
    number: object
    content: object
    hash: object


@dataclass(frozen=True)
class Break:
    """The first row, counted from 1, at which a chain does not hold, and why."""

    number: int
    reason: str


def append(connection: sqlite3.Connection, entry: Entry) -> None:
    """Add a row at the end of its run's chain, in the caller's transaction."""
    last = rows(
        connection,
        "SELECT number, hash FROM journal WHERE run = ? ORDER BY number DESC LIMIT 1",
        (entry.run,),
    )
    number = int(last[0]["number"] or 0) + 1 if last else 1
    content = _content(entry, number, str(last[0]["hash"]) if last else GENESIS)
    connection.execute(
        "INSERT INTO journal (run, number, action, content, hash) VALUES (?, ?, ?, ?, ?)",
        (entry.run, number, entry.action_id, content, _hash(content)),
    )


def _content(entry: Entry, number: int, previous: str) -> str:
    """Compact JSON with sorted keys: the form that is hashed."""
    row = {
        "action": entry.action,
        "action_id": entry.action_id,
        "at": isoformat(entry.at),
        "by": _bounded(entry.by),
        "detail": _bounded(entry.detail),
        "evidence": entry.evidence,
        "imported": entry.imported,
        "incident": entry.incident,
        "number": number,
        "order": entry.order,
        "previous": previous,
        "reason": _bounded(entry.reason),
        "run": entry.run,
        "state": entry.state,
        "step": entry.step,
        "written": isoformat(clock.wall()),
    }
    return msgspec.json.encode(row, order="sorted").decode()


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def head(connection: sqlite3.Connection, run: str) -> str:
    """The hash of the newest row of a run's chain; nothing when there is none."""
    found = rows(
        connection,
        "SELECT hash FROM journal WHERE run = ? ORDER BY number DESC LIMIT 1",
        (run,),
    )
    return str(found[0]["hash"]) if found else ""


def chains(connection: sqlite3.Connection) -> list[str]:
    """The runs that have a chain, in the order in which they got one."""
    found = rows(connection, "SELECT run FROM journal GROUP BY run ORDER BY min(id)")
    return [str(row["run"]) for row in found]


def chain(connection: sqlite3.Connection, run: str) -> list[Link]:
    """The rows of a run's chain, in their order."""
    found = rows(connection, "SELECT * FROM journal WHERE run = ? ORDER BY number, id", (run,))
    return [Link(row["run"], row["number"], row["content"], row["hash"]) for row in found]


def first_break(
    links: Sequence[Link], run: str, checked: Callable[[int], None] = lambda _: None
) -> Break | None:
    """Where a run's chain does not hold; None when it does, from its first row to its last.

    That the last one is the newest that ever was, only a head noted elsewhere can show. `checked`
    is told the number of each row before it is looked at.
    """
    previous = GENESIS
    for number, link in enumerate(links, 1):
        checked(number)
        if reason := _fault(link, run, number, previous):
            return Break(number, reason)
        previous = str(link.hash)
    return None


def _fault(link: Link, run: str, number: int, previous: str) -> str:
    if not isinstance(link.content, str) or _hash(link.content) != link.hash:
        return "its content is not what was hashed: it was changed"
    try:
        said = msgspec.json.decode(link.content, type=dict[str, object])
    except msgspec.MsgspecError:
        return "its content is no JSON object"
    if said.get("run") != run or link.run != run:
        return f"it was written for run {said.get('run')!r}"
    if said.get("number") != number or link.number != number:
        return f"it was written as row {said.get('number')!r}: a row is missing, added or moved"
    if said.get("previous") != previous:
        return "it does not follow the row before: a row is missing, added, moved or changed"
    return ""


_Stands = tuple[object, ...]  # action, state, step, by


def disagreement(connection: sqlite3.Connection, run: str, links: Sequence[Link]) -> Break | None:
    """Where the table of actions says otherwise than an unbroken chain; None: nowhere."""
    latest: dict[object, _Stands] = {}
    place: dict[object, int] = {}
    for number, link in enumerate(links, 1):
        said = msgspec.json.decode(str(link.content), type=dict[str, object])
        if (action_id := said.get("action_id")) is not None:
            place[action_id] = number
            latest[action_id] = tuple(said.get(key) for key in ("action", "state", "step", "by"))
    shown: dict[object, _Stands] = {
        row["id"]: (row["action"], row["state"], row["step"], _bounded(str(row["asked_by"])))
        for row in rows(connection, "SELECT * FROM actions WHERE run = ?", (run,))
    }
    for action_id in sorted({*latest, *shown}, key=lambda one: (place.get(one, 0), str(one))):
        there, here = shown.get(action_id), latest.get(action_id)
        if there != here:
            return Break(
                place.get(action_id, len(links)),
                f"action {action_id} is {_in_words(there)} in the table of actions, "
                f"but {_in_words(here)} in the journal",
            )
    return None


def _in_words(action: _Stands | None) -> str:
    if action is None:
        return "not there"
    name, state, step, by = action
    return f"{name!r}, {state!r} at step {step} by {by!r}"
