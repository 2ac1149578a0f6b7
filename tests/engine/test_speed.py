"""Whichever way numbers are worked out, as floats or as arrays, they are the same."""

from __future__ import annotations

import gc
import math
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.evaluation.scalar import key
from sentinel.engine.language.expression import Reading
from sentinel.engine.layout import Columns, Wanted
from sentinel.engine.rule import Rule
from sentinel.engine.sorted_window import SortedWindow
from sentinel.engine.step import JudgedStep
from sentinel.wire import Extension, Series
from tests.engine import world
from tests.engine.world import Job, steps

NAN, INF = math.nan, math.inf
_NAMES = ("loss", "tokens_per_second", "skipped", "update_norm", "layer_grad_norm/a", "logged/x")
_READINGS = (
    *(Reading(name, by_rank) for name in _NAMES[:4] for by_rank in (False, True)),
    Reading("layer_grad_norm", label="a"),
    Reading("logged", by_rank=True, label="x"),
    Reading("layer_update_ratio", label="a"),
)
_VALUES = st.one_of(st.none(), st.sampled_from([NAN, INF, -INF, -0.0, -1.0]), st.floats(-9, 9))


@given(
    values=st.lists(_VALUES, min_size=len(_NAMES), max_size=len(_NAMES)),
    announced=st.integers(1, 2),
    absent=st.integers(0, 1),
)
def test_the_numbers_of_a_frame_that_is_alone_are_those_of_the_arrays(
    values: list[float | None], announced: int, absent: int
) -> None:
    columns = Columns()
    layout = columns.layout(tuple(world.series(name) for name in _NAMES))
    columns.axes["rank"].add("0")
    pairs = zip(_NAMES, values, strict=True)
    measured = {name: value for name, value in pairs if value is not None}
    frames = {0: (layout, world.frame(1, 1, _NAMES, measured))}
    step = JudgedStep(columns, frames, np.full(len(columns), announced), absent)
    row = step.row(Wanted(_READINGS))
    for reading in _READINGS:
        array, missing = step.read(reading)
        told = None if missing.all() else float(array.reshape(-1)[0])
        assert repr(row.get(key(reading))) == repr(told), reading
    assert repr(dict(step.reduced)) == repr({one: step.number(one) for one in step.reduced})


@given(
    length=st.integers(1, 9),
    values=st.lists(st.one_of(st.floats(-5, 5, width=16), st.sampled_from([0.0, 1e300]))),
)
def test_a_sorted_window_says_the_same_as_its_values(length: int, values: list[float]) -> None:
    window = SortedWindow(length)
    for at, value in enumerate(values):
        window.push(value)
        kept = values[max(0, at + 1 - length) : at + 1]
        center = float(np.median(kept))
        assert list(window) == kept
        assert window.median() == center
        assert window.mad() == pytest.approx(np.median(np.abs(np.array(kept) - center)))
        assert (window.low(), window.high()) == (min(kept), max(kept))
        assert window.quantile(0.3) == pytest.approx(np.quantile(kept, 0.3))


@given(
    length=st.integers(1, 40),
    values=st.lists(st.tuples(st.floats(-5, 5, width=16), st.integers(0, 5))),
)
def test_a_sorted_window_says_the_same_whenever_it_is_asked(
    length: int, values: list[tuple[float, int]]
) -> None:
    """Whether values came one by one or waited, in the order of their arrival where equal."""
    kept: list[float] = []
    window = SortedWindow(length)
    for value, act in values:
        kept = [*kept, value][-length:]
        if act == 0:
            assert repr(window.let_in(value)) == repr(sorted(kept))
            continue
        window.push(value)
        assert len(window) == len(kept)
        if act == 1:
            assert repr(window.ordered()) == repr(sorted(kept))
        elif act == 2:
            assert repr(list(window)) == repr(kept)
        elif act == 3:
            window = window.copy()
    assert repr(window.ordered()) == repr(sorted(kept))


def test_a_block_of_values_that_jumps_is_found_again() -> None:
    window = SortedWindow(201)
    for at in range(2_000):
        window.push(float(at % 2) * 1e6 + at)
        kept = np.array(list(window))
        assert window.mad() == pytest.approx(np.median(np.abs(kept - np.median(kept))))


_LOSSES = [2.0 + 0.1 * (-1) ** at for at in range(40)]


def _z(expr: str = "robust_z(by_rank(loss), window=32) > 6") -> list[Rule]:
    return [world.rule(expr, "Z", keeps=steps(0))]


def test_what_is_known_of_one_rank_is_kept_when_a_second_one_comes() -> None:
    job = Job(
        _z("robust_z(by_rank(loss), window=32) > 6 and by_rank(loss) > max(loss[32])"), ["loss"], 1
    )
    for step, loss in enumerate(_LOSSES, start=1):
        assert job.step(step, {"loss": loss}) == []
    job.world_size = 2
    job._names[1], job._sequence[1] = ["loss"], 0
    job.hello(0)
    job.hello(1)
    told = job.step(41, {"loss": 2.0}, {0: {"loss": 9.0}})
    assert [(one.state, one.labels) for one in world.alerts(told)] == [("firing", {"rank": "0"})]


