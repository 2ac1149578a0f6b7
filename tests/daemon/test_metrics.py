"""What Prometheus is told: names, HELP, values, bounds, and what is left out."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

import pytest
from msgspec import structs
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text

from sentinel import wire
from sentinel.daemon.metrics.families import OWN
from sentinel.daemon.metrics.of_signals import (
    MAX_LABELS,
    MAX_SERIES,
    OF_SIGNALS,
    STALE,
    SignalsOfRun,
)
from sentinel.daemon.metrics.page import OPENMETRICS, TEXT, Page, escaped
from sentinel.signals import CATALOG
from sentinel.signals.exposition import MOST_LAYERS, metric_name, stats
from tests.daemon.fake_job import FakeRank, Register
from tests.daemon.process import Daemon, eventually
from tests.engine.world import Job, frame, hello

NAN, INF = float("nan"), float("inf")
RANKS = 2


def shown(job: Job, *, layers: int = 8, after: float = 0.0) -> dict[str, float]:
    """The samples of a run's signals, without the label of the run."""
    page = Page()
    SignalsOfRun("run", job.engine, layers).add(page, job.now + after)
    samples = {}
    for line in page.text(TEXT).decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name.replace('run="run",', "").replace('{run="run"}', "")] = float(value)
    return samples


# Names and HELP.


def test_names_keep_the_conventions_of_prometheus() -> None:
    families = [*OWN.values(), *OF_SIGNALS.values()]
    names = [one.name for one in families]
    assert len(set(names)) == len(names)
    for one in families:
        assert re.fullmatch(r"sentinel_[a-z0-9]+(_[a-z0-9]+)*", one.name)
        assert one.name.endswith("_total") is (one.kind == "counter"), one.name
        assert not one.name.endswith(("_count", "_sum", "_bucket", "_milliseconds", "_percent"))
        assert one.help.endswith(".")
        assert "\n" not in one.help
        assert not set(one.labels) & {"le", "quantile", "job", "instance"}


@pytest.mark.parametrize("name", CATALOG)
def test_a_signal_has_its_unit_in_its_name_and_what_the_catalog_says_in_its_help(name: str) -> None:
    signal, family = CATALOG[name], OF_SIGNALS[name]
    suffix = {"s": "seconds", "B": "bytes", "W": "watts", "C": "celsius", "Hz": "hertz"}
    assert family.name.endswith(suffix.get(signal.unit, ""))
    assert family.help.lower().startswith(signal.help.lower())
    assert f"Unit: {suffix.get(signal.unit, '')}" in family.help
    assert signal.label in family.help


# Values.


def test_over_ranks_there_are_mean_least_and_greatest_with_its_rank() -> None:
    job = Job([], ["loss", "tokens_per_second", "summed_grad_norm"])
    own = {0: {"loss": 1.0, "tokens_per_second": 10.0}, 1: {"loss": 4.0, "tokens_per_second": 5.0}}
    job.step(1, {"summed_grad_norm": 8.0}, own)
    found = shown(job)
    del found["sentinel_run_series_left_out"]
    assert found == {
        'sentinel_loss{stat="mean"}': 2.5,
        'sentinel_loss{stat="min"}': 1.0,
        'sentinel_loss{stat="max",rank="1"}': 4.0,
        'sentinel_tokens_per_second{stat="mean"}': 7.5,
        'sentinel_tokens_per_second{stat="min"}': 5.0,
        'sentinel_tokens_per_second{stat="max",rank="0"}': 10.0,
        'sentinel_tokens_per_second{stat="sum"}': 15.0,
        'sentinel_summed_grad_norm{stat="norm"}': 4.0,
    }


def test_nan_is_told_as_nan_and_as_whose_it_is() -> None:
    job = Job([], ["loss", "lr"], world_size=3)
    job.step(1, {"loss": 1.0, "lr": INF}, {1: {"loss": NAN}, 2: {"loss": INF}})
    found = shown(job)
    assert all(math.isnan(found[f'sentinel_loss{{stat="{one}"}}']) for one in ("mean", "min"))
    assert math.isnan(found['sentinel_loss{stat="max",rank="1"}'])
    assert found['sentinel_lr{stat="mean"}'] == INF


