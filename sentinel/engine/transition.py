"""What the engine says has changed. The store commits these before anything acts on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sentinel.wire import HOLD_FOR

Severity = Literal["info", "warning", "critical"]
Asked = Literal["checkpoint", "pause", "stop"]  # of a run, by a rule
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")  # mildest first


@dataclass(frozen=True)
class Cause:
    """What went wrong first in an incident, and where; None is what is not known or not single.

    `batch` is the fingerprint of the batch that `micro_batch` of the step was computed from,
    `samples` the ids in it.
    """

    rule: str
    signal: str
    step: int
    rank: int | None = None
    host: str | None = None
    device: str | None = None
    module: str | None = None
    parameter: str | None = None
    micro_batch: int | None = None
    batch: str | None = None
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Something that speaks for an incident's cause besides its alerts: what was seen, and where.

    `kind` is "stack" (where a process stood), "hardware", "comparison" (with other ranks, or with
    the rank's own past) or "history" (what befell the run while the incident was open). `title` is
    one line, `text` may have many; both come from a run and are to be shown as plain text.
    """

    kind: Literal["stack", "hardware", "comparison", "history"]
    title: str
    text: str = ""
    rank: int | None = None


@dataclass(frozen=True)
class AlertChanged:
    """An alert began to fire or resolved. `(run, rule, labels)` is its identity.

    `step` is the first step at which the condition held for this firing, `fired_step` the one at
    which it began to fire (`for` later); `value` and `score` are those at `fired_step`.
    """

    run: str
    incident: str
    rule: str
    signal: str
    state: Literal["firing", "resolved"]
    severity: Severity
    step: int
    fired_step: int
    labels: Mapping[str, str]
    value: float
    score: float
    summary: str
    advice: str
    actions: tuple[Asked, ...]
    at: float


@dataclass(frozen=True)
class IncidentChanged:
    """An incident opened, learned more (cause, severity, evidence), or resolved.

    `certainty` says in one line how sure the cause is, and why: it begins with "measured",
    "inferred" or "not known". What is `silent` is kept, and no reason for a message of its own.
    """

    run: str
    id: str
    change: Literal["opened", "updated", "resolved"]
    severity: Severity
    opened_step: int
    cause: Cause
    at: float
    evidence: tuple[Evidence, ...] = ()
    certainty: str = ""
    silent: bool = False


@dataclass(frozen=True)
class ActionWanted:
    """A rule that began to fire asks for an action on the run.

    A run that is paused is held for `hold_for` seconds without an answer; then comes `unattended`.
    """

    run: str
    incident: str
    action: Asked
    rule: str
    step: int
    reason: str
    unattended: Literal["resume", "stop", "hold"]
    at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    hold_for: float = HOLD_FOR


Transition = AlertChanged | IncidentChanged | ActionWanted
