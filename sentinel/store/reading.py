"""Rows of the record as what they mean. All functions read within the caller's transaction."""

from __future__ import annotations

import sqlite3
from typing import cast

import msgspec

from sentinel.clock import isoformat
from sentinel.engine.coverage import RunCoverage
from sentinel.engine.open_incident import OpenIncident
from sentinel.engine.transition import AlertChanged, Asked, Cause, Evidence, Severity
from sentinel.held import HoldTerms
from sentinel.store import journal
from sentinel.store.database import Row, SqlValue, rows
from sentinel.store.shapes import (
    AcknowledgedJSON,
    ActionJSON,
    ActionRow,
    ActionState,
    AlertJSON,
    CauseJSON,
    EvidenceJSON,
    HoldRow,
    IncidentJSON,
    RankRow,
    RunRow,
    RunState,
    StatusJSON,
    hold_json,
)

_labels = msgspec.json.Decoder(dict[str, str])
_reports = msgspec.json.Decoder(RunCoverage)
_collectives = msgspec.json.Decoder(dict[str, tuple[int, int | None]])
_terms = msgspec.json.Decoder(HoldTerms)
_names = msgspec.json.Decoder(tuple[str, ...])
_evidence_json = msgspec.json.Decoder(list[EvidenceJSON])
_evidence = msgspec.json.Decoder(tuple[Evidence, ...])
_asked = msgspec.json.Decoder(tuple[Asked, ...])


def text(value: SqlValue) -> str:
    """A column that holds text; an absent one is empty."""
    return "" if value is None else str(value)


def whole(value: SqlValue) -> int:
    """A column that holds an integer."""
    return int(value) if value is not None else 0


def real(value: SqlValue) -> float:
    """A column that holds a number, or the name of one that is not finite."""
    return float(value) if value is not None else 0.0


def _text_or_none(value: SqlValue) -> str | None:
    return None if value is None else str(value)


def incidents(connection: sqlite3.Connection, run: str | None) -> list[IncidentJSON]:
    """Incidents of one run or of all, oldest first, with what belongs to them."""
    where, parameters = ("WHERE run = ?", (run,)) if run is not None else ("", ())
    found = rows(connection, f"SELECT * FROM incidents {where} ORDER BY rowid", parameters)
    return [_incident(connection, row) for row in found]


def incident(connection: sqlite3.Connection, incident_id: str) -> IncidentJSON:
    """One incident. Raises `LookupError` when there is none with this id."""
    found = rows(connection, "SELECT * FROM incidents WHERE id = ?", (incident_id,))
    if not found:
        raise LookupError(incident_id)
    return _incident(connection, found[0])


def _incident(connection: sqlite3.Connection, row: Row) -> IncidentJSON:
    return {
        "id": text(row["id"]),
        "run": text(row["run"]),
        "state": text(row["state"]),
        "severity": text(row["severity"]),
        "opened_step": whole(row["opened_step"]),
        "cause": _cause_json(row),
        "alerts": [_alert_json(alert) for alert in alerts_of(connection, text(row["id"]))],
        "actions": [
            _action_json(action)
            for action in rows(
                connection, "SELECT * FROM actions WHERE incident = ? ORDER BY id", (row["id"],)
            )
        ],
        "certainty": text(row["certainty"]),
        "evidence": _evidence_json.decode(text(row["evidence"]) or "[]"),
        "head": journal.head(connection, text(row["run"])),
        "acknowledged": _acknowledged(row),
        "silenced": None,
        "inhibited_by": None,
    }


def _acknowledged(row: Row) -> AcknowledgedJSON | None:
    if row["acknowledged_by"] is None:
        return None
    return {"by": text(row["acknowledged_by"]), "at": isoformat(real(row["acknowledged_at"]))}


def _cause_json(row: Row) -> CauseJSON:
    return {
        "rule": text(row["rule"]),
        "signal": text(row["signal"]),
        "step": whole(row["step"]),
        "rank": None if row["rank"] is None else whole(row["rank"]),
        "host": _text_or_none(row["host"]),
        "device": _text_or_none(row["device"]),
        "module": _text_or_none(row["module"]),
        "parameter": _text_or_none(row["parameter"]),
        "micro_batch": None if row["micro_batch"] is None else whole(row["micro_batch"]),
        "batch": _text_or_none(row["batch"]),
        "samples": list(_names.decode(text(row["samples"]) or "[]")),
    }


def alerts_of(connection: sqlite3.Connection, incident_id: str) -> list[Row]:
    """All alerts of an incident, in the order in which they began to fire."""
    return rows(connection, "SELECT * FROM alerts WHERE incident = ? ORDER BY id", (incident_id,))


