"""A dashboard, as Grafana's JSON has it.

Source: grafana.com/docs/grafana/latest/visualizations/dashboards/build-dashboards/
view-dashboard-json-model, and for variables and annotations the schema of grafana/grafana.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from sentinel.grafana.grid import Section, laid_out
from sentinel.grafana.panel import DATASOURCE, Json

SCHEMA = 42
OURS = "sentinel"  # the tag that marks our dashboards
PAGE_URL = "http://127.0.0.1:9475"  # where a daemon serves its page, unless told otherwise

RUN_UID, FLEET_UID, DAEMON_UID = "sentinel-run", "sentinel-fleet", "sentinel-daemon"

_GRAFANA: Json = {"type": "grafana", "uid": "-- Grafana --"}


@dataclass(frozen=True)
class Datasource:
    """A Prometheus of a Grafana's; `uid` empty: the one that Grafana takes first."""

    uid: str = ""
    name: str = ""


@dataclass(frozen=True)
class Dashboard:
    """What is shown, without the place where it is shown."""

    uid: str
    title: str
    description: str
    sections: tuple[Section, ...]
    variables: tuple[Json, ...] = ()
    annotations: tuple[Json, ...] = ()
    links: tuple[Json, ...] = field(default_factory=tuple)

    def json(self, datasource: Datasource, page_url: str) -> Json:
        """For a Grafana with this Prometheus, and a page at this address."""
        variables = [_datasource(datasource), *self.variables, _page(page_url)]
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [OURS, "training"],
            "schemaVersion": SCHEMA,
            "editable": True,
            "graphTooltip": 1,  # the same moment is marked on all panels
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": variables},
            "annotations": {
                "list": [_BUILT_IN, *(_linked(one, page_url) for one in self.annotations)]
            },
            "links": [*self.links, _OTHERS],
            "panels": laid_out(self.sections),
        }


def _linked(annotation: Json, page_url: str) -> Json:
    """With the address itself: in the text of an annotation Grafana knows no variables."""
    if "textFormat" not in annotation:
        return annotation
    text = str(annotation["textFormat"]).replace("${page}", html.escape(page_url))
    return {**annotation, "textFormat": text}


def _datasource(datasource: Datasource) -> Json:
    current: Json = {}
    if datasource.uid:
        current = {"text": datasource.name, "value": datasource.uid}
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "refresh": 1,
        "current": current,
    }


def _page(url: str) -> Json:
    """Constant, so that no link to the dashboard can say where its links lead."""
    return {
        "type": "constant",
        "name": "page",
        "label": "Address of Sentinel's page",
        "query": url,
        "current": {"text": url, "value": url},
        "hide": 2,
        "skipUrlSync": True,
    }


def chosen(name: str, label: str, metric: str, *, several: bool) -> Json:
    """A variable with the values of a label of a metric."""
    definition = f"label_values({metric}, {name})"
    variable: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": definition,
        "query": {"qryType": 1, "query": definition, "refId": name},
        "sort": 1,
        "refresh": 2,
        "current": {},
    }
    if several:
        everything: Json = {"text": ["All"], "value": ["$__all"]}
        variable |= {"multi": True, "includeAll": True, "allValue": ".*", "current": everything}
    return variable


_BUILT_IN: Json = {
    "builtIn": 1,
    "datasource": _GRAFANA,
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
    "name": "Annotations & Alerts",
    "type": "dashboard",
}

_OTHERS: Json = {
    "type": "dashboards",
    "title": "Sentinel",
    "tags": [OURS],
    "asDropdown": True,
    "icon": "external link",
    "includeVars": True,
    "keepTime": True,
}


def link(title: str, url: str) -> Json:
    """To another place, from the head of the dashboard."""
    return {
        "type": "link",
        "title": title,
        "url": url,
        "icon": "external link",
        "tooltip": title,
        "targetBlank": True,
    }


def data_link(title: str, url: str) -> Json:
    """To another place, from a value."""
    return {"title": title, "url": url, "targetBlank": True}


def told(name: str, *tags: str) -> Json:
    """Marks that the Grafana receiver of a daemon has made, by the tags that it gives them."""
    target: Json = {"type": "tags", "tags": [*tags], "matchAny": False, "limit": 100}
    return {
        "name": name,
        "datasource": _GRAFANA,
        "enable": True,
        "iconColor": "red",
        "target": target,
    }


INCIDENT = '<a href="${page}/incidents/{{incident}}">incident {{incident}}</a> of {{run}}'


def marked(name: str, expression: str, title: str, text: str, color: str) -> Json:
    """Marks where an expression of Prometheus gives series, with their labels; `text` is HTML."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": color,
        "expr": expression,
        "step": "10s",
        "titleFormat": title,
        "textFormat": text,
    }
