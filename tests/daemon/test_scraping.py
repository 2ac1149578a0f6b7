"""How `/metrics` is put together: what is kept from scrape to scrape, and what is ranked."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as read_text

from sentinel.daemon import metrics
from sentinel.daemon.covering import INTERVAL, Covering
from sentinel.daemon.metrics import Exposition
from sentinel.daemon.metrics.families import OWN
from sentinel.daemon.metrics.form import Form
from sentinel.daemon.metrics.of_signals import SignalsOfRun
from sentinel.daemon.metrics.page import TEXT, Page
from sentinel.daemon.metrics.ranking import ranked
from sentinel.daemon.place import own_address
from sentinel.daemon.service import Service, Settings
from sentinel.engine.evaluation.values import Values
from sentinel.engine.spread import spread
from sentinel.wire import Extension, Series
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import eventually
from tests.engine.world import Job

NAN, INF = math.nan, math.inf
FAMILIES = tuple(OWN.values())[:2]
numbers = st.sampled_from((NAN, INF, -INF, 0.0, -1.0, 2.0)) | st.floats(-1e9, 1e9)


# Texts with blanks.


def test_a_form_fills_all_blanks_of_all_families_again_and_again() -> None:
    one, other = FAMILIES
    form = Form([(one, ("a ", "")), (one, ("b ", " c ", "")), (other, ("d ", ""))])
    for first in ("1", "9"):
        page = Page()
        form.fill(page, [first, "2", "3", "4"])
        assert page.lines(one) == [f"a {first}\nb 2 c 3"]
        assert page.lines(other) == ["d 4"]
    with pytest.raises(ValueError, match="sequence"):
        form.fill(Page(), ["1"])


def test_a_form_without_samples_adds_nothing() -> None:
    page = Page()
    Form([]).fill(page, [])
    assert page.text(TEXT) == b""


# Rankings and statistics, against a plain account of them.


@given(
    st.integers(1, 6).flatmap(
        lambda width: st.lists(
            st.lists(numbers | st.none(), min_size=width, max_size=width).filter(any_measured),
            max_size=4,
        )
    ),
    st.integers(0, 7),
)
def test_the_greatest_come_first_with_nan_before_all(
    lines: list[list[float | None]], most: int
) -> None:
    found = {f"signal {at}": _values(line) for at, line in enumerate(lines)}
    seen = dict(ranked(found, most))
    assert seen.keys() == found.keys()
    for line, one in zip(lines, (seen[name] for name in found), strict=True):
        known = [value for value in line if value is not None]
        descending = sorted(known, key=lambda value: (math.isnan(value), value), reverse=True)
        assert one.of == len(known)
        np.testing.assert_equal(one.greatest, descending[:most])
        np.testing.assert_equal([line[at] for at in one.places], one.greatest)
        assert len(set(one.places)) == len(one.places)
        with np.errstate(all="ignore"):
            median = np.median(known)
        np.testing.assert_allclose(one.statistics, [descending[0], median], rtol=1e-12)


def any_measured(line: list[float | None]) -> bool:
    return any(value is not None for value in line)


def _values(line: list[float | None]) -> Values:
    missing = np.array([value is None for value in line])
    return Values(np.array([NAN if value is None else value for value in line]), missing)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(("loss", "lr", "grad_norm")), numbers | st.none()),
        min_size=1,
        max_size=4,
    )
)
def test_a_spread_is_that_of_the_ranks_that_measured(
    ranks: list[Mapping[str, float | None]],
) -> None:
    job = Job([], {rank: [*own] for rank, own in enumerate(ranks)}, world_size=len(ranks))
    for rank, own in enumerate(ranks):
        job.frame(rank, 1, {name: value for name, value in own.items() if value is not None})
    step = job.engine.recent.last
    assert step is not None
    found = spread(step)
    names = [step.columns.series[column].signal for column in found.columns.tolist()]
    known = {name for own in ranks for name, value in own.items() if value is not None}
    assert set(names) == known
    for at, name in enumerate(names):
        of_rank = {rank: own[name] for rank, own in enumerate(ranks) if own.get(name) is not None}
        values = np.array([*of_rank.values()], float)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(found.mean[at], values.mean(), rtol=1e-12)
        np.testing.assert_equal(found.least[at], values.min())
        np.testing.assert_equal(found.greatest[at], values.max())
        np.testing.assert_equal(of_rank[int(found.slots[at])], values.max())


# What is kept.


def test_what_is_announced_after_a_step_is_shown_from_the_next_one_on() -> None:
    job = Job([], ["loss", "layer_grad_norm/a"], world_size=1)
    job.step(1, {"loss": 1.0, "layer_grad_norm/a": 4.0})
    signals = SignalsOfRun("run", job.engine, 8)
    assert _layers(signals, job) == {"a": 2.0}
    job.engine.feed(0, Extension((Series("layer_grad_norm", "b"), Series("lr"))), job.now)
    assert _layers(SignalsOfRun("run", job.engine, 8), job) == {"a": 2.0}
    assert _layers(signals, job) == {"a": 2.0}
    job._names[0] += ["layer_grad_norm/b", "lr"]
    job.step(2, {"loss": 1.0, "layer_grad_norm/a": 4.0, "layer_grad_norm/b": 9.0, "lr": 1.0})
    assert _layers(signals, job) == {"a": 2.0, "b": 3.0}


def _layers(signals: SignalsOfRun, job: Job) -> dict[str, float]:
    page = Page()
    signals.add(page, job.now)
    families = read_text(page.text(TEXT).decode())
    samples = [one for family in families for one in family.samples]
    return {one.labels["layer"]: one.value for one in samples if "layer" in one.labels}


def test_a_step_is_told_anew_once_what_was_made_is_too_old() -> None:
    job = Job([], ["layer_grad_norm/a"], world_size=1)
    job.step(1, {"layer_grad_norm/a": 4.0})
    signals = SignalsOfRun("run", job.engine, 8)
    page = Page()
    signals.add(page, job.now)
    job.step(2, {"layer_grad_norm/a": 9.0})

    def told(after: float, keep: float) -> list[str]:
        page = Page()
        signals.add(page, job.now + after, keep)
        return [line for line in page.text(TEXT).decode().splitlines() if "layer=" in line]

    assert [line[-3:] for line in told(5.0, 10.0)] == ["2.0"]
    assert [line[-3:] for line in told(11.0, 10.0)] == ["3.0"]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(Settings(tmp_path / "state", rules=()))
    await service.open()
    yield service
    await service.close()


async def _until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, condition)


async def _step(service: Service, jobs: list[FakeJob], loss: float) -> None:
    for job in jobs:
        await asyncio.to_thread(job.train, {0: {"loss": loss}})
    names = {job.ranks[0].run: job.step for job in jobs}
    await _until(lambda: all(service.runs[name].engine.step == at for name, at in names.items()))


async def _losses(exposition: Exposition) -> list[tuple[float, float]]:
    """The step of each run and its loss."""
    text = (await exposition.text(TEXT)).decode()
    found = {family.name: family.samples for family in read_text(text)}
    steps = [one.value for one in found["sentinel_run_step"]]
    losses = [one.value for one in found["sentinel_loss"] if one.labels["stat"] == "mean"]
    return [*zip(steps, losses, strict=True)]


async def test_the_steps_of_many_runs_are_prepared_between_scrapes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = own_address(service.settings.state_dir)
    jobs = [
        await asyncio.to_thread(FakeJob(place, run=name, ranks=1).connect) for name in ("a", "b")
    ]
    exposition = Exposition(service)
    await _step(service, jobs, 1.0)
    assert await _losses(exposition) == [(1, 1.0), (1, 1.0)]
    await _step(service, jobs, 2.0)
    assert await _losses(exposition) == [(2, 2.0), (2, 2.0)]  # of few runs at once

    monkeypatch.setattr(metrics, "FEW", 1)
    monkeypatch.setattr(metrics, "ROUND", 1000.0)
    assert await _losses(exposition) == [(2, 2.0), (2, 2.0)]
    await _step(service, jobs, 3.0)
    assert await _losses(exposition) == [(3, 2.0), (3, 2.0)]
    exposition.prepare("b")
    exposition.prepare("no run")
    assert await _losses(exposition) == [(3, 2.0), (3, 3.0)]


async def test_nothing_is_prepared_once_nobody_scrapes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    prepare = Exposition.prepare

    def noted(exposition: Exposition, name: str) -> None:
        prepared.append(name)
        prepare(exposition, name)

    monkeypatch.setattr(Exposition, "prepare", noted)
    monkeypatch.setattr(metrics, "FEW", 1)
    monkeypatch.setattr(metrics, "ROUND", 0.02)
    place = own_address(service.settings.state_dir)
    for name in ("a", "b", "c"):
        await asyncio.to_thread(FakeJob(place, run=name, ranks=1).connect)
    exposition = Exposition(service)
    assert prepared == []
    await exposition.text(TEXT)
    await _until(lambda: len(prepared) >= 7)
    assert prepared[:6] == ["a", "b", "c"] * 2
    monkeypatch.setattr(metrics, "SCRAPED_WITHIN", 0.0)
    await _until(lambda: not exposition.prepares)
    count = len(prepared)
    monkeypatch.setattr(metrics, "SCRAPED_WITHIN", 1000.0)
    await asyncio.sleep(0.1)  # five rounds
    assert len(prepared) == count
    await exposition.text(TEXT)
    await _until(lambda: len(prepared) > count + 3)


async def test_what_can_be_seen_stays_the_same_object_while_it_does_not_change(
    service: Service,
) -> None:
    place = own_address(service.settings.state_dir)
    job = await asyncio.to_thread(FakeJob(place, ranks=1).connect)
    await _step(service, [job], 1.0)
    run, covering = service.runs["run"], Covering()
    covering.settled(covering.due([run], 0.0))
    before = run.seen
    await _step(service, [job], 1.0)
    assert covering.due([run], 2 * INTERVAL) == []
    assert before is not None
    assert run.seen is not None
    assert (run.seen.step, before.step) == (2, 1)
    assert run.seen.signals is before.signals
    assert run.seen.rules is before.rules
