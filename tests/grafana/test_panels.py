"""The dashboards show something: a real Prometheus scrapes a real daemon that watches a run with
every signal, and every expression finds series with every label that its legend names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.daemon.process import eventually
from tests.grafana import everything, reading
from tests.grafana.everything import RUN
from tests.grafana.prometheus import Prometheus
from tests.grafana.reading import NAMES
from tests.package.tools import tool

pytestmark = pytest.mark.timeout(600)


class Scene:
    """What was scraped, and from where."""

    def __init__(self, prometheus: Prometheus, instance: str) -> None:
        self.prometheus = prometheus
        self.instance = instance

    def choices(self, name: str) -> list[dict[str, str]]:
        """See `reading.choices`."""
        return reading.choices(name, RUN, self.instance)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Prometheus beside a daemon that has seen a run learn, fall ill, and be held."""
    folder = tmp_path_factory.mktemp("scene")
    tool("prometheus")
    daemon = everything.daemon_of(folder).start()
    instance = everything.metrics_of(daemon)
    prometheus = Prometheus(folder, instance)
    try:
        prometheus.wait()
        job = everything.play(daemon, instance)
        yield Scene(prometheus, instance)
        job.vanish()
    finally:
        prometheus.end()
        daemon.kill()


def test_every_query_of_every_panel_finds_series_with_the_labels_of_its_legend(
    scene: Scene,
) -> None:
    open_questions = [
        (one, reading.resolved(one.expression, values))
        for name in NAMES
        for values in scene.choices(name)
        for one in reading.asked(name)
    ]
    assert len(open_questions) > 200
    _all_answered(scene, open_questions)


def test_every_query_of_an_annotation_finds_what_it_marks(scene: Scene) -> None:
    open_questions = [
        (one, reading.resolved(one.expression, values))
        for name in NAMES
        for values in scene.choices(name)
        for one in reading.marks(name)
    ]
    assert len(open_questions) > 3
    _all_answered(scene, open_questions)


def _all_answered(scene: Scene, questions: list[tuple[reading.Asked, str]]) -> None:
    """Wait until each has an answer: rates take two scrapes."""
    left = dict.fromkeys(questions, "")

    def look() -> bool:
        for one, expression in [*left]:
            found = scene.prometheus.series(expression)
            if found and all(one.labels <= series.keys() for series in found):
                del left[one, expression]
            else:
                left[one, expression] = f"{one.where}: {expression}: {found[:2]}, {one.labels}"
        return not left

    try:
        eventually(look, "an answer to every query")
    except AssertionError:
        pytest.fail("\n".join(left.values()))


def test_variables_list_what_there_is(scene: Scene) -> None:
    wanted = {"run": [RUN], "instance": [scene.instance]}
    for name in NAMES:
        (variable,) = (v for v in reading.load(name)["templating"]["list"] if v["type"] == "query")
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert found
        assert variable["definition"] == variable["query"]["query"]
        answer = scene.prometheus.ask(f"label/{found[2]}/values", **{"match[]": found[1]})
        assert answer == wanted[variable["name"]]


def test_a_query_for_another_run_or_daemon_finds_nothing(scene: Scene) -> None:
    """Every panel must mind what was chosen. A 0 instead of nothing is no series of a run."""
    for name in NAMES:
        for one in (*reading.asked(name), *reading.marks(name)):
            other = {"run": "another", "instance": "another"}
            found = scene.prometheus.series(reading.resolved(one.expression, other))
            assert found == [] or "or vector(0)" in one.expression, one


def test_every_metric_of_the_daemon_is_on_a_dashboard(scene: Scene) -> None:
    shown = " ".join(one.expression for name in NAMES for one in reading.asked(name))
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in scene.prometheus.names()}
    ours = {name for name in names if name.startswith("sentinel_")}
    assert len(ours) > 100
    assert {name for name in ours if not re.search(rf"\b{name}(_bucket)?\b", shown)} == set()
