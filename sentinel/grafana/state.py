"""The states of a run, and the colors they have on every dashboard."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.grafana.panel import Json
from sentinel.store.shapes import RunState

COLORS: Mapping[RunState, str] = {
    "running": "green",
    "pausing": "orange",
    "held": "red",
    "resuming": "orange",
    "lost": "dark-red",
    "finished": "blue",
}


def as_series() -> tuple[Json, ...]:
    """Colors of series that are called as the states are."""
    return tuple(
        {
            "matcher": {"id": "byName", "options": state},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for state, color in COLORS.items()
    )


def as_text() -> Json:
    """Colors of the states as words in a table."""
    options = {
        state: {"index": at, "text": state, "color": color}
        for at, (state, color) in enumerate(COLORS.items())
    }
    return {"type": "value", "options": options}
