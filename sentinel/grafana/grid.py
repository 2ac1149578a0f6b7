"""Where panels lie: in Grafana's grid of 24 columns, one row of panels under the other."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel.grafana.panel import Json, Panel

COLUMNS = 24


@dataclass(frozen=True)
class Section:
    """Panels under a heading. `folded`: shown when somebody opens it, for what is rarely looked at,
    and asked of Prometheus only then."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


def laid_out(sections: tuple[Section, ...]) -> list[Json]:
    """All panels in the order of reading, each beside the one before where there is room."""
    found: list[Json] = []
    number, y = 1, 0
    for section in sections:
        heading: Json = {
            "id": number,
            "type": "row",
            "title": section.title,
            "collapsed": section.folded,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        panels, bottom = _placed(section.panels, number + 1, y + 1)
        found.append(heading)
        if section.folded:
            heading["panels"] = panels
            y += 1
        else:
            found.extend(panels)
            y = bottom
        number += 1 + len(panels)
    return found


def _placed(panels: tuple[Panel, ...], number: int, y: int) -> tuple[list[Json], int]:
    """The panels, numbered from `number` and from `y` down, and where they end."""
    placed: list[Json] = []
    x, bottom = 0, y
    for at, panel in enumerate(panels):
        if x + panel.width > COLUMNS:
            x, y = 0, bottom
        placed.append(panel.json(number + at, x, y))
        x += panel.width
        bottom = max(bottom, y + panel.height)
    return placed, bottom
