"""Notices and letters, as the record would have them."""

from __future__ import annotations

from pathlib import Path

from sentinel.notify.blocks import blocks, fallback
from sentinel.notify.loopback_message import Message
from sentinel.notify.message import Station, compose, compose_reply
from sentinel.notify.notice import (
    Action,
    Alert,
    Cause,
    Evidence,
    Incident,
    LastGood,
    Leading,
    Notice,
)
from sentinel.notify.receiver import Letter, Posted
from sentinel.notify.telemetry import Measured

STATION = Station("head-node", Path("/var/lib/sentinel"))


def notice(
    *,
    run: str = "gpt",
    state: str = "open",
    severity: str = "critical",
    module: str | None = "transformer.h.3.mlp",
    summary: str = "a non-finite gradient was applied to the weights",
    actions: tuple[Action, ...] = (),
    about: Action | None = None,
    alerts: int = 1,
    escalated: bool = False,
    cause: Cause | None = None,
    last_good: LastGood | None = None,
    evidence: tuple[Evidence, ...] = (),
    certainty: str = "",
    advice: str = "go back to a checkpoint from before step 37",
) -> Notice:
    cause = cause or Cause("NonFiniteUpdate", "nonfinite_update", 37, 1, "node-a", "cuda:1", module)
    return Notice(
        at=1_780_000_000.0,
        incident=Incident("i1", run, state, severity, 37, cause, certainty, evidence),
        alerts=tuple(
            Alert("NonFiniteUpdate", labels={"layer": f"layer.{n}"}, step=37) for n in range(alerts)
        )[:10],
        alert_count=alerts,
        actions=actions,
        about=about,
        summary=summary,
        advice=advice,
        leading=Leading(1.0, {"rank": "1"}),
        opened_at=1_779_999_400.0,
        escalated=escalated,
        last_good=last_good,
    )


def letter(
    kind: str = "opened", *, event_id: str = "e1", head: Posted | None = None, about: Notice | None
) -> Letter:
    return Letter(event_id, kind, about or notice(), head)


REQUESTED = Action("pause", "requested", 37, "rule:NonFiniteUpdate")
HELD = Action("pause", "done", 41, "rule:NonFiniteUpdate")


def sent(
    shown: Notice, kind: str = "opened", *, reply: bool = False, measured: Measured | None = None
) -> Message:
    """What Slack gets."""
    text = compose(shown, STATION, measured)
    if reply:
        evidence = shown.incident.evidence
        text = compose_reply(kind, shown, STATION, measured=measured, evidence=evidence)
    fields: dict[str, object] = {"text": fallback(text), "blocks": blocks(text)}
    return Message.made_of(fields, "C1", "training", "1.0")