def test_one_rank_that_goes_back_to_when_it_was_alone_takes_up_its_history() -> None:
    job = Job(_z(), ["loss"], 1)
    for step in range(1, 121):
        assert job.step(step, {"loss": _LOSSES[step % 2]}) == []
    job.world_size = 2
    job._names[1], job._sequence[1] = ["loss"], 0
    job.hello(0)
    job.hello(1)
    job.step(121, {"loss": 2.0})
    told = job.step(102, {"loss": 2.0}, {0: {"loss": 9.0}})
    assert [(one.state, one.labels) for one in world.alerts(told)] == [("firing", {"rank": "0"})]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    "score", ["robust_z(loss, window=32)", "robust_z(by_rank(loss), window=32)"]
)
def test_a_rule_learns_while_what_else_it_asks_for_is_not_announced(
    world_size: int, score: str
) -> None:
    job = Job(_z(f"{score} > 6 and tokens_per_second > 0"), ["loss"], world_size)
    for step, loss in enumerate(_LOSSES, start=1):
        job.step(step, {"loss": loss})
    for rank in range(world_size):
        job.engine.feed(rank, Extension((Series("tokens_per_second"),)), job.now)
        job._names[rank] = ["loss", "tokens_per_second"]
    told = job.step(41, {"loss": 9.0, "tokens_per_second": 1.0})
    assert {one.state for one in world.alerts(told)} == {"firing"}


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_memory_that_fails_switches_off_the_rules_that_ask_for_it(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("update", "learn"):
        monkeypatch.setattr(f"sentinel.engine.detectors.robust_z.RobustZ.{method}", _fail)
    rules = [
        world.rule("robust_z(loss, window=32) > 6 and loss > 1", "Z"),
        world.rule("not missing(mean(loss[4])) and robust_z(loss, window=32) > 9", "Both"),
        world.rule("loss > mean(loss[4])", "Sound"),
    ]
    job = Job(rules, ["loss"], world_size)
    for step in range(1, 7):
        job.step(step, {"loss": float(step)})
    assert set(job.engine.rule_errors) == {"Z", "Both"}
    assert {one.rule for one in world.alerts(job.told)} == {"Sound"}


def _fail(self: object, value: float) -> float:
    raise RuntimeError("a detector's fault")


_PACK = [
    *world.default_rules(),
    *_z("robust_z(by_rank(loss), window=32) > 4"),
    world.rule('loss > 1.05 * median(loss[32]) or layer_grad_norm["a"] > 3', "Level"),
]


def test_a_rank_that_waits_for_nobody_is_judged_as_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("loss", "grad_norm", "skipped", "layer_grad_norm/a")
    noise = random.Random(3)
    rows = [
        {
            "loss": noise.choice([2.0, 2.1, 2.05, 9.0, NAN]) if noise.random() < 0.05 else 2.0,
            "grad_norm": 1.0 + 0.1 * noise.random(),
            "skipped": float(noise.random() < 0.01),
            "layer_grad_norm/a": noise.uniform(0, 10),
        }
        for _ in range(400)
    ]
    for row in rows[::7]:
        del row[noise.choice(names)]
    steps_of = [*range(1, 301), *range(180, 280)]

    def told() -> list[object]:
        job = Job(_PACK, names, 1)
        for step, row in zip(steps_of, rows, strict=True):
            job.step(step, row)
        return [*job.told, job.engine.skipped, job.engine.coverage(), dict(job.engine.latest)]

    directly = told()
    monkeypatch.setattr("sentinel.engine.roster.Roster.waits_for_none", False)
    assert repr(told()) == repr(directly)
    assert len(directly) > 20


def test_an_adopted_alert_of_a_rule_that_is_asleep_resolves() -> None:
    rules = [world.rule("loss > 5 and tokens_per_second > 0", "Asleep")]
    before = Job(rules, ["loss", "tokens_per_second"], 1)
    told = before.step(1, {"loss": 9.0, "tokens_per_second": 1.0})
    after = Job(rules, ["loss"], 1)
    after.engine.adopt(world.open_incident(told))
    assert [one.state for one in world.alerts(after.step(2, {"loss": 9.0}))] == []
    assert [one.state for one in world.alerts(after.step(3, {"loss": 1.0}))] == ["resolved"]


@pytest.mark.parametrize(("world_size", "names"), [(1, ["loss", "grad_norm"]), (3, _NAMES)])
def test_memory_does_not_grow_once_windows_are_full(
    world_size: int, names: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinel.engine.snapshot.EVERY", 10)
    monkeypatch.setattr("sentinel.engine.snapshot.MOST", 1)  # as many as there will ever be
    rules = [*world.default_rules(), *_z()]
    job = Job(rules, list(names), world_size)
    step = 0

    def advance(count: int) -> None:
        nonlocal step
        for _ in range(count):
            step += 1
            job.step(step, dict.fromkeys(names, 1.0 + 0.1 * (-1) ** step + 1e-4 * (step % 7)))
        job.told.clear()

    tracemalloc.start()
    try:
        advance(500)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        advance(300)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 300 * 16  # one object more at each step would be more than this
