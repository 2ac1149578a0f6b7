"""An incident as it went: what moved first, what was noticed, done, said and answered.

A signal leaves its range at the step at which the condition of an alert begins to hold; the alert
fires at once or later. When a step was done is not on the record, but that it was no later than the
first alert at that step or a later one; of signals for which that is the same moment, the one comes
first that can have caused the other (see `engine.incident.precedence`).
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypedDict

import msgspec

from sentinel.clock import isoformat, timestamp
from sentinel.engine.incident import precedence
from sentinel.engine.transition import Cause
from sentinel.store import reading
from sentinel.store.database import Row, rows
from sentinel.store.reading import real, text, whole
from sentinel.store.shapes import IncidentJSON

_labels = msgspec.json.Decoder(dict[str, str])
_ORDER = ("signal", "alert", "evidence", "stack", "action", "message", "acknowledged", "resolved")
_MAX_MESSAGES = 200
_SENT = {
    "sent": "was told",
    "folded": "was told, with a later message",
    "pending": "is about to be told",
    "sending": "is being told",
    "failed": "could not be told",
}


class MomentJSON(TypedDict):
    """Something that happened in an incident; null is what does not apply or is not known.

    `kind` is "signal" (it left its range), "alert", "evidence", "stack", "action", "message",
    "acknowledged" or "resolved".
    """

    at: str
    step: int | None
    kind: str
    text: str
    rule: str | None
    signal: str | None
    labels: dict[str, str]
    rank: int | None


class AdviceJSON(TypedDict):
    """What a rule says to do."""

    rule: str
    text: str


class DetailJSON(IncidentJSON):
    """An incident with its whole course. `advice` is what its rules say to do, each once, that
    of the cause first; `advised` the same with its rule, that of rules which acted on the run
    first, then that of the cause."""

    opened_at: str
    changed_at: str
    advice: list[str]
    advised: list[AdviceJSON]
    timeline: list[MomentJSON]


class _Moment(NamedTuple):
    precedence: tuple[float, ...]
    shown: MomentJSON

    def place(self) -> tuple[str, int, tuple[float, ...]]:
        """By the millisecond, as the journal has it: what comes before what within one, is known
        by what it is."""
        return self.shown["at"], _ORDER.index(self.shown["kind"]), self.precedence


def detail(connection: sqlite3.Connection, incident_id: str) -> DetailJSON:
    """One incident, whole. Raises `LookupError` when there is none with this id."""
    incident = reading.incident(connection, incident_id)
    (row,) = rows(
        connection, "SELECT opened_at, changed_at FROM incidents WHERE id = ?", (incident_id,)
    )
    alerts = reading.alerts_of(connection, incident_id)
    opened = real(row["opened_at"])
    moments = [
        *_signals(alerts, incident),
        *_alerts(alerts),
        *_evidence(incident, opened),
        *_journal(connection, incident),
        *_messages(connection, incident_id),
    ]
    leading = sorted(alerts, key=lambda one: one["rule"] != incident["cause"]["rule"])
    if incident["state"] == "resolved":
        moments.append(_moment(real(row["changed_at"]), "resolved", "the incident is resolved"))
    return DetailJSON(
        **incident,
        opened_at=isoformat(opened),
        changed_at=isoformat(real(row["changed_at"])),
        advice=[*dict.fromkeys(text(one["advice"]) for one in leading if one["advice"])],
        advised=_advised(leading, incident),
        timeline=[one.shown for one in sorted(moments, key=_Moment.place)],
    )


def _advised(leading: Sequence[Row], incident: IncidentJSON) -> list[AdviceJSON]:
    acted = {one["by"].removeprefix("rule:") for one in incident["actions"]}
    first = sorted(leading, key=lambda one: one["rule"] not in acted)
    found: dict[str, str] = {}
    for one in first:
        if one["advice"]:
            found.setdefault(text(one["advice"]), text(one["rule"]))
    return [AdviceJSON(rule=rule, text=said) for said, rule in found.items()]


def _moment(
    at: float,
    kind: str,
    said: str,
    *,
    step: int | None = None,
    alert: Row | None = None,
    rank: int | None = None,
    precedence: tuple[float, ...] = (),
) -> _Moment:
    labels = _labels.decode(text(alert["labels"])) if alert else {}
    if rank is None and labels.get("rank", "").isdecimal():
        rank = int(labels["rank"])
    shown = MomentJSON(
        at=isoformat(at),
        step=step,
        kind=kind,
        text=said,
        rule=text(alert["rule"]) if alert else None,
        signal=text(alert["signal"]) if alert else None,
        labels=labels,
        rank=rank,
    )
    return _Moment(precedence or (math.inf if step is None else step,), shown)


def _fired_at(alert: Row) -> float:
    """When it began to fire; of records from before that was kept, when it last changed."""
    return real(alert["at"] if alert["fired_at"] is None else alert["fired_at"])


def _signals(alerts: Sequence[Row], incident: IncidentJSON) -> Iterator[_Moment]:
    """Each signal that left its range, once with the same labels at the same step."""
    seen = set()
    no_later_than = _latest_times(alerts)
    for alert in alerts:
        key = (alert["signal"], alert["labels"], alert["step"])
        if not alert["signal"] or key in seen:
            continue
        seen.add(key)
        step = whole(alert["step"])
        at = no_later_than(step, _fired_at(alert))
        labels = _labels.decode(text(alert["labels"]))
        cause = incident["cause"]
        is_cause = (alert["rule"], step) == (cause["rule"], cause["step"]) and (
            cause["rank"] is None or labels.get("rank", str(cause["rank"])) == str(cause["rank"])
        )
        rank = cause["rank"] if is_cause else None
        known = Cause(text(alert["rule"]), text(alert["signal"]), step, rank)
        if is_cause and cause["module"]:
            labels = {"module": cause["module"], **labels}
        said = f"{text(alert['signal'])} left its range{_where(labels, rank)}"
        yield _moment(
            at, "signal", said, step=step, alert=alert, rank=rank, precedence=precedence(known)
        )


def _latest_times(alerts: Sequence[Row]) -> Callable[[int, float], float]:
    """By when a step was done, by the first alert at it or at a later one; the second argument
    where there is none, as when the run went back before it fired."""
    fired = sorted((whole(one["fired_step"]), _fired_at(one)) for one in alerts)
    steps = [step for step, _ in fired]
    first = [*accumulate((at for _, at in reversed(fired)), min)][::-1]

    def no_later_than(step: int, otherwise: float) -> float:
        place = bisect_left(steps, step)
        return first[place] if place < len(first) else otherwise

    return no_later_than


def _where(labels: dict[str, str], rank: int | None) -> str:
    of = [f"{name} {value}" for name, value in labels.items() if name != "rank"]
    found = labels.get("rank", "" if rank is None else str(rank))
    return "".join((f" in {', '.join(of)}" if of else "", f" on rank {found}" if found else ""))


def _alerts(alerts: Sequence[Row]) -> Iterator[_Moment]:
    for alert in alerts:
        summary = text(alert["summary"]) or "its condition holds"
        said = f"{text(alert['rule'])} ({text(alert['severity'])}): {summary}"
        fired = whole(alert["fired_step"])
        yield _moment(_fired_at(alert), "alert", said, step=fired, alert=alert)
        if alert["state"] == "resolved":
            over = f"{text(alert['rule'])} does not fire any more"
            yield _moment(real(alert["at"]), "resolved", over, alert=alert)


def _evidence(incident: IncidentJSON, opened: float) -> Iterator[_Moment]:
    """What speaks for the cause. When each piece came is not kept: not before the incident."""
    for one in incident["evidence"]:
        kind = "stack" if one["kind"] == "stack" else "evidence"
        yield _moment(opened, kind, one["title"], rank=one["rank"])


def _journal(connection: sqlite3.Connection, incident: IncidentJSON) -> Iterator[_Moment]:
    """What was done about it, in each of its states, and who looks after it."""
    found = rows(
        connection,
        "SELECT content FROM journal WHERE run = ? AND json_valid(content) "
        "AND json_extract(content, '$.incident') = ? ORDER BY number",
        (incident["run"], incident["id"]),
    )
    for row in found:
        entry = msgspec.json.decode(text(row["content"]), type=dict[str, object])
        action, state, by = (str(entry.get(name, "")) for name in ("action", "state", "by"))
        why = str(entry.get("detail") or entry.get("reason") or "")
        at = _timestamp(entry.get("at"))
        if at is None:
            continue
        if action == "acknowledge":
            yield _moment(at, "acknowledged", f"acknowledged by {by}")
        else:
            said = f"{action} {state}, by {by}" + (f": {why}" if why else "")
            step = entry.get("step")
            yield _moment(at, "action", said, step=step if isinstance(step, int) else None)


def _timestamp(said: object) -> float | None:
    try:
        return timestamp(str(said))
    except ValueError:
        return None


def _messages(connection: sqlite3.Connection, incident_id: str) -> Iterator[_Moment]:
    found = rows(
        connection,
        "SELECT receiver, kind, state, error, created_at FROM outbox "
        "WHERE incident = ? AND receiver != '' ORDER BY id LIMIT ?",
        (incident_id, _MAX_MESSAGES),
    )
    for row in found:
        came = _SENT.get(text(row["state"]), text(row["state"]))
        failed = row["state"] == "failed" and row["error"]
        why = f": {text(row['error'])}" if failed else ""
        said = f"{text(row['receiver'])} {came} ({text(row['kind'])}){why}"
        yield _moment(real(row["created_at"]), "message", said)
