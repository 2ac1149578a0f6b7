"""The dashboard shows something: a real Prometheus scrapes a real daemon that watches a run, and
every expression of every panel finds series with every label that its legend names.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from sentinel import wire
from sentinel.address import SOCKET_NAME, UnixAddress, connect
from sentinel.signals import CATALOG
from tests.package.tools import ROOT, tool, until

pytestmark = pytest.mark.timeout(120)

JSON = dict[str, object]

DASHBOARD = ROOT / "dashboards" / "sentinel.json"
RUN = "dash.board+1"  # a name with what means something else in a regular expression
SCRAPE = 0.5  # s


def load() -> JSON:
    return cast(JSON, json.loads(DASHBOARD.read_text()))


def panels() -> list[JSON]:
    return [p for p in cast(list[JSON], load()["panels"]) if p["type"] != "row"]


def targets() -> list[tuple[str, str, str]]:
    """Title, expression and legend of every query of every panel."""
    return [
        (str(panel["title"]), str(target["expr"]), str(target["legendFormat"]))
        for panel in panels()
        for target in cast(list[JSON], panel["targets"])
    ]


def marks() -> list[tuple[str, str, str]]:
    """The same of every annotation."""
    found = cast(dict[str, list[JSON]], load()["annotations"])["list"]
    return [(str(one["name"]), str(one["expr"]), str(one["titleFormat"])) for one in found]


def variables() -> dict[str, JSON]:
    templating = cast(dict[str, list[JSON]], load()["templating"])
    return {str(variable["name"]): variable for variable in templating["list"]}


def resolve(expression: str, run: str) -> str:
    """The query as Grafana sends it when `run` is chosen."""
    resolved = expression.replace("$run", run).replace("$__rate_interval", "4s")
    assert "$" not in resolved, f"no such variable: {resolved}"
    return resolved


def values_of(raw: dict[tuple[str, str], float]) -> bytes:
    return struct.pack(f"<{len(raw)}d", *raw.values())


class FakeRank:
    """A rank that reports every signal of the catalog, over the real wire."""

    def __init__(self, state: Path) -> None:
        self._values = {
            (signal.name, label): 1.5
            for signal in CATALOG.values()
            if signal.made_by == "rank"
            for label in (("embed", "head") if signal.label else ("",))
        }
        for name in ("nonfinite_activation", "nonfinite_gradient", "nonfinite_update"):
            self._values[name, ""] = 0.0
        self._values["skipped", ""] = self._values["overflow", ""] = 0.0
        self._step = 0
        self._socket = connect(UnixAddress(state / SOCKET_NAME), timeout=10.0)
        series = tuple(wire.Series(name, label) for name, label in self._values)
        self._send(
            wire.Hello(
                wire.VERSION, RUN, 0, 1, "first", "host", 1, "cpu", "plain", 0, series=series
            )
        )
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()

    def report(self, **changed: float) -> None:
        """The next step, with these signals different from the usual."""
        self._step += 1
        values = self._values | {(name, ""): value for name, value in changed.items()}
        self._send(wire.Frame(self._step, sequence=self._step, time=0.0, values=values_of(values)))

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: wire.FromRank) -> None:
        self._socket.sendall(wire.encode(message))

    def _read(self) -> None:
        """What the daemon says is taken and not acted on."""
        self._socket.settimeout(None)
        try:
            while self._socket.recv(65536):
                pass
        except OSError:
            return


class Prometheus:
    """A real server that scrapes one address."""

    def __init__(self, folder: Path, scraped: str) -> None:
        configuration = folder / "prometheus.yml"
        job = {"job_name": "sentinel", "static_configs": [{"targets": [scraped]}]}
        interval = {"scrape_interval": f"{int(SCRAPE * 1000)}ms"}
        # JSON is YAML.
        configuration.write_text(json.dumps({"global": interval, "scrape_configs": [job]}))
        self._log = folder / "prometheus.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait(self) -> None:
        """Until it listens; the system chooses the port, the log says which."""
        found = until(
            lambda: re.search(r'"Listening on" address=(\S+)', self._log.read_text()),
            "Prometheus",
        )
        self._base = f"http://{found[1]}/api/v1/"

    def ask(self, path: str, **parameters: str) -> object:
        url = f"{self._base}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")

    def series(self, expression: str) -> list[dict[str, str]]:
        """The labels of every series that the expression gives now."""
        answer = cast(
            dict[str, list[dict[str, dict[str, str]]]], self.ask("query", query=expression)
        )
        return [series["metric"] for series in answer["result"]]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus beside a daemon that has seen a run learn, skip steps, and fall ill."""
    folder = tmp_path_factory.mktemp("dashboard")
    tool("prometheus")
    state = folder / "state"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        scraped = f"127.0.0.1:{free.getsockname()[1]}"
    sentinel = Path(sys.executable).with_name("sentinel")
    daemon = subprocess.Popen(
        [sentinel, "daemon", "--state", state, "--http", scraped], stdin=subprocess.DEVNULL
    )
    server = Prometheus(folder, scraped)
    try:
        until(lambda: (state / SOCKET_NAME).is_socket(), "the daemon's socket")
        rank = FakeRank(state)
        be_refused(state)
        server.wait()
        for _ in range(3):
            rank.report()
        for _ in range(2):
            rank.report(skipped=1.0, grad_norm=float("inf"), nonfinite_gradient=1.0)
        until(lambda: server.series("sentinel_run_step"), "a first scrape")
        rank.report(skipped=1.0, grad_norm=float("inf"), nonfinite_gradient=1.0)
        yield server
        rank.close()
    finally:
        for process in (server.process, daemon):
            process.kill()
            process.wait()


