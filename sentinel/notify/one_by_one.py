"""The incidents of a message that tells of several, for receivers that keep each apart."""

from __future__ import annotations

from msgspec.structs import replace

from sentinel.notify.notice import Cause, Incident, Notice, Other


def one_by_one(notice: Notice) -> list[Notice]:
    """A notice for each incident: its own first, then those that share its first message."""
    return [replace(notice, others=()), *(_of(other, notice) for other in notice.others)]


def _of(other: Other, notice: Notice) -> Notice:
    cause = Cause(other.rule, step=other.step, rank=other.rank, host=other.host)
    incident = Incident(other.id, other.run, other.state, other.severity, other.step, cause)
    return Notice(at=notice.at, incident=incident, pages=notice.pages)