def test_what_no_rank_measured_is_absent_and_who_did_not_counts_for_nothing() -> None:
    job = Job([], {0: ["loss", "lr"], 1: ["lr"]})
    job.frame(0, 1, {"loss": 3.0})
    job.frame(1, 1, {})
    found = shown(job)
    assert found['sentinel_loss{stat="mean"}'] == found['sentinel_loss{stat="min"}'] == 3.0
    assert found['sentinel_loss{stat="max",rank="0"}'] == 3.0
    assert not [name for name in found if name.startswith("sentinel_lr")]


def test_labels_are_bounded_to_the_worst_with_statistics_over_all() -> None:
    names = [f"layer_grad_norm/blocks.{at}" for at in range(20)]
    job = Job([], names, world_size=1)
    job.step(1, {name: float(at) ** 2 for at, name in enumerate(names)})
    found = shown(job, layers=2)
    assert found.pop("sentinel_run_series_left_out") == 0
    assert found == {
        'sentinel_layer_grad_norm{stat="max"}': 19.0,
        'sentinel_layer_grad_norm{stat="median"}': 9.5,
        'sentinel_layer_grad_norm{layer="blocks.19"}': 19.0,
        'sentinel_layer_grad_norm{layer="blocks.18"}': 18.0,
    }
    assert len(shown(job, layers=0)) == 3
    job.step(2, {name: NAN if at == 3 else INF for at, name in enumerate(names)})
    found = shown(job, layers=1)
    assert math.isnan(found['sentinel_layer_grad_norm{layer="blocks.3"}'])
    assert math.isnan(found['sentinel_layer_grad_norm{stat="median"}'])


def test_the_series_of_a_run_have_a_bound_whatever_it_announces() -> None:
    layers = [f"{of}/l{at}" for of in CATALOG for at in range(300) if CATALOG[of].label == "layer"]
    tensors = [f"{s}/t{at}" for s in CATALOG for at in range(300) if CATALOG[s].label == "tensor"]
    logged = [f"logged/own {at}" for at in range(MAX_LABELS + 5)]
    names = [one for one in (*layers, *tensors, *logged) if "update_ratio" not in one]
    job = Job([], names, world_size=1)
    job.step(1, dict.fromkeys(names, 1.0))
    found = shown(job, layers=MOST_LAYERS)
    elements = [name for name in found if "stat=" not in name]
    assert len(elements) - 1 == MAX_SERIES
    assert found["sentinel_run_series_left_out"] > 1000


def test_a_signal_that_is_measured_at_some_steps_is_shown_until_it_is_due_again() -> None:
    job = Job([], ["loss", "lr", "layer_update_norm/head"], greet=False)
    for rank in range(RANKS):
        message = hello(rank, RANKS, ["loss", "lr", "layer_update_norm/head"])
        every = {"lr": 3, "layer_update_norm": 3}
        job.engine.feed(rank, structs.replace(message, every=every), job.now)
    job.step(1, {"loss": 1.0, "lr": 7.0, "layer_update_norm/head": 2.0})
    for step in (2, 3, 4):
        found = shown(job)
        assert found['sentinel_lr{stat="max",rank="0"}'] == 7.0
        assert found['sentinel_layer_update_norm{layer="head"}'] == 2.0
        job.step(step, {"loss": 1.0})
    assert not [name for name in shown(job) if "lr" in name or "layer" in name]


def test_what_was_measured_long_ago_is_not_told_as_if_it_were_now() -> None:
    job = Job([], ["loss", "step_seconds"])
    job.step(1, {"loss": 1.0, "step_seconds": 1.0})
    assert 'sentinel_loss{stat="mean"}' in shown(job, after=STALE - 1)
    assert 'sentinel_loss{stat="mean"}' not in shown(job, after=STALE + 1)
    job.step(2, {"loss": 1.0, "step_seconds": STALE})  # whose steps take that long anyway
    assert 'sentinel_loss{stat="mean"}' in shown(job, after=2 * STALE)