def alerts_json(connection: sqlite3.Connection, incident_id: str) -> tuple[AlertJSON, ...]:
    """All alerts of an incident, as `incidents --json` shows them."""
    return tuple(_alert_json(row) for row in alerts_of(connection, incident_id))


def _alert_json(row: Row) -> AlertJSON:
    value = row["value"]
    return {
        "rule": text(row["rule"]),
        "state": text(row["state"]),
        "severity": text(row["severity"]),
        "step": whole(row["step"]),
        "labels": _labels.decode(text(row["labels"])),
        "value": value if isinstance(value, str) else real(value),
        "summary": text(row["summary"]),
    }


def _action_json(row: Row) -> ActionJSON:
    return {
        "action": text(row["action"]),
        "state": text(row["state"]),
        "step": whole(row["step"]),
        "by": text(row["asked_by"]),
        "at": isoformat(real(row["at"])),
    }


def action(row: Row) -> ActionRow:
    """A row of `actions`."""
    return ActionRow(
        id=whole(row["id"]),
        run=text(row["run"]),
        incident=_text_or_none(row["incident"]),
        action=text(row["action"]),
        state=cast(ActionState, row["state"]),
        step=whole(row["step"]),
        by=text(row["asked_by"]),
        reason=text(row["reason"]),
        detail=text(row["detail"]),
        at=real(row["at"]),
    )


def coverage(row: Row) -> RunCoverage:
    """A row of `coverage`."""
    return _reports.decode(text(row["report"]))


def run(row: Row) -> RunRow:
    """A row of `runs`."""
    hold = None
    if row["hold_step"] is not None:
        terms = None if row["hold_terms"] is None else _terms.decode(text(row["hold_terms"]))
        since = real(row["hold_since"])
        hold = HoldRow(whole(row["hold_step"]), text(row["hold_by"]), since, terms)
    return RunRow(
        name=text(row["name"]),
        state=cast(RunState, row["state"]),
        step=whole(row["step"]),
        world_size=whole(row["world_size"]),
        started=real(row["started"]),
        ended=None if row["ended"] is None else real(row["ended"]),
        command=text(row["command"]),
        hold=hold,
    )


def rank(row: Row) -> RankRow:
    """A row of `ranks`."""
    return RankRow(
        rank=whole(row["rank"]),
        host=text(row["host"]),
        pid=whole(row["pid"]),
        device=text(row["device"]),
        step=whole(row["step"]),
        phase=text(row["phase"]),
        last_seen=real(row["last_seen"]),
        collectives=_collectives.decode(text(row["collectives"] or "{}")),
    )


def status(run_row: RunRow, rank_rows: list[RankRow], now: float) -> StatusJSON:
    """A run and its ranks as `status --json` prints them."""
    return {
        "run": run_row.name,
        "state": run_row.state,
        "step": run_row.step,
        "world_size": run_row.world_size,
        "ranks": [
            {
                "rank": row.rank,
                "host": row.host,
                "pid": row.pid,
                "step": row.step,
                "phase": row.phase,
                "last_seen_s": round(max(0.0, now - row.last_seen), 3),
                "collectives": {group: list(ends) for group, ends in row.collectives.items()},
            }
            for row in rank_rows
        ],
        "hold": hold_json(run_row.hold, now) if run_row.hold else None,
    }


def open_incident(connection: sqlite3.Connection, run_name: str) -> OpenIncident | None:
    """The newest incident of a run that is not resolved."""
    found = rows(
        connection,
        "SELECT * FROM incidents WHERE run = ? AND state = 'open' ORDER BY rowid DESC LIMIT 1",
        (run_name,),
    )
    if not found:
        return None
    row = found[0]
    alerts = alerts_of(connection, text(row["id"]))
    return OpenIncident(
        id=text(row["id"]),
        run=run_name,
        severity=cast(Severity, row["severity"]),
        opened_step=whole(row["opened_step"]),
        cause=msgspec.convert(_cause_json(row), Cause),
        opened_at=real(row["opened_at"]),
        alerts=tuple(_alert(alert) for alert in alerts if alert["state"] == "firing"),
        evidence=_evidence.decode(text(row["evidence"]) or "[]"),
        certainty=text(row["certainty"]),
    )


def _alert(row: Row) -> AlertChanged:
    return AlertChanged(
        run=text(row["run"]),
        incident=text(row["incident"]),
        rule=text(row["rule"]),
        signal=text(row["signal"]),
        state="firing",
        severity=cast(Severity, row["severity"]),
        step=whole(row["step"]),
        fired_step=whole(row["fired_step"]),
        labels=_labels.decode(text(row["labels"])),
        value=real(row["value"]),
        score=real(row["score"]),
        summary=text(row["summary"]),
        advice=text(row["advice"]),
        actions=_asked.decode(text(row["actions"])),
        at=real(row["at"]),
    )
