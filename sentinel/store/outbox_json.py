"""What waits to be told and what could not be, as `sentinel outbox --json` promises it."""

from __future__ import annotations

from typing import TypedDict

from sentinel.clock import isoformat
from sentinel.store.outbox_row import OutboxRow


class OutboxJSON(TypedDict):
    """A message that one receiver has not got. `state` is waiting, sending or failed.

    `id` is what the message carries, at every attempt the same; `doubtful`: an attempt may have
    arrived. `created` is when it was written, `age_s` seconds ago; `next_attempt` is null where
    there is none to come. `error` says what the last attempt came to.
    """

    id: str
    receiver: str
    run: str
    incident: str
    kind: str
    state: str
    created: str
    age_s: float
    attempts: int
    doubtful: bool
    next_attempt: str | None
    error: str


def shown(row: OutboxRow, now: float) -> OutboxJSON:
    """A row that has not come to a good end; `now` on `clock.steady()`."""
    return {
        "id": row.event_id,
        "receiver": row.receiver,
        "run": row.run,
        "incident": row.incident,
        "kind": row.kind,
        "state": "waiting" if row.state == "pending" else row.state,
        "created": isoformat(row.created_at),
        "age_s": round(max(0.0, now - row.created_at), 3),
        "attempts": row.attempts,
        "doubtful": row.doubtful,
        "next_attempt": isoformat(max(row.next_attempt, now)) if row.state == "pending" else None,
        "error": row.error,
    }
