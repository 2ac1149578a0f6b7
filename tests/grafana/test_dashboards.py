"""What the files of the dashboards say, and where they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from sentinel.cli.main import execute
from sentinel.daemon.metrics.families import OWN
from sentinel.grafana import unit
from sentinel.grafana.shipped import files
from sentinel.grafana.state import COLORS
from sentinel.signals import CATALOG
from sentinel.signals.exposition import metric_name
from sentinel.store.shapes import RunState
from tests.grafana import reading
from tests.grafana.reading import FOLDER, JSON, NAMES, PROMETHEUS, load, panels

BUILT_IN = {"__rate_interval", "__data", "__field", "__all", "__url_time_range"}
GRAFANAS_UNITS = {"short", "locale", "percentunit", "s", "dtdurations", "bytes", "binBps"} | {
    "watt",
    "celsius",
    "hertz",
    "bool_yes_no",
    "si:/s",
}


def test_the_files_are_what_the_catalog_makes_of_them() -> None:
    made = files()
    assert {one.name for one in FOLDER.glob("*.json")} == {f"{name}.json" for name in NAMES}
    for path, content in made.items():
        assert (FOLDER / path).read_bytes() == content, (
            f"dashboards/{path} is old: run `sentinel dashboards export --to dashboards`"
        )


def test_every_signal_is_on_the_dashboard_of_a_run() -> None:
    shown = " ".join(one.expression for one in reading.asked("run"))
    names = {one.name: metric_name(one) for one in CATALOG.values()}
    assert {name for name, metric in names.items() if not re.search(rf"\b{metric}\b", shown)} == (
        set()
    )


def test_every_query_is_limited_to_what_was_chosen() -> None:
    wanted = {"run": 'run="$run"', "fleet": 'run=~"$run"', "sentinel": 'instance=~"$instance"'}
    for name in NAMES:
        for one in (*reading.asked(name), *reading.marks(name)):
            selectors = re.findall(r"{([^{}]*)}", one.expression)
            assert selectors, one
            assert all(wanted[name] in selector for selector in selectors), one
            bare = re.findall(r"\b(?:sentinel|process)_\w+\b(?!{)(?![^{}]*})", one.expression)
            assert not bare, one


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_a_place_of_their_own_a_name_and_words_of_help(name: str) -> None:
    dashboard = load(name)
    numbers = [panel["id"] for panel in _everything(dashboard)]
    assert len({*numbers}) == len(numbers)
    _check_places(dashboard["panels"])
    for row in dashboard["panels"]:
        assert row["title"]
        if row["type"] == "row":
            assert bool(row["panels"]) == row["collapsed"]
            _check_places(row["panels"])
    for panel in panels(dashboard):
        assert panel["title"]
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["gridPos"]["w"] >= 4, panel["title"]
        assert panel["gridPos"]["h"] >= 4, panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit", "short") in GRAFANAS_UNITS


def _everything(dashboard: JSON) -> Iterator[JSON]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def _check_places(group: list[JSON]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in group:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for place in (
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ):
            assert taken.setdefault(place, panel["title"]) is panel["title"], panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_everything_reads_from_the_chosen_prometheus_and_no_variable_is_unknown(name: str) -> None:
    dashboard = load(name)
    known = reading.variables(dashboard).keys() | BUILT_IN
    assert {*re.findall(r"\$\{?(\w+)", json.dumps(dashboard))} <= known
    assert next(iter(dashboard["templating"]["list"]))["query"] == "prometheus"
    for panel in panels(dashboard):
        assert panel["datasource"] == PROMETHEUS
        assert all(target["datasource"] == PROMETHEUS for target in panel["targets"])


def test_links_lead_to_the_pages_of_the_daemon_and_to_each_other() -> None:
    text = "".join((FOLDER / f"{name}.json").read_text() for name in NAMES)
    urls = {json.loads(f'"{url}"') for url in re.findall(r'"url": "((?:[^"\\]|\\.)*)"', text)}
    paths = {re.sub(r"\$\{(?!page)[^}]*\}", "X", url) for url in urls}
    assert paths == {
        "${page}/",
        "${page}/runs/X",
        "${page}/incidents/X",
        "/d/sentinel-run?var-run=X&X&X",
    }
    assert load("run")["uid"] == "sentinel-run"
    assert all(":percentencode}" in url for url in urls if url.startswith("${page}/") and url[8:])


def test_the_mark_of_an_incident_leads_to_its_page() -> None:
    for name in ("run", "fleet"):
        made = json.loads(files('https://s.example/a"b')[f"{name}.json"])
        (mark,) = (m for m in made["annotations"]["list"] if m["name"] == "Incidents")
        assert '<a href="https://s.example/a&quot;b/incidents/{{incident}}">' in mark["textFormat"]


def test_where_links_lead_cannot_be_said_by_a_link() -> None:
    for name in NAMES:
        page = reading.variables(load(name))["page"]
        assert page["type"] == "constant"
        assert page["skipUrlSync"]


def test_what_is_drawn_by_name_is_known() -> None:
    assert {*COLORS} == {*get_args(RunState)}
    assert unit.unknown_shares() == frozenset()
    described = json.dumps([load(name) for name in NAMES])
    assert OWN["sentinel_hold"].help in described


def test_provisioning_names_the_folder_and_the_kind_of_files() -> None:
    folder = FOLDER / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards/sentinel.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert Path(provider["options"]["path"]).is_absolute()
    (source,) = yaml.safe_load((folder / "datasources/sentinel.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"


def test_export_writes_all_files_as_often_as_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a" / "b"
    monkeypatch.delenv("SENTINEL_PAGE_URL", raising=False)
    assert execute(["dashboards", "export", "--to", str(place)]) == 0
    assert {path: (place / path).read_bytes() for path in files()} == files()
    for _ in range(2):
        command = ["dashboards", "export", "--to", str(place), "--page-url", "https://s.example/"]
        assert execute(command) == 0
        written = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
        assert written == {*files()}
    assert capsys.readouterr().out.splitlines()[0] == str(place / "run.json")
    for name in NAMES:
        dashboard = json.loads((place / f"{name}.json").read_text())
        assert reading.variables(dashboard)["page"]["query"] == "https://s.example"
    (tmp_path / "file").write_text("")
    assert execute(["dashboards", "export", "--to", str(tmp_path / "file" / "x")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
