"""Dashboards as their files have them, and what Grafana makes of the variables in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.package.tools import ROOT

JSON = dict[str, Any]

FOLDER = ROOT / "dashboards"
NAMES = ("run", "fleet", "sentinel")
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}


def load(name: str) -> JSON:
    """A dashboard of the repository."""
    found: JSON = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def panels(dashboard: JSON) -> Iterator[JSON]:
    """All panels, those in folded rows too, without the rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


@dataclass(frozen=True)
class Asked:
    """A query of a panel or an annotation, and the labels that what it finds has to have."""

    where: str
    expression: str
    labels: frozenset[str]


def asked(name: str) -> Iterator[Asked]:
    """Every query of every panel. Of the labels that a table shows, each comes from some query."""
    for panel in panels(load(name)):
        columns = _columns(panel) if panel["type"] == "table" else set()
        for target in panel["targets"]:
            given = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            of_table = columns & {label.strip() for one in given for label in one.split(",")}
            wanted = of_table | {*_in_braces(target["legendFormat"])}
            where = f"{name}: {panel['title']} {target['refId']}"
            yield Asked(where, target["expr"], frozenset(wanted))


def marks(name: str) -> Iterator[Asked]:
    """Every query of an annotation."""
    for one in load(name)["annotations"]["list"]:
        if one["datasource"] == PROMETHEUS:
            labels = _in_braces(one["titleFormat"] + one["textFormat"])
            yield Asked(f"{name}: {one['name']}", one["expr"], frozenset(labels))


def _columns(panel: JSON) -> set[str]:
    """The labels that a table shows; what else it shows are the values of its queries."""
    shown = panel["transformations"][-1]["options"]["renameByName"]
    labels = {one for one in shown if not one.startswith("Value")}
    given = " ".join(target["expr"] for target in panel["targets"])
    assert all(re.search(rf"by \([^)]*\b{label}\b", given) for label in labels), panel["title"]
    return labels


def _in_braces(text: str) -> list[str]:
    return re.findall(r"{{\s*(\w+)\s*}}", text)


def variables(dashboard: JSON) -> dict[str, JSON]:
    """By their names."""
    return {one["name"]: one for one in dashboard["templating"]["list"]}


def resolved(expression: str, values: Mapping[str, str]) -> str:
    """The query as Grafana sends it when these values are chosen."""
    for name, value in {"__rate_interval": "4s", **values}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, f"no such variable: {expression}"
    return expression


def choices(name: str, run: str, instance: str) -> list[dict[str, str]]:
    """What may be chosen on this dashboard: one value of its variable, and all of them.

    Where several may be, Grafana escapes them for a regular expression inside a string.
    """
    every = {"run": run, "instance": instance}
    found: list[dict[str, str]] = []
    for variable in load(name)["templating"]["list"]:
        if variable["type"] != "query":
            continue
        value = every[variable["name"]]
        if not variable.get("multi"):
            found.append({variable["name"]: value})
        else:
            escaped = re.escape(value).replace("\\", "\\\\")
            found += [{variable["name"]: escaped}, {variable["name"]: variable["allValue"]}]
    return found
