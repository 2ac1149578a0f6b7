"""What people are told: an incident as it stands, written down the moment something has changed.

The payload is kept in the outbox and read by whoever delivers it, perhaps by a later version of
this program: its keys may grow, never change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, get_args

import msgspec

from sentinel.engine.checkpoint import newest_healthy
from sentinel.engine.transition import Asked, IncidentChanged
from sentinel.held import HoldTerms
from sentinel.store import attention, reading, shelf
from sentinel.store.attention import OtherNote
from sentinel.store.database import Row, rows
from sentinel.store.shapes import ActionRow, AlertJSON, IncidentJSON

Kind = Literal[
    "opened",
    "updated",
    "resolved",
    "held",
    "resumed",
    "stopped",
    "action",
    "reminder",
    "ending",
    "acknowledged",
    "repeated",
]

_ALERTS_TOLD = 10
_ACTIONS_TOLD = 10
_labels = msgspec.json.Decoder(dict[str, str])
_ASKED = get_args(Asked)
_KINDS: dict[tuple[str, str], Kind] = {
    ("pause", "done"): "held",
    ("resume", "done"): "resumed",
    ("stop", "done"): "stopped",
}


class ActionNote(TypedDict):
    """An action in its latest state, with why it was asked for and what came of it."""

    action: str
    state: str
    step: int
    by: str
    reason: str
    detail: str


class HoldNote(TypedDict):
    """How the run is held: after which step, since when, on what terms."""

    step: int
    since: float
    terms: HoldTerms


class LeadingNote(TypedDict):
    """The alert that the cause speaks of: what its rule read, and where."""

    value: float | str
    labels: dict[str, str]


class LastGood(TypedDict):
    """The newest healthy checkpoint, and how many steps before the incident it was saved."""

    tag: str
    step: int
    back: int


class Payload(TypedDict):
    """All that a message needs. `alerts` and `actions` are bounded, `alert_count` is not.

    `incident` has no alerts and actions of its own. `about` is the action that caused the
    message, if one did; `escalated`: the incident has become more severe. `hold` is there while the
    run is held because of this incident. `others`: further incidents that the first message tells
    of; `leader`: all of the incident whose first message has told of this one, if there is such.
    """

    at: float
    incident: IncidentJSON
    alerts: list[AlertJSON]
    alert_count: int
    actions: list[ActionNote]
    about: ActionNote | None
    summary: str
    advice: str
    leading: LeadingNote | None
    opened_at: float
    resolved_at: float | None
    escalated: bool
    hold: HoldNote | None
    last_good: LastGood | None
    others: list[OtherNote]
    leader: Payload | None


@dataclass(frozen=True)
class Message:
    """A message that people are owed. `seed` is the same whenever the same change is written.

    `alerts` are all of the incident; `to`: those who are to be told, where that has been decided.
    """

    seed: str
    kind: Kind
    run: str
    incident: str
    payload: str
    at: float
    alerts: tuple[AlertJSON, ...] = ()
    to: tuple[str, ...] = ()


def message_for_incident(
    connection: sqlite3.Connection, change: IncidentChanged, *, escalated: bool
) -> Message:
    """The message that a change of an incident causes. Write the whole change first."""
    payload = _payload(connection, change.id, change.at, escalated=escalated)
    seed = f"{change.id}/{change.change}/{change.at!r}"
    return _message(seed, change.change, change.run, payload)


def message_for_action(connection: sqlite3.Connection, action_id: int, at: float) -> Message | None:
    """The message that an action's new state causes, or None where nobody needs one.

    Whoever asked for something is answered on the spot; the others are told what happened to the
    run, and what did not happen though a rule or a person counted on it.
    """
    found = rows(connection, "SELECT * FROM actions WHERE id = ?", (action_id,))
    if not found or found[0]["incident"] is None:
        return None
    action = reading.action(found[0])
    if action.state == "requested" or (
        action.state == "refused" and not _missed(connection, action)
    ):
        return None
    kind = _KINDS.get((action.action, action.state), "action")
    payload = _payload(connection, action.incident or "", at, about=_note(action))
    return _message(f"action/{action_id}/{action.state}/{at!r}", kind, action.run, payload)


def message_for_reminder(
    connection: sqlite3.Connection, run: str, offset: float, at: float, *, ending: bool
) -> Message | None:
    """That the run is still held, for the incident it was paused for; None if it was for none."""
    hold = _hold(connection, run)
    found = rows(
        connection,
        "SELECT * FROM actions WHERE run = ? AND action = 'pause' AND state = 'done' "
        "ORDER BY id DESC LIMIT 1",
        (run,),
    )
    if hold is None or not found or found[0]["incident"] is None:
        return None
    pause = reading.action(found[0])
    payload = _payload(connection, pause.incident or "", at, about=_note(pause))
    seed = f"held/{pause.id}/{offset!r}"
    return _message(seed, "ending" if ending else "reminder", run, payload)


def message_for_standing(
    connection: sqlite3.Connection, incident: str, kind: Kind, at: float, to: tuple[str, ...] = ()
) -> Message:
    """How an incident stands now."""
    payload = _payload(connection, incident, at)
    message = _message(f"{incident}/{kind}/{at!r}", kind, payload["incident"]["run"], payload)
    return replace(message, to=to)


def unrecorded(message: Message) -> Message:
    """As it is sent while nothing can be written: the head of what is not there shows nothing."""
    payload = msgspec.json.decode(message.payload, type=dict[str, object])
    incident = payload["incident"]
    if isinstance(incident, dict):
        incident["head"] = ""
    return replace(message, payload=msgspec.json.encode(payload).decode())


def _hold(connection: sqlite3.Connection, run: str) -> HoldNote | None:
    (row,) = rows(connection, "SELECT * FROM runs WHERE name = ?", (run,))
    held = reading.run(row).hold
    if held is None or held.terms is None:
        return None
    return {"step": held.step, "since": held.since, "terms": held.terms}


def _missed(connection: sqlite3.Connection, refused: ActionRow) -> bool:
    """Whether a rule has asked in vain: no other asks for the same now, or has got it."""
    other = rows(
        connection,
        """
        SELECT 1 FROM actions WHERE incident = ? AND action = ?
        AND state IN ('requested', 'done') AND id > (
            SELECT coalesce(max(id), 0) FROM actions
            WHERE incident = ? AND action IN ('resume', 'stop') AND state = 'done'
        ) LIMIT 1
        """,
        (refused.incident, refused.action, refused.incident),
    )
    return refused.action in _ASKED and refused.by.startswith("rule:") and not other


def _message(seed: str, kind: Kind, run: str, payload: Payload) -> Message:
    return Message(
        seed=seed,
        kind=kind,
        run=run,
        incident=payload["incident"]["id"],
        payload=msgspec.json.encode(payload).decode(),
        at=payload["at"],
    )


def _payload(
    connection: sqlite3.Connection,
    incident_id: str,
    at: float,
    *,
    about: ActionNote | None = None,
    escalated: bool = False,
) -> Payload:
    incident = reading.incident(connection, incident_id)
    (times,) = rows(
        connection,
        "SELECT opened_at, changed_at FROM incidents WHERE id = ?",
        (incident_id,),
    )
    alerts, incident["alerts"], incident["actions"] = incident["alerts"], [], []
    culprit = _culprit(reading.alerts_of(connection, incident_id), incident)
    leader = attention.leader(connection, incident_id)
    actions = rows(
        connection,
        "SELECT * FROM actions WHERE incident = ? ORDER BY id DESC LIMIT ?",
        (incident_id, _ACTIONS_TOLD),
    )
    notes = [_note(reading.action(row)) for row in reversed(actions)]
    held = _is_held([*notes, *([about] if about else [])])
    over = incident["state"] == "resolved"
    return {
        "at": at,
        "incident": incident,
        "alerts": alerts[:_ALERTS_TOLD],
        "alert_count": len(alerts),
        "actions": notes,
        "about": about,
        "summary": reading.text(culprit["summary"]) if culprit else "",
        "advice": reading.text(culprit["advice"]) if culprit else "",
        "leading": _leading(culprit) if culprit else None,
        "opened_at": reading.real(times["opened_at"]),
        "resolved_at": reading.real(times["changed_at"]) if over else None,
        "escalated": escalated,
        "hold": _hold(connection, incident["run"]) if held else None,
        "last_good": _last_good(connection, incident, about),
        "others": attention.others(connection, incident_id),
        "leader": _payload(connection, leader, at) if leader else None,
    }


def _last_good(
    connection: sqlite3.Connection, incident: IncidentJSON, about: ActionNote | None
) -> LastGood | None:
    """What a person can go back to, from where the run is as far as is known."""
    good = newest_healthy(shelf.read(connection, incident["run"]))
    if good is None or good.step is None:
        return None
    (run,) = rows(connection, "SELECT step FROM runs WHERE name = ?", (incident["run"],))
    steps = (incident["opened_step"], about["step"] if about else 0, reading.whole(run["step"]))
    return {"tag": good.tag, "step": good.step, "back": max(0, max(steps) - good.step)}


def _culprit(alerts: list[Row], incident: IncidentJSON) -> Row | None:
    """The alert that the cause speaks of, or the first there is."""
    rule, step = incident["cause"]["rule"], incident["cause"]["step"]
    same_rule = [alert for alert in alerts if alert["rule"] == rule]
    same_step = [alert for alert in same_rule if alert["step"] == step]
    return next(iter(same_step or same_rule or alerts), None)


def _is_held(actions: Sequence[ActionNote]) -> bool:
    """Whether the last thing that moved or stopped the run, on behalf of an incident, held it."""
    done = [one["action"] for one in actions if one["state"] == "done"]
    moving = [action for action in done if action in ("pause", "resume", "stop")]
    return moving[-1:] == ["pause"]


def _leading(alert: Row) -> LeadingNote:
    value = alert["value"]
    labels = _labels.decode(reading.text(alert["labels"]))
    return {"value": value if isinstance(value, str) else reading.real(value), "labels": labels}


def _note(action: ActionRow) -> ActionNote:
    return {
        "action": action.action,
        "state": action.state,
        "step": action.step,
        "by": action.by,
        "reason": action.reason,
        "detail": action.detail,
    }
