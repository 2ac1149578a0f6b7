"""The record in SQLite: runs, incidents, actions, the outbox, and recordings for replay."""

from sentinel.store.chunk import Recorded
from sentinel.store.outbox import Delivery, Outbox, Receipt
from sentinel.store.recording import Recording
from sentinel.store.shapes import (
    ActionRow,
    HoldRow,
    IncidentJSON,
    RankRow,
    RunRow,
    StatusJSON,
)
from sentinel.store.store import Store

__all__ = [
    "ActionRow",
    "Delivery",
    "HoldRow",
    "IncidentJSON",
    "Outbox",
    "RankRow",
    "Receipt",
    "Recorded",
    "Recording",
    "RunRow",
    "StatusJSON",
    "Store",
]
