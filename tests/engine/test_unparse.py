from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.engine.language import unparse as module
from sentinel.engine.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Disagrees,
    Either,
    Forecast,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    RankOutlier,
    Reading,
    Score,
    Statistic,
    Window,
    readings,
)
from sentinel.engine.language.parse import parse
from sentinel.engine.language.unparse import unparse
from tests.engine.world import default_rules

_SIGNALS = st.sampled_from(["loss", "grad_norm", "layer_grad_norm"])  # all of unit 1
_OWN = st.sampled_from(["h.3", 'a "quoted" one', "it's"])
_readings = st.one_of(
    st.builds(Reading, _SIGNALS, st.booleans()),
    st.builds(Reading, st.just("layer_grad_norm"), st.booleans(), _OWN),
)
_of_ranks = st.builds(Reading, st.sampled_from(["loss", "grad_norm"]), st.just(True))
_constants = st.builds(Constant, st.floats(-1e9, 1e9).filter(bool))
_windows = st.builds(Window, st.one_of(_readings, st.builds(Negative, _readings)), st.just(40))


def _more(inner: st.SearchStrategy[Number]) -> st.SearchStrategy[Number]:
    return st.one_of(
        st.builds(Negative, inner.filter(lambda node: not isinstance(node, Constant))),
        st.builds(Arithmetic, st.sampled_from("+-*/"), inner, inner),
    )


_numbers: st.SearchStrategy[Number] = st.recursive(
    st.one_of(
        _constants,
        _readings,
        st.builds(Statistic, st.sampled_from(["median", "slope", "count"]), _windows),
        st.builds(Statistic, st.just("quantile"), _windows, st.floats(0, 1)),
        st.builds(Forecast, _windows, st.one_of(_constants, _readings)),
        st.builds(RankOutlier, _of_ranks),
    ),
    _more,
    max_leaves=5,
)
_conditions: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(
        st.builds(Comparison, st.sampled_from(["<", ">=", "!="]), _numbers, _numbers),
        st.builds(NonFinite, _numbers),
        st.builds(Missing, _numbers),
        st.builds(Disagrees, _of_ranks, st.floats(0, 1)),
    ),
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(Both, inner, inner), st.builds(Either, inner, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(_conditions.filter(lambda node: bool(readings(node))))
def test_the_text_of_an_expression_means_the_same_expression(node: Condition) -> None:
    assert parse(unparse(node)).root == node


@pytest.mark.parametrize(
    "text",
    [
        "robust_z(loss, window=50, floor=0.1) > 6",
        "robust_z(loss) > 6",
        "not (loss > 1 and lr < 2) or loss > 3",
        "loss - (lr - grad_norm) > -2.5",
        "-(loss * 2) < 1e-30",
        "mean((loss - lr)[32]) > 1",
        "1 < loss < 3",
        "seconds_since(loss) > 60",
        "seconds_since(logged['val_loss']) > 3600",
        "by_rank(silence) > 30 or by_rank(lost) > 0",
        "disagrees(grad_norm)",
    ],
)
def test_what_a_person_writes_can_be_said_again(text: str) -> None:
    root = parse(text).root
    assert parse(unparse(root)).root == root


def test_all_parts_of_the_shipped_rules_have_a_text() -> None:
    for rule in default_rules():
        root = rule.expression.root
        assert parse(unparse(root)).root == root, rule.name


def test_parentheses_are_where_they_must_be_and_nowhere_else() -> None:
    said = "not missing(loss) and (loss + 1) * 2 - (lr - 1) > 3 or loss > 4"
    assert unparse(parse(said).root) == said


def test_the_example_of_the_documentation_holds() -> None:
    assert doctest.testmod(module).failed == 0


def test_a_detector_says_what_is_not_as_it_would_be_anyway() -> None:
    score = parse("robust_z(loss, window=200, floor=0.5) > 1").score
    assert isinstance(score, Score)
    assert unparse(score) == "robust_z(loss, window=200, floor=0.5)"
