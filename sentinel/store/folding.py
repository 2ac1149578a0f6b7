"""Several messages of one incident that were never sent, as one that shows how it stands.

A receiver that was down for an hour need not read what has been overtaken: of the opening, the
hold, three reminders of it and the resolution, the resolution says it all. The payload of each
message shows its whole incident, so that the last one is the present state; only what belongs to
its own kind (`about`, `hold`, `escalated`) can be missing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from sentinel.store.outbox_row import OutboxRow

_STANDING = ("held", "reminder", "ending")  # true until the run goes on or is stopped
_Payload = dict[str, msgspec.Raw]


def fold(rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    """These rows of one incident and receiver, in their order, with all the news in the first.

    The others are "folded". Where a payload cannot be read, the first stays by itself.
    """
    try:
        payloads = [msgspec.json.decode(row.payload, type=_Payload) for row in rows]
    except msgspec.MsgspecError:
        return [rows[0]]
    first, last = rows[0], payloads[-1]
    speaks = _speaker(rows)
    if speaks < len(rows) - 1:  # what came after it was news of the incident, not of the hold
        last |= {key: payloads[speaks][key] for key in ("about", "hold") if key in payloads[speaks]}
    if any(bytes(payload.get("escalated", b"")) == b"true" for payload in payloads):
        last["escalated"] = msgspec.Raw(b"true")
    told = replace(first, kind=rows[speaks].kind, payload=msgspec.json.encode(last).decode())
    error = f"told together with {first.event_id}"
    return [told, *(replace(row, state="folded", error=error) for row in rows[1:])]


def _speaker(rows: Sequence[OutboxRow]) -> int:
    """Which message's kind stands for all: the last, or the hold's where only updates followed."""
    latest = next(
        (n for n in range(len(rows) - 1, -1, -1) if rows[n].kind != "updated"), len(rows) - 1
    )
    return latest if rows[latest].kind in (*_STANDING, "opened") else len(rows) - 1
