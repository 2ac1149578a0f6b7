"""What goes into the record and what comes out of it.

The TypedDicts are the JSON that `sentinel incidents --json` and `status --json` promise; their
keys may grow, never change. Times in them are ISO 8601 in UTC; a value that is not finite is one
of the strings "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from sentinel.clock import isoformat
from sentinel.held import HoldTerms

RunState = Literal["running", "pausing", "held", "resuming", "lost", "finished"]
ActionState = Literal["requested", "done", "refused", "failed", "lapsed"]


class CauseJSON(TypedDict):
    """What went wrong first, and where; null is what is not known or not single.

    `batch` is the fingerprint of the batch that `micro_batch` of the step was computed from,
    `samples` the ids in it, where the data set gives them.
    """

    rule: str
    signal: str
    step: int
    rank: int | None
    host: str | None
    device: str | None
    module: str | None
    parameter: str | None
    micro_batch: int | None
    batch: str | None
    samples: list[str]


class EvidenceJSON(TypedDict):
    """Something else that speaks for the cause: see `engine.transition.Evidence`."""

    kind: str
    title: str
    text: str
    rank: int | None


class AlertJSON(TypedDict):
    """One firing of one rule with one set of labels. `step` is where the condition began."""

    rule: str
    state: str
    severity: str
    step: int
    labels: dict[str, str]
    value: float | str
    summary: str


class ActionJSON(TypedDict):
    """One action on a run, in its latest state; `at` is when it came to that state."""

    action: str
    state: str
    step: int
    by: str
    at: str


class AcknowledgedJSON(TypedDict):
    """Who looks after an incident, and since when."""

    by: str
    at: str


class SilencedJSON(TypedDict):
    """The silence that keeps an incident quiet, until when, and who has asked for it."""

    id: int
    by: str
    until: str
    comment: str


class IncidentJSON(TypedDict):
    """One incident with everything that belongs to it. `state` is "open" or "resolved".

    `certainty` says how sure the cause is, and why. `head` is the hash of the newest row of the
    run's journal, empty while there is none. `silenced` and `inhibited_by` (another incident) say
    why nobody is told of it now.
    """

    id: str
    run: str
    state: str
    severity: str
    opened_step: int
    cause: CauseJSON
    certainty: str
    alerts: list[AlertJSON]
    actions: list[ActionJSON]
    evidence: list[EvidenceJSON]
    head: str
    acknowledged: AcknowledgedJSON | None
    silenced: SilencedJSON | None
    inhibited_by: str | None


class RankJSON(TypedDict):
    """One rank; `last_seen_s` is how many seconds ago it was heard from.

    `collectives` has for each of its process groups the number of the last collective that it
    entered, and of the last that was completed (null where that is not known).
    """

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    last_seen_s: float
    collectives: dict[str, list[int | None]]


class HoldJSON(TypedDict):
    """Where a run stands, who asked for it, since when and what it has cost; what ends it.

    `unattended` happens at `ends` if nobody answers (null: never). `cost_hours` are hours of all
    `ranks` that stand still, each a `unit` ("GPU" or "rank"). `deadline` is when the scheduler
    ends the job, `group_timeout_s` the shortest timeout of a process group. Null: not known.
    """

    step: int
    by: str
    since: str
    held_s: float
    cost_hours: float | None
    ranks: int | None
    unit: str | None
    unattended: str | None
    hold_for_s: float | None
    ends: str | None
    deadline: str | None
    group_timeout_s: float | None


class StatusJSON(TypedDict):
    """One run as it was last recorded."""

    run: str
    state: RunState
    step: int
    world_size: int
    ranks: list[RankJSON]
    hold: HoldJSON | None


class GivenJSON(TypedDict):
    """An order that was given; `rollback` is the tag of the checkpoint to be loaded, if any."""

    id: int
    action: str
    run: str
    rollback: str


class BecameJSON(TypedDict):
    """What became of an order."""

    id: int
    run: str
    action: str
    state: str
    step: int
    by: str
    detail: str


@dataclass(frozen=True)
class HoldRow:
    """A run standing after `step`; `since` in seconds on the daemon's clock.

    `terms` None: not known yet, as before the ranks have told.
    """

    step: int
    by: str
    since: float
    terms: HoldTerms | None = None


@dataclass(frozen=True)
class RunRow:
    """One run. Times are seconds since the epoch on the daemon's clock; `ended` None: goes on."""

    name: str
    state: RunState = "running"
    step: int = 0
    world_size: int = 1
    started: float = 0.0
    ended: float | None = None
    command: str = ""
    hold: HoldRow | None = None


@dataclass(frozen=True)
class RankRow:
    """One rank of a run, as last seen."""

    rank: int
    host: str
    pid: int
    device: str
    step: int
    phase: str
    last_seen: float
    collectives: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class ActionRow:
    """One action on the record. `by` is "rule:NAME", or who asked; `incident` None: by hand."""

    id: int
    run: str
    incident: str | None
    action: str
    state: ActionState
    step: int
    by: str
    reason: str
    detail: str
    at: float


def hold_json(hold: HoldRow, now: float) -> HoldJSON:
    """A hold as `status --json` shows it."""
    terms = hold.terms
    ends = terms.ends(hold.since) if terms else None
    return HoldJSON(
        step=hold.step,
        by=hold.by,
        since=isoformat(hold.since),
        held_s=round(max(0.0, now - hold.since), 3),
        cost_hours=round(terms.cost(hold.since, now), 6) if terms else None,
        ranks=terms.ranks if terms else None,
        unit=terms.unit if terms else None,
        unattended=terms.unattended if terms else None,
        hold_for_s=terms.hold_for if terms else None,
        ends=None if ends is None else isoformat(ends),
        deadline=isoformat(terms.deadline) if terms and terms.deadline else None,
        group_timeout_s=(terms.group_timeout or None) if terms else None,
    )


def became_json(row: ActionRow) -> BecameJSON:
    """What became of the order that this row is of."""
    return BecameJSON(
        id=row.id,
        run=row.run,
        action=row.action,
        state=row.state,
        step=row.step,
        by=row.by,
        detail=row.detail,
    )


def number_json(value: float) -> float | str:
    """A number as strict JSON can carry it: "NaN", "Infinity" and "-Infinity" are strings."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
