"""What the record says about an incident, as those who write messages read it.

The outbox keeps it as JSON, perhaps written by another version of this program: what is not there
takes its default, what is not known is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sentinel.errors import SentinelError
from sentinel.held import HoldTerms


class Cause(Struct, frozen=True):
    """What went wrong first, and where; None is what is not known or not single."""

    rule: str = ""
    signal: str = ""
    step: int = 0
    rank: int | None = None
    host: str | None = None
    device: str | None = None
    module: str | None = None
    parameter: str | None = None
    micro_batch: int | None = None
    batch: str | None = None
    samples: tuple[str, ...] = ()


class Evidence(Struct, frozen=True):
    """Something else that speaks for the cause; `kind` is stack, hardware, comparison, history."""

    kind: str
    title: str = ""
    text: str = ""
    rank: int | None = None


class Acknowledged(Struct, frozen=True):
    """Who looks after an incident, and since when (ISO 8601)."""

    by: str = ""
    at: str = ""


class Incident(Struct, frozen=True):
    """The incident that a message is about. `state` is "open" or "resolved".

    `certainty` says in one line how sure the cause is, and why. `head` is the hash of the newest
    row of the run's journal, nothing where there is none.
    """

    id: str
    run: str
    state: str = "open"
    severity: str = "warning"
    opened_step: int = 0
    cause: Cause = Cause()
    certainty: str = ""
    evidence: tuple[Evidence, ...] = ()
    head: str = ""
    acknowledged: Acknowledged | None = None


class Alert(Struct, frozen=True):
    """One alert of it."""

    rule: str
    state: str = "firing"
    severity: str = "warning"
    step: int = 0
    labels: Mapping[str, str] = {}
    summary: str = ""


class Leading(Struct, frozen=True):
    """The alert that the cause speaks of: what its rule read, and where; not finite as a word."""

    value: float | str | None = None
    labels: Mapping[str, str] = {}


class Action(Struct, frozen=True):
    """What was done to the run, or was not: `state` is requested, done, refused, failed, lapsed."""

    action: str
    state: str
    step: int = 0
    by: str = ""
    reason: str = ""
    detail: str = ""


class Hold(Struct, frozen=True):
    """How the run is held: after which step, since when (seconds since 1970), on what terms."""

    step: int
    since: float
    terms: HoldTerms = HoldTerms()


class LastGood(Struct, frozen=True):
    """The newest healthy checkpoint; `back`: how many steps before this it was saved."""

    tag: str
    step: int = 0
    back: int = 0


class Other(Struct, frozen=True):
    """Another incident that the first message of one tells of too."""

    id: str
    run: str
    state: str = "open"
    severity: str = "warning"
    rule: str = ""
    step: int = 0
    rank: int | None = None
    host: str | None = None


class Notice(Struct, frozen=True):
    """Everything a message can say. `about` is the action that caused it, if one did.

    `at`: seconds since the epoch; so are `opened_at`, 0 where it is not known, and `resolved_at`.
    `alert_count` counts also the alerts that are not listed. `hold`: the run is held for it now.
    `others` share its first message; `leader` is the one whose first message has told of this one.
    `pages` is where the daemon's pages are for whoever reads this, empty where that is not known.
    """

    at: float
    incident: Incident
    alerts: tuple[Alert, ...] = ()
    alert_count: int = 0
    actions: tuple[Action, ...] = ()
    about: Action | None = None
    summary: str = ""
    advice: str = ""
    leading: Leading | None = None
    opened_at: float = 0.0
    resolved_at: float | None = None
    escalated: bool = False
    hold: Hold | None = None
    last_good: LastGood | None = None
    others: tuple[Other, ...] = ()
    leader: Notice | None = None
    pages: str = ""

    @property
    def page(self) -> str:
        """Where the page of the incident is, or nothing."""
        return f"{self.pages}/incidents/{quote(self.incident.id, safe='')}" if self.pages else ""

    def with_pages(self, pages: str) -> Notice:
        """The same, for readers who have the daemon's pages there."""
        leader = self.leader.with_pages(pages) if self.leader else None
        return replace(self, pages=pages, leader=leader)


_decoder = msgspec.json.Decoder(Notice)


class Readable(Protocol):
    """A row of the outbox, as far as it has to be read."""

    @property
    def event_id(self) -> str:
        """Unique, and the same at every attempt."""

    @property
    def payload(self) -> str:
        """JSON."""


def decode(payload: str) -> Notice:
    """What is in this JSON. Raises `SentinelError` when it cannot be read."""
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise SentinelError(f"no message: {error}") from error


def read(row: Readable) -> Notice:
    """The notice in a row of the outbox. Raises `SentinelError` when it cannot be read."""
    try:
        return _decoder.decode(row.payload)
    except msgspec.MsgspecError as error:
        raise SentinelError(f"message {row.event_id} cannot be read: {error}") from error
