"""A panel of a dashboard, as Grafana's JSON has it: schema 42, the last of its first kind.

Source: apps/dashboard/pkg/migration/schemaversion of grafana/grafana, and the panels' own options
in packages/grafana-schema/src/raw/composable. What Grafana leaves out when it saves is left out
here too, so that a dashboard reads back as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sentinel.grafana.query import Query
from sentinel.grafana.unit import BYTES, COUNT, FLAG, SECONDS, SHARE

Json = dict[str, object]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}

# Of which a half says nothing where the axis does not begin at nothing.
_FROM_ZERO = frozenset({BYTES, SECONDS, SHARE})

_OFF, _WARN, _BAD = "green", "orange", "red"


@dataclass(frozen=True)
class Panel:
    """One panel. Sizes are in Grafana's grid: 24 columns, and rows of 30 pixels."""

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    options: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()

    def sized(self, width: int, height: int | None = None) -> Panel:
        """The same in another size."""
        return replace(self, width=width, height=height or self.height)

    def json(self, number: int, x: int, y: int) -> Json:
        """As it lies at this place of the grid."""
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [self._target(at, query) for at, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self.defaults, "overrides": [*self.overrides]},
            "options": self.options,
        }
        if self.transformations:
            panel["transformations"] = [*self.transformations]
        return panel

    def _target(self, at: int, query: Query) -> Json:
        # What is shown of now alone is asked of now alone: a state that was is none any more.
        now = self.kind in ("stat", "table")
        return {
            "refId": reference(at),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            "instant": now,
            "range": not now,
            "format": self.kind if self.kind in ("table", "heatmap") else "time_series",
        }


def reference(at: int) -> str:
    """What Grafana calls the query at this place: A to Z, then AA, AB..."""
    more, last = divmod(at, 26)
    return (reference(more - 1) if more else "") + chr(ord("A") + last)


def thresholds(warn: float | None = None, bad: float | None = None) -> Json:
    """Green below the first, orange from there on, red from the second on."""
    steps: list[Json] = [{"color": _OFF, "value": None}]
    if warn is not None:
        steps.append({"color": _WARN, "value": warn})
    if bad is not None:
        steps.append({"color": _BAD, "value": bad})
    return {"mode": "absolute", "steps": steps}


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = COUNT,
    stacked: bool = False,
    warn: float | None = None,
    bad: float | None = None,
    links: Sequence[Json] = (),
) -> Panel:
    """Lines over time. `warn` and `bad` are drawn across."""
    marked = warn is not None or bad is not None
    custom: Json = {
        "axisSoftMin": 0 if unit in _FROM_ZERO else None,
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line+area" if marked else "off"},
    }
    defaults: Json = {
        "unit": unit,
        "custom": {name: value for name, value in custom.items() if value is not None},
        "color": {"mode": "palette-classic"},
        "thresholds": thresholds(warn, bad),
    }
    if links:
        defaults["links"] = [*links]
    return Panel(
        "timeseries",
        title,
        description,
        queries,
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        defaults=defaults,
        overrides=tuple(_styled(at, queries) for at, query in enumerate(queries) if query.style),
    )


def _styled(at: int, queries: Sequence[Query]) -> Json:
    """How the series of one query differ from the others."""
    properties: dict[str, object] = {}
    if queries[at].style in ("limit", "middle"):
        color = _BAD if queries[at].style == "limit" else "text"
        properties["custom.lineStyle"] = {"fill": "dash", "dash": [10, 10]}
        properties["custom.fillOpacity"] = 0
        properties["custom.stacking"] = {"mode": "none", "group": "A"}
        properties["color"] = {"mode": "fixed", "fixedColor": color}
    else:
        properties["custom.lineWidth"] = 0
        properties["color"] = {"mode": "fixed", "fixedColor": "semi-dark-blue"}
    if queries[at].style == "band":
        properties["custom.fillBelowTo"] = queries[at - 1].legend
        properties["custom.fillOpacity"] = 15
    return {
        "matcher": {"id": "byFrameRefID", "options": reference(at)},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str = COUNT,
    warn: float | None = None,
    bad: float | None = None,
    name: bool = False,
    links: Sequence[Json] = (),
    overrides: tuple[Json, ...] = (),
) -> Panel:
    """The newest value, large. `name`: the series' name instead, such as a state."""
    colored = warn is not None or bad is not None or bool(overrides)
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": thresholds(warn, bad),
    }
    if links:
        defaults["links"] = [*links]
    several = len({query.legend for query in queries}) > 1 or "{{" in queries[0].legend
    return Panel(
        "stat",
        title,
        description,
        queries,
        width=4,
        height=4,
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value" if colored else "none",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "name" if name else "value_and_name" if several else "value",
        },
        defaults=defaults,
        overrides=overrides,
    )


