"""How the frames of one step become one number for each series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.language.expression import Reading
from sentinel.engine.layout import Columns, Layout, Wanted
from sentinel.engine.step import JudgedStep
from sentinel.signals import CATALOG, Reduction
from sentinel.wire import Extension, Frame, Series
from tests.engine import world

NAN, INF = math.nan, math.inf
NAMES = ("loss", "tokens_per_second", "skipped", "layer_grad_norm/a", "layer_grad_norm/b")


def _judged(*ranks: world.Measured, lost: int = 0, absent: int = 0) -> JudgedStep:
    """A step of ranks that announce the same; `lost` more of them did not report."""
    columns = Columns()
    layout = columns.layout(tuple(world.series(name) for name in NAMES))
    for rank in range(len(ranks) + lost):
        columns.axes["rank"].add(str(rank))
    frames = {slot: (layout, world.frame(1, 1, NAMES, own)) for slot, own in enumerate(ranks)}
    announced = np.full(len(columns), len(ranks) + lost, np.intp)
    with np.errstate(all="ignore"):
        return JudgedStep(columns, frames, announced, absent)


def _of(step: JudgedStep, name: str) -> float | None:
    return step.reduced.get(world.series(name))


def test_each_signal_is_reduced_as_the_catalog_says() -> None:
    step = _judged(
        {"loss": 1.0, "tokens_per_second": 10.0, "skipped": 0.0, "layer_grad_norm/a": 9.0},
        {"loss": 2.0, "tokens_per_second": 20.0, "skipped": 1.0, "layer_grad_norm/a": 16.0},
    )
    assert {name: _of(step, name) for name in NAMES} == {
        "loss": 1.5,
        "tokens_per_second": 30.0,
        "skipped": 1.0,
        "layer_grad_norm/a": 5.0,
        "layer_grad_norm/b": None,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_measured_nan_is_not_hidden_by_the_others(name: str) -> None:
    step = _judged({name: 1.0}, {name: NAN}, {name: 2.0})
    assert math.isnan(_of(step, name) or 0.0)


def test_what_was_not_measured_is_left_out_of_means_sums_and_maxima() -> None:
    step = _judged({"loss": 1.0, "tokens_per_second": 5.0}, {"skipped": -1.0}, {"loss": 3.0})
    assert [_of(step, name) for name in NAMES[:3]] == [2.0, 5.0, -1.0]


def test_a_norm_that_lacks_a_shard_is_missing() -> None:
    whole = {"layer_grad_norm/a": 9.0, "loss": 1.0}
    assert _of(_judged(whole, whole), "layer_grad_norm/a") == math.sqrt(18)
    assert _of(_judged(whole, {"loss": 1.0}), "layer_grad_norm/a") is None
    assert _of(_judged(whole, lost=1), "layer_grad_norm/a") is None
    assert _of(_judged(whole, absent=1), "layer_grad_norm/a") is None
    assert _of(_judged(whole, lost=1, absent=1), "loss") == 1.0


def test_a_number_does_not_depend_on_who_came_first() -> None:
    columns = Columns()
    layout = columns.layout((Series("loss"),))
    frames = {
        slot: (layout, world.frame(1, 1, ["loss"], {"loss": loss}))
        for slot, loss in enumerate((1e16, 1.0, -1e16, 3.0))
    }
    orders = (frames, dict(reversed(frames.items())), {at: frames[at] for at in (0, 2, 1, 3)})
    assert len({_loss(columns, order) for order in orders}) == 1


def _loss(columns: Columns, frames: dict[int, tuple[Layout, Frame]]) -> float:
    return JudgedStep(columns, frames, np.ones(1, np.intp), 0).reduced[Series("loss")]


def test_what_this_version_does_not_know_is_passed_over() -> None:
    columns = Columns()
    series = (
        Series("future", "x"),
        Series("loss", "label?"),
        Series("lr"),
        Series("layer_grad_norm"),
        Series("silence"),
        Series("loss"),
    )
    layout = columns.layout(series)
    values = np.arange(1.0, 7.0).astype("<f8").tobytes()
    frame = Frame(1, 1, 0.0, values, missing=bytes([0b000011]))
    columns.axes["rank"].add("0")
    step = JudgedStep(columns, {0: (layout, frame)}, np.ones(len(columns), np.intp), 0)
    assert step.reduced == {Series("lr"): 3.0, Series("loss"): 6.0}
    own = Wanted(Reading(name, by_rank=True) for name in ("loss", "lr", "silence", "skipped"))
    assert layout.row(frame, own) == {"lr": 3.0, "loss": 6.0}


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("read_before", [True, False])
def test_a_step_has_nothing_of_what_is_announced_after_it(
    world_size: int, read_before: bool
) -> None:
    job = world.Job([], ["loss", "layer_grad_norm/a"], world_size=world_size)
    job.step(1, {"loss": 1.0, "layer_grad_norm/a": 4.0})
    step = job.engine.recent.last
    assert step is not None
    if read_before:
        assert not step.arrays.missing.any()
    more = tuple(
        map(world.series, ("layer_grad_norm/b", "lr", "summed_grad_norm", "layer_adam_rms/a"))
    )
    job.engine.feed(0, Extension(more), job.now)
    norms = step.read(Reading("layer_grad_norm"))
    assert norms.missing.tolist() == [False, True]
    assert norms.values[0] == 2.0 * math.sqrt(world_size)
    assert step.read(Reading("layer_adam_rms")).missing.all()
    assert step.read(Reading("lr")).missing
    assert [step.number(one) for one in more] == [None] * 4
    assert step.number(Series("loss")) == 1.0
    assert step.all.keys() == {Series("loss"), Series("layer_grad_norm", "a")}


def test_ranks_with_other_series_meet_in_the_same_columns() -> None:
    columns = Columns()
    names = (("loss", "layer_grad_norm/a"), ("layer_grad_norm/b", "loss"), ("lr",))
    frames: dict[int, tuple[Layout, Frame]] = {}
    for rank, own in enumerate(names):
        columns.axes["rank"].add(str(rank))
        layout = columns.layout(tuple(world.series(name) for name in own))
        frames[rank] = (layout, world.frame(1, 1, own, dict.fromkeys(own, rank + 2.0)))
    announced = np.array([2, 1, 1, 1], np.intp)
    step = JudgedStep(columns, frames, announced, 0)
    assert step.reduced == {
        Series("loss"): 2.5,
        Series("layer_grad_norm", "a"): math.sqrt(2),
        Series("layer_grad_norm", "b"): math.sqrt(3),
        Series("lr"): 4.0,
    }
    values, missing = step.read(Reading("layer_grad_norm", by_rank=True))
    assert np.where(missing, -1, values).tolist() == [[2.0, -1, -1], [-1, 3.0, -1]]
    values, missing = step.read(Reading("loss", by_rank=True))
    assert np.where(missing, -1, values).tolist() == [2.0, 3.0, -1]
    assert step.read(Reading("grad_norm")).missing
    assert step.read(Reading("grad_norm", by_rank=True)).missing.tolist() == [True] * 3


_VALUES = st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([NAN, INF, -INF, 0.0]))


@given(
    ranks=st.lists(
        st.lists(_VALUES, min_size=len(NAMES), max_size=len(NAMES)), min_size=1, max_size=5
    )
)
def test_reductions_agree_with_a_plain_account(ranks: list[list[float | None]]) -> None:
    own = [
        {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}
        for values in ranks
    ]
    step = _judged(*own)
    for name in NAMES:
        known = [values[name] for values in own if name in values]
        whole = len(known) == len(own)
        assert _of(step, name) == pytest.approx(_plain(name, known, whole), nan_ok=True), name


def _plain(name: str, known: list[float], whole: bool) -> float | None:
    reduction = CATALOG[name.split("/")[0]].reduction
    if not known or (reduction is Reduction.ROOT_SUM and not whole):
        return None
    if any(math.isnan(value) for value in known):
        return NAN
    if reduction is Reduction.MAX:
        return max(known)
    total = NAN if {INF, -INF} <= set(known) else sum(known)
    if reduction is Reduction.MEAN:
        return total / len(known)
    if reduction is Reduction.SUM:
        return total
    return math.sqrt(total) if total >= 0 else NAN