def be_refused(state: Path) -> None:
    """Say something that no rank may say, and see the connection closed."""
    with connect(UnixAddress(state / SOCKET_NAME), timeout=10.0) as stranger:
        stranger.sendall(b"\0\0\0\1\xc1")
        while stranger.recv(4096):
            pass


def test_every_query_finds_series_with_the_labels_of_its_legend(prometheus: Prometheus) -> None:
    chosen = {"All": str(variables()["run"]["allValue"]), RUN: re.escape(RUN).replace("\\", "\\\\")}

    def failures() -> list[str]:
        found = []
        for title, expression, legend in targets():
            for choice, run in chosen.items():
                labels = prometheus.series(resolve(expression, run))
                wanted = set(re.findall(r"{{\s*(\w+)\s*}}", legend))
                if not labels:
                    found.append(f"{title} ({choice}): no series for {expression}")
                elif any(wanted - one.keys() for one in labels):
                    found.append(f"{title} ({choice}): {labels} lack some of {wanted}")
        return found

    try:
        until(lambda: not failures(), "series for every query", seconds=20)
    except pytest.fail.Exception:
        pytest.fail("\n".join(failures()))


def test_the_run_variable_lists_the_runs(prometheus: Prometheus) -> None:
    query = cast(JSON, variables()["run"]["query"])["query"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", str(query))
    assert found
    until(lambda: prometheus.series(found[1]), "a scrape")
    assert prometheus.ask(f"label/{found[2]}/values", **{"match[]": found[1]}) == [RUN]


def test_a_query_for_another_run_finds_nothing(prometheus: Prometheus) -> None:
    """Every panel about runs must mind which one was chosen."""
    for title, expression, _ in [*targets(), *marks()]:
        if "$run" in expression:
            assert prometheus.series(resolve(expression, "another")) == [], title


def test_annotations_are_queries_that_prometheus_understands(prometheus: Prometheus) -> None:
    """They find nothing as long as nothing is held."""
    for _, expression, _ in marks():
        assert prometheus.series(resolve(expression, ".*")) == []


def test_every_query_that_can_be_limited_to_runs_is() -> None:
    own = ("sentinel_daemon_", "sentinel_build_info")
    for title, expression, _ in [*targets(), *marks()]:
        for metric, rest in re.findall(r"(sentinel_\w+)(\S*)", expression):
            assert metric.startswith(own) or 'run=~"$run"' in rest, f"{title}: {expression}"


def test_everything_reads_from_the_chosen_prometheus() -> None:
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    assert variables()["datasource"]["query"] == "prometheus"
    assert variables()["run"]["datasource"] == wanted
    for panel in panels():
        assert panel["datasource"] == wanted
        assert all(target["datasource"] == wanted for target in cast(list[JSON], panel["targets"]))


def test_panels_have_a_place_a_name_and_a_word_of_help() -> None:
    taken: dict[tuple[int, int], str] = {}
    everything = cast(list[JSON], load()["panels"])
    assert len({str(panel["id"]) for panel in everything}) == len(everything)
    for panel in everything:
        at = cast(dict[str, int], panel["gridPos"])
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
        assert at["x"] + at["w"] <= 24
        for place in [
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]:
            assert taken.setdefault(place, str(panel["title"])) == panel["title"]
