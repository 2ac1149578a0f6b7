"""What expressions mean, over all labels at once and over one rank's own values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine import window
from sentinel.engine.evaluation import across_ranks, elementwise, scalar
from sentinel.engine.evaluation.memory import Past, Room, Scores
from sentinel.engine.evaluation.operators import Graph
from sentinel.engine.evaluation.values import Operator, Values
from sentinel.engine.language.expression import (
    WARM,
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Either,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    Reading,
    Score,
)
from sentinel.engine.language.parse import parse
from sentinel.engine.window import Floats

NAN, INF = math.nan, math.inf


class Told:
    """A step at which these values were measured; what is not named was missing."""

    def __init__(self, values: Mapping[Reading, Floats | float]) -> None:
        self._values = values

    def read(self, reading: Reading) -> Values:
        values = self._values.get(reading)
        if values is None:
            return Values(np.asarray(7.0), np.asarray(True))
        array = np.asarray(values, float)
        missing = np.full(array.shape, False)
        if array.ndim:  # in arrays, 999 stands for what is missing
            missing = array == 999
        return Values(array, missing)


def _holds(text: str, values: Mapping[str, float | Sequence[float]]) -> object:
    """True, false or None (missing) of a condition without state, or lists of these."""
    measured = {_reading(name): np.asarray(value, float) for name, value in values.items()}
    with np.errstate(all="ignore"):
        true, missing = Graph().condition(parse(text).root)(Told(measured))
    both = np.where(missing, None, np.asarray(true).astype(object))  # type: ignore[call-overload]
    return both.tolist()


def _reading(name: str) -> Reading:
    return Reading(name[3:], True) if name.startswith("by ") else Reading(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss > 1", None),
        ("lr > 1", True),
        ("lr > 1 or loss > 1", True),
        ("loss > 1 or lr > 1", True),
        ("lr < 1 or loss > 1", None),
        ("lr < 1 and loss > 1", False),
        ("loss > 1 and lr < 1", False),
        ("lr > 1 and loss > 1", None),
        ("not loss > 1", None),
        ("not lr > 1", False),
        ("missing(loss)", True),
        ("missing(lr)", False),
        ("missing(loss + lr)", True),
        ("nonfinite(loss)", None),
        ("nonfinite(lr)", False),
        ("nonfinite(grad_norm)", True),
        ("missing(grad_norm)", False),
        ("nonfinite(1 / skipped)", True),
        ("grad_norm > 1 or grad_norm <= 1 or grad_norm == grad_norm", False),
        ("grad_norm != grad_norm", True),
        ("not grad_norm > 1", True),
        ("1 < lr < 3 < 4", True),
        ("1 < lr < 2", False),
        ("-lr == 0 - 2", True),
        ("lr * 3 - lr / 4 == 5.5", True),
        ("0 / skipped != 0 / skipped", True),
    ],
)
def test_missing_is_a_third_value_and_nan_compares_as_ieee_says(
    text: str, expected: bool | None
) -> None:
    assert _holds(text, {"lr": 2.0, "grad_norm": NAN, "skipped": 0.0}) is expected


def test_elements_join_by_their_labels() -> None:
    values: dict[str, float | Sequence[float]] = {
        "loss": 2.0,
        "layer_grad_norm": [1.0, 3.0, 999.0],
        "by loss": [2.0, 2.5],
    }
    assert _holds("layer_grad_norm > loss", values) == [False, True, None]
    assert _holds("by_rank(loss) > loss", values) == [False, True]
    assert _holds("layer_grad_norm > by_rank(loss)", values) == [
        [False, False],
        [True, True],
        [None, None],
    ]
    assert _holds("by_rank(loss) < 3 and layer_grad_norm > 1 or nonfinite(loss)", values) == [
        [False, False],
        [True, True],
        [None, None],
    ]


_SIGNALS = ["loss", "lr", "grad_norm"]
_EDGES = st.sampled_from([0.0, -0.0, 1.0, -1.5, NAN, INF, -INF, 1e308])
_numbers: st.SearchStrategy[Number] = st.recursive(
    st.one_of(
        st.builds(Constant, st.floats(-3, 3)),
        st.builds(Reading, st.sampled_from(_SIGNALS), st.just(True)),
    ),
    lambda inner: st.one_of(
        st.builds(Negative, inner),
        st.builds(Arithmetic, st.sampled_from("+-*/"), inner, inner),
    ),
    max_leaves=5,
)
_comparisons = st.builds(
    Comparison,
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    _numbers,
    _numbers,
)
_conditions: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(_comparisons, st.builds(NonFinite, _numbers), st.builds(Missing, _numbers)),
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(Both, inner, inner), st.builds(Either, inner, inner)
    ),
    max_leaves=5,
)


@given(
    condition=_conditions,
    row=st.dictionaries(st.sampled_from(_SIGNALS), st.one_of(_EDGES, st.floats(-3, 3))),
)
def test_one_rank_alone_is_judged_as_all_ranks_at_once(
    condition: Condition, row: dict[str, float]
) -> None:
    measured = {Reading(signal, True): np.array([row.get(signal, 999.0)]) for signal in _SIGNALS}
    with np.errstate(all="ignore"):
        true, missing = Graph().condition(condition)(Told(measured))
    at_once = None if missing.reshape(-1)[0] else bool(true.reshape(-1)[0])
    assert scalar.condition(condition)(row) is at_once


class History:
    """A graph to which steps are told one by one."""

    def __init__(self, *texts: str) -> None:
        self.graph = Graph()
        self._roots = [parse(text).root for text in texts]

    def step(self, **values: float | Sequence[float]) -> list[bool | None]:
        source = Told({Reading(name): np.asarray(value, float) for name, value in values.items()})
        found: list[bool | None] = []
        for root in self._roots:
            true, missing = self.graph.condition(root)(source)
            found.append(None if missing else bool(true))
        self.graph.learn(source)
        return found


def test_a_window_holds_the_steps_before_this_one() -> None:
    history = History("loss > max(loss[3])", "max(loss[3]) >= 3")
    assert [history.step(loss=value) for value in (1, 2, 3, 9, 4, 4, 4, 4)] == [
        [None, None],
        [None, None],
        [None, None],
        [True, True],
        [False, True],
        [False, True],
        [False, True],
        [False, True],
    ]


def test_a_window_holds_neither_nan_nor_what_was_not_measured() -> None:
    history = History("mean(loss[2]) == 2")
    assert [history.step(loss=1), history.step(loss=NAN), history.step(), history.step(loss=3)] == [
        [None]
    ] * 4
    assert history.step(loss=INF) == [True]
    assert history.step(loss=5) == [True]
    assert history.step(loss=5) == [False]


def test_long_windows_count_once_they_hold_enough() -> None:
    history = History("median(loss[200]) == 1", "missing(std(loss[200]))")
    told = [history.step(loss=1) for _ in range(WARM + 1)]
    assert told == [[None, True]] * WARM + [[True, False]]


def test_robust_z_says_nothing_before_it_is_warm_nor_of_nan() -> None:
    history = History("robust_z(loss, window=64) > 6", "missing(robust_z(loss, window=64))")
    told = [history.step(loss=2 + 0.1 * (-1) ** at) for at in range(WARM)]
    assert told == [[None, True]] * WARM
    assert history.step(loss=NAN) == [False, False]
    assert history.step() == [None, True]
    assert history.step(loss=9) == [True, False]
    assert history.step(loss=9) == [True, False]


def test_rules_that_share_a_score_do_not_teach_it_twice() -> None:
    alone, both = (
        History("robust_z(loss, window=8) > 3"),
        History("robust_z(loss, window=8) > 3", "robust_z(loss, window=8) > 3 and loss > 0"),
    )
    values = [1, 2, 3, 2, 1, 2, 3, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 2, 9, 2]
    assert [alone.step(loss=x)[0] for x in values] == [both.step(loss=x)[0] for x in values]
    assert any(alone.step(loss=x)[0] for x in (50, 60))


class Counted(Told):
    """Counts how often each signal is read, which an operator does each time that it works."""

    reads: ClassVar[Counter[Reading]] = Counter()

    def read(self, reading: Reading) -> Values:
        self.reads[reading] += 1
        return super().read(reading)


def test_equal_nodes_of_different_rules_are_worked_out_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [
        "rank_outlier(loss) > 3",
        "rank_outlier(loss) < -3 or disagrees(loss)",
        "disagrees(loss) and missing(lr)",
        "steps_until(lr[4], 3 + lr) < quantile(lr[4], 0.9)",
        "slope(lr[4]) > 0 and count(lr[4]) > 2 and steps_until(lr[4], 3 + lr) < 5",
        "quantile(lr[4], 0.9) > 3 + lr and by_rank(loss) > 1",
    ]
    runs: Counter[object] = Counter()
    for module, name in [
        (across_ranks, "rank_outlier"),
        (across_ranks, "disagrees"),
        (elementwise, "forecast"),
        (window, "slope"),
        (window, "quantile"),
    ]:
        whole = getattr(module, name)

        def counting(
            *given: object, _whole: Any = whole, _name: str = name, **named: object
        ) -> Any:
            runs[_name] += 1
            return _whole(*given, **named)

        monkeypatch.setattr(module, name, counting)
    graph = Graph()
    roots = [parse(text).root for text in texts]
    Counted.reads.clear()
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        runs.clear()
        source = Counted({Reading("lr"): value, Reading("loss", True): np.array([1.0] * 5)})
        with np.errstate(all="ignore"):
            for root in roots:
                graph.condition(root)(source)
        graph.learn(source)
    names = ("rank_outlier", "disagrees", "forecast", "slope", "quantile")
    assert runs == dict.fromkeys(names, 1)
    assert Counted.reads == {Reading("lr"): 5, Reading("loss", True): 5}


def test_all_windows_and_scores_of_a_run_have_a_bounded_room_together() -> None:
    room = Room(cells=1000)
    layers = Operator(lambda source: source.read(Reading("layer_grad_norm")))
    ten, twenty = (
        Told({Reading("layer_grad_norm"): np.zeros(10)}),
        Told({Reading("layer_grad_norm"): np.zeros(20)}),
    )
    first, second = Past(layers, 40, room), Past(layers, 30, room)
    first.count(ten)
    second.count(ten)
    with pytest.raises(MemoryError, match="the windows of all rules together"):
        first.count(twenty)
    score = parse("robust_z(layer_grad_norm, 8) > 1").score
    assert isinstance(score, Score)
    with pytest.raises(MemoryError):
        Scores(score, room).of(layers, ten)
    assert Scores(score, Room(cells=1000)).of(layers, ten).missing.all()
