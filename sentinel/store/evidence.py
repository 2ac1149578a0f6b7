"""What an action was asked for on: the alerts of its rule, with their values, as they stood."""

from __future__ import annotations

import sqlite3

import msgspec

from sentinel.engine.transition import ActionWanted
from sentinel.store.database import rows
from sentinel.store.journal import MAX_TEXT, Detail

MAX_ALERTS = 16

_labels = msgspec.json.Decoder(dict[str, str])


def of_rule(connection: sqlite3.Connection, wanted: ActionWanted) -> Detail:
    """The incident, the rule, where it fired, and its alerts that fire now, the first of them."""
    found = rows(
        connection,
        "SELECT * FROM alerts WHERE incident = ? AND rule = ? AND state = 'firing' ORDER BY id",
        (wanted.incident, wanted.rule),
    )
    return {
        "incident": wanted.incident,
        "rule": wanted.rule,
        "step": wanted.step,
        "labels": dict(wanted.labels),
        "alerts": [
            {
                "signal": row["signal"],
                "severity": row["severity"],
                "labels": _labels.decode(str(row["labels"])),
                "step": row["step"],
                "fired_step": row["fired_step"],
                "value": row["value"],
                "score": row["score"],
                "summary": str(row["summary"])[:MAX_TEXT],
            }
            for row in found[:MAX_ALERTS]
        ],
        "alert_count": len(found),
    }
