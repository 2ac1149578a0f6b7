"""The alerts for teams that are alerted through Prometheus: by promtool, and by a real server that
scrapes a real daemon with a run in trouble.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel.daemon.metrics.families import OWN
from sentinel.signals import CATALOG
from sentinel.signals.exposition import metric_name
from tests.daemon.guarded import Guarded
from tests.daemon.process import Daemon
from tests.daemon.scenes import broken
from tests.package.tools import ROOT, tool, until

RULES = ROOT / "dashboards" / "prometheus-rules.yaml"
TESTS = Path(__file__).with_name("prometheus_rules_test.yaml")
SERIES = re.compile(r"\bsentinel_[a-z_]+")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


@pytest.mark.parametrize("command", [("check", "rules", RULES), ("test", "rules", TESTS)])
def test_promtool_finds_nothing_wrong(command: tuple[str | Path, ...]) -> None:
    done = subprocess.run(
        [tool("promtool"), *command], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire_and_not_to() -> None:
    tested: dict[str, set[bool]] = {}
    for one in yaml.safe_load(TESTS.read_text())["tests"]:
        for asked in one.get("promql_expr_test", ()):
            assert f'alertname="{one["name"]}"' in asked["expr"]
            tested.setdefault(one["name"], set()).add("exp_samples" in asked)
    assert tested == {name: {True, False} for name in ALERTS}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_it_is_and_where_to_look(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"].keys() >= {"summary", "description"}
    about_a_run = "$labels.run" in alert["annotations"]["summary"]
    assert about_a_run is ("page" in alert["annotations"])


def test_the_rules_ask_for_metrics_that_there_are() -> None:
    known = {*OWN, *map(metric_name, CATALOG.values())}
    known |= {f"{name}{end}" for name in OWN for end in ("_sum", "_count")}
    for rule in rules():
        asked = re.sub(r"\{[^}]*\}", "", rule["expr"])
        recorded = re.sub(r"run:(sentinel_[a-z_]+):\w+", "", asked)
        assert set(SERIES.findall(recorded)) <= known, rule


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Daemon, str]]:
    """A daemon, and the address of the API of a Prometheus that scrapes it with these rules.

    It comes as from another machine: over TLS, with a viewer's token.
    """
    prometheus = tool("prometheus")
    guarded = Guarded(tmp_path / "guarded")
    token = tmp_path / "token"
    token.write_text(f"{guarded.tokens['viewer']}\n")
    settings = {
        "global": {
            "scrape_interval": "500ms",
            "evaluation_interval": "500ms",
            "external_labels": {"sentinel_page": "https://pages.example"},
        },
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "sentinel",
                "scheme": "https",
                "tls_config": {"ca_file": str(guarded.authority.ca)},
                "authorization": {"credentials_file": str(token)},
                "static_configs": [{"targets": [f"localhost:{guarded.port}"]}],
            },
        ],
    }
    configuration, log = tmp_path / "prometheus.yml", tmp_path / "prometheus.log"
    configuration.write_text(json.dumps(settings))  # JSON is YAML
    command = [
        prometheus,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out)
    try:
        found = until(
            lambda: re.search(r'"Listening on" address=(\S+)', log.read_text()), "Prometheus"
        )
        yield guarded.daemon, f"http://{found[1]}/api/v1/"
    finally:
        server.kill()
        server.wait()
        guarded.daemon.kill()


def ask(base: str, path: str, **parameters: str) -> Any:
    url = f"{base}{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


def test_a_run_in_trouble_makes_a_real_prometheus_fire(watched: tuple[Daemon, str]) -> None:
    daemon, base = watched
    job = broken(daemon)

    def states() -> dict[str, dict[str, Any]]:
        alerts = ask(base, "alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts}

    wanted = {"SentinelCriticalIncident", "SentinelRunHeld"}
    wrong = {"SentinelAbsent", "SentinelBlind", "SentinelRuleError"}  # the first until a scrape
    until(lambda: states().keys() >= wanted and not states().keys() & wrong, "alerts", 60)
    found = states()
    incident = found["SentinelCriticalIncident"]
    assert incident["state"] == "firing"
    assert incident["labels"]["run"] == "run"
    page = f"https://pages.example/incidents/{incident['labels']['incident']}"
    assert incident["annotations"]["page"] == page
    assert found["SentinelRunHeld"]["state"] == "pending"
    told = ask(base, "targets/metadata", metric="sentinel_loss", limit="1")
    assert told[0]["type"] == "gauge"
    assert told[0]["help"].startswith("Loss of")
    job.vanish()
