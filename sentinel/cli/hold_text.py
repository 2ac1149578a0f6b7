"""A hold, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentinel.clock import timestamp
from sentinel.held import HoldTerms

if TYPE_CHECKING:
    from sentinel.store.shapes import HoldJSON


def terms(hold: HoldJSON) -> list[str]:
    """What the hold costs, how it ends, and what may end the job first."""
    if hold["unattended"] is None or hold["hold_for_s"] is None:
        return []  # the ranks have not told yet
    known = HoldTerms(
        hold["unattended"],
        hold["hold_for_s"],
        hold["ranks"] or 1,
        hold["unit"] or "rank",
        timestamp(hold["deadline"]) if hold["deadline"] else 0.0,
        hold["group_timeout_s"] or 0.0,
    )
    since = timestamp(hold["since"])
    lines = [f"{label}: {value}" for label, value in known.facts(since, since + hold["held_s"])]
    warning = known.warning(since)
    return [*lines, *([f"WARNING: {warning}"] if warning else [])]
