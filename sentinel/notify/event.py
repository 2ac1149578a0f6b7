"""A letter as an event in JSON, for programs: what webhooks get, and what standard output shows.

The shape is a promise, described in docs/receivers.md. Fields may be added; `VERSION` rises when
one goes or changes its meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from sentinel.clock import isoformat
from sentinel.notify.notice import Hold
from sentinel.notify.receiver import Letter

VERSION = 1
MAX_BYTES = 128 * 1024
# Characters of one text, entries of one list: tried one after the other until all of it fits.
_BOUNDS = ((8000, 64), (1000, 16), (200, 4))
_PROSE = frozenset(("late", "text", "title", "summary", "advice", "reason", "detail"))
_ELSEWHERE = frozenset(("at", "incident", "leader", "pages"))
_NAME = 300  # characters of what is no prose

JSON = dict[str, object]


def encode(letter: Letter) -> bytes:
    """One JSON object in UTF-8, without line breaks, at most `MAX_BYTES` long."""
    whole = _event(letter)
    for text, entries in _BOUNDS:
        body = msgspec.json.encode(_bounded(whole, text, entries))
        if len(body) <= MAX_BYTES:
            break
    return body


def _event(letter: Letter) -> JSON:
    notice = letter.notice
    known = _fields(notice)
    incident = _fields(notice.incident)
    data: JSON = {
        "incident": incident.pop("id"),
        "record": incident.pop("head"),
        **incident,
        **{name: known[name] for name in known if name not in _ELSEWHERE},
        "page": notice.page,
        "hold": _hold(notice.hold),
        "late": letter.late,
    }
    return {
        "type": f"sentinel.incident.{letter.kind}",
        "version": VERSION,
        "id": letter.event_id,
        "timestamp": _time(notice.at),
        "data": data,
    }


def _fields(value: msgspec.Struct) -> JSON:
    """Its fields; those that are called `..._at` are times."""
    fields: JSON = msgspec.to_builtins(value)
    for name, found in fields.items():
        if name.endswith("_at"):
            fields[name] = _time(found)
    return fields


def _hold(hold: Hold | None) -> JSON | None:
    if hold is None:
        return None
    terms = hold.terms
    return {
        "step": hold.step,
        "since": _time(hold.since),
        "unattended": terms.unattended,
        "ends": _time(terms.ends(hold.since)),
        "ranks": terms.ranks,
        "unit": terms.unit,
        "job_ends": _time(terms.deadline),
    }


def _time(seconds: object) -> str | None:
    """As ISO 8601 in UTC; None for what is not known or no time."""
    if not isinstance(seconds, (int, float)) or not seconds or not math.isfinite(seconds):
        return None
    try:
        return isoformat(seconds)
    except (ValueError, OverflowError, OSError):
        return None


def _bounded(value: object, text: int, entries: int) -> object:
    """The same with long texts and lists cut, and with what JSON cannot say as strings."""
    if isinstance(value, str):
        clean = value[:text].encode("utf-8", "replace").decode()
        return clean if len(value) <= text else clean[:-1] + "…"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        kept = list(value.items())[: max(entries, 32)]  # no object of ours has as many fields
        bounded = {}
        for key, found in kept:
            is_name = isinstance(found, str) and key not in _PROSE
            limit = min(text, _NAME) if is_name else text
            bounded[str(_bounded(key, _NAME, 0))] = _bounded(found, limit, entries)
        return bounded
    if isinstance(value, Sequence):
        return [_bounded(one, text, entries) for one in value[:entries]]
    return value
