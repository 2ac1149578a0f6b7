"""Transitions as an engine would make them, and rows as the daemon would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sentinel.engine.transition import (
    ActionWanted,
    AlertChanged,
    Cause,
    Evidence,
    IncidentChanged,
    Severity,
)
from sentinel.store import RankRow

CAUSE = Cause(
    rule="NonFiniteUpdate",
    signal="nonfinite_update",
    step=37,
    rank=1,
    host="node-a",
    device="cuda:1",
    module="transformer.h.3.mlp",
    parameter="transformer.h.3.mlp.weight",
    micro_batch=2,
    batch="9f86d081884c7d65",
    samples=("shard-7/12", "shard-7/13"),
)

SURE = "measured on this rank"


def incident(
    change: Literal["opened", "updated", "resolved"] = "opened",
    *,
    id: str = "i1",
    run: str = "gpt",
    severity: Severity = "critical",
    cause: Cause = CAUSE,
    at: float = 1000.0,
) -> IncidentChanged:
    seen = Evidence("stack", "rank 1 stands in forward", 'File "train.py", line 7', 1)
    return IncidentChanged(run, id, change, severity, cause.step, cause, at, (seen,), SURE)


def alert(
    state: Literal["firing", "resolved"] = "firing",
    *,
    incident: str = "i1",
    run: str = "gpt",
    rule: str = "NonFiniteUpdate",
    step: int = 37,
    labels: Mapping[str, str] | None = None,
    value: float = 1.0,
    at: float = 1000.0,
) -> AlertChanged:
    return AlertChanged(
        run=run,
        incident=incident,
        rule=rule,
        signal="nonfinite_update",
        state=state,
        severity="critical",
        step=step,
        fired_step=step,
        labels=labels if labels is not None else {"rank": "1"},
        value=value,
        score=0.0,
        summary="a non-finite gradient was applied",
        advice="go back to a checkpoint from before",
        actions=("pause",),
        at=at,
    )


def pause(*, incident: str = "i1", run: str = "gpt", at: float = 1000.0) -> ActionWanted:
    return ActionWanted(
        run, incident, "pause", "NonFiniteUpdate", 37, "weights are not finite", "hold", at
    )


def rank(number: int, *, step: int = 40, last_seen: float = 1000.0) -> RankRow:
    collectives = {"data:0-1": (12, None)}
    return RankRow(
        number, "node-a", 100 + number, f"cuda:{number}", step, "forward", last_seen, collectives
    )