def flags(title: str, description: str, *queries: Query) -> Panel:
    """A line for each thing that is so or not, over time: calm where not, red where so."""
    mapping: Json = {
        "type": "value",
        "options": {
            "0": {"index": 0, "text": "no", "color": "transparent"},
            "1": {"index": 1, "text": "yes", "color": _BAD},
        },
    }
    return Panel(
        "state-timeline",
        title,
        description,
        queries,
        width=24,
        height=10,
        options={
            "mergeValues": True,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.8,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
            "tooltip": {"mode": "single", "sort": "none"},
        },
        defaults={
            "unit": FLAG,
            "custom": {"lineWidth": 0, "fillOpacity": 80},
            "color": {"mode": "thresholds"},
            # A count of two or more is a yes as well.
            "thresholds": {
                "mode": "absolute",
                "steps": [{"color": "transparent", "value": None}, {"color": _BAD, "value": 1}],
            },
            "mappings": [mapping],
        },
    )


def heat(title: str, description: str, query: Query, unit: str) -> Panel:
    """A histogram over time: how many fell into each bucket."""
    return Panel(
        "heatmap",
        title,
        description,
        (query,),
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "scale": "exponential", "steps": 64},
            "yAxis": {"unit": unit, "axisPlacement": "left"},
            "rowsFrame": {"layout": "auto"},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
        },
        defaults={"custom": {"scaleDistribution": {"type": "linear"}}},
    )


@dataclass(frozen=True)
class Column:
    """A column of a table: the value of a query, or a label, which a query may be asked for."""

    name: str
    query: Query | None = None
    label: str = ""
    unit: str = COUNT
    warn: float | None = None
    bad: float | None = None
    links: tuple[Json, ...] = ()
    mapping: Json | None = None


def table(title: str, description: str, *columns: Column) -> Panel:
    """A row for each set of labels that the queries share."""
    asked = [column for column in columns if column.query is not None]
    queries = tuple(column.query for column in asked if column.query is not None)
    # With one query alone Grafana calls its value "Value", else "Value #A" and so on.
    values = [f"Value #{reference(at)}" if len(asked) > 1 else "Value" for at in range(len(asked))]
    fields = {one.name: one.label or values[asked.index(one)] for one in columns}
    hidden = sorted({*values} - {*fields.values()})
    organize: Json = {
        "excludeByName": dict.fromkeys(["Time", *hidden], True),
        "indexByName": {fields[column.name]: at for at, column in enumerate(columns)},
        "renameByName": {fields[column.name]: column.name for column in columns},
    }
    return Panel(
        "table",
        title,
        description,
        queries,
        width=24,
        options={"showHeader": True, "cellHeight": "sm"},
        defaults={"custom": {"align": "auto", "filterable": True}},
        overrides=tuple(map(_column, columns)),
        transformations=(
            {"id": "merge", "options": {}},
            {"id": "organize", "options": organize},
        ),
    )


def _column(column: Column) -> Json:
    properties: list[Json] = [] if column.label else [{"id": "unit", "value": column.unit}]
    if column.warn is not None or column.bad is not None:
        properties.append({"id": "thresholds", "value": thresholds(column.warn, column.bad)})
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
    if column.mapping:
        properties.append({"id": "mappings", "value": [column.mapping]})
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
    if column.links:
        properties.append({"id": "links", "value": [*column.links]})
    return {"matcher": {"id": "byName", "options": column.name}, "properties": properties}