def test_what_the_engine_knows_is_told_by_the_clock() -> None:
    job = Job([], ["loss"])
    job.step(1, {"loss": 1.0})
    job.tick(3.0)
    job.frame(1, 2, {"loss": 1.0})
    job.tick(2.0)
    found = shown(job)
    assert found['sentinel_silence_seconds{stat="max",rank="0"}'] == pytest.approx(5.0)
    assert found['sentinel_silence_seconds{stat="min"}'] == pytest.approx(2.0)
    assert found['sentinel_lost{stat="mean"}'] == 0.0


# The whole, from a real daemon.


class Everything(FakeRank):
    """A rank that measures all that there is."""

    names = tuple(
        f"{name}/{label}" if label else name
        for name, signal in CATALOG.items()
        if signal.made_by == "rank"
        for label in ((f'{signal.label} "a\\b"', f"{signal.label} é") if signal.label else ("",))
    )

    def hello(self) -> wire.Hello:
        """See `FakeRank`."""
        said = hello(self.rank, self.world_size, self.names, run=self.run)
        return structs.replace(said, incarnation=self.incarnation)

    def measure(self) -> None:
        """A step with a value for everything, one of them NaN."""
        self.step += 1
        values = {name: 1.0 + at for at, name in enumerate(self.names)} | {"loss": NAN}
        self.send(frame(self.step, self.step, self.names, values))


def test_a_scrape_with_every_signal_is_what_prometheus_takes_in_both_formats(
    shared: Daemon,
) -> None:
    daemon = shared
    name = 'odd "name" \\ é'
    ranks = [
        Everything(daemon.place, Register(), run=name, rank=rank, world_size=RANKS)
        for rank in range(RANKS)
    ]
    for rank in ranks:
        rank.connect()
    for rank in ranks:
        rank.measure()
    judged = f'sentinel_run_step{{run="{escaped(name)}"}}'
    eventually(lambda: daemon.metrics().get(judged) == 1)
    eventually(lambda: b"sentinel_silence_seconds{" in daemon.get("/metrics")[1], "a tick")
    text = daemon.get("/metrics")[1]
    families = {family.name: family for family in read_text(text.decode())}
    for signal in CATALOG.values():
        if signal.name in ("collective_hang", "last_good_at_risk", "last_good_gone"):
            continue  # known only of runs that have groups, or checkpoints
        family = families[metric_name(signal)]
        found = {sample.labels.get("stat") for sample in family.samples}
        assert found >= set(stats(signal)), signal.name
        assert all(sample.labels["run"] == name for sample in family.samples)
        greatest = [s.labels for s in family.samples if "rank" in s.labels]
        assert len(greatest) == (not signal.label and len(stats(signal)) > 1), signal.name
    ranked = {s.name for f in families.values() for s in f.samples if "rank" in s.labels}
    assert ranked <= {family.name for family in OF_SIGNALS.values()}

    status, answer = daemon.request("GET", "/metrics", Accept="application/openmetrics-text")
    assert status == 200
    again = {family.name: family.type for family in read_openmetrics(answer.decode())}  # type: ignore[no-untyped-call]
    assert again.keys() == {one.removesuffix("_total") for one in families}
    assert again["sentinel_daemon_frames"] == "counter"

    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_run_that_has_ended_has_no_signals_any_more(shared: Daemon) -> None:
    daemon = shared
    rank = Everything(daemon.place, Register())
    rank.connect()
    rank.measure()
    eventually(lambda: 'sentinel_lr{run="run",stat="mean"}' in daemon.metrics())
    rank.send(wire.Goodbye("finished"))
    rank.close()
    ended = 'sentinel_run_state{run="run",state="finished"}'
    eventually(lambda: daemon.metrics()[ended] == 1)
    left = daemon.metrics()
    assert not [name for name in left if 'run="run",stat=' in name]
    assert left['sentinel_run_step{run="run"}'] == 1


def test_both_formats_say_what_they_are() -> None:
    page = Page()
    page.add(OWN["sentinel_daemon_faults_total"], 2)
    assert "# TYPE sentinel_daemon_faults_total counter" in page.text(TEXT).decode()
    text = page.text(OPENMETRICS).decode()
    assert "# TYPE sentinel_daemon_faults counter" in text
    assert text.endswith("\nsentinel_daemon_faults_total 2\n# EOF\n")
