"""The contract of all detectors, and what each is for."""

from __future__ import annotations

import doctest
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine import window
from sentinel.engine.detectors import DETECTORS, build
from sentinel.engine.detectors.robust_z import RobustZ

_ALL = pytest.mark.parametrize("name", DETECTORS)


@pytest.mark.parametrize(
    "module", [window, *(sys.modules[k.__module__] for k in DETECTORS.values())]
)
def test_documented_examples_are_true(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert tried
    assert not failed


@_ALL
def test_a_detector_names_its_source(name: str) -> None:
    kind = DETECTORS[name]
    assert "Source: " in (kind.__doc__ or "")
    assert kind.parameters


@_ALL
@given(
    values=st.lists(
        st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, -np.inf, 0.0])),
        max_size=80,
    )
)
def test_what_is_not_finite_scores_nan_and_changes_nothing(name: str, values: list[float]) -> None:
    seen, clean = build(name, {"window": 16}), build(name, {"window": 16})
    for value in values:
        score = seen.update(value)
        if np.isfinite(value):
            np.testing.assert_equal(score, clean.update(value))
        else:
            assert np.isnan(score)


@_ALL
@given(values=st.lists(st.floats(-1e300, 1e300), min_size=40, max_size=120))
def test_finite_values_score_a_number_once_warm(name: str, values: list[float]) -> None:
    detector = build(name, {"window": 32})
    scores = [detector.update(value) for value in values]
    assert all(np.isnan(score) for score in scores[:32])
    assert not any(np.isnan(score) for score in scores[32:])


def test_a_spike_does_not_raise_the_level_that_it_is_measured_by() -> None:
    detector = RobustZ(64)
    generator = np.random.default_rng(2)
    for value in generator.normal(2.0, 0.1, size=64):
        detector.update(value)
    scores = [detector.update(4.0) for _ in range(63)]
    assert min(scores) > 10
    assert len(set(scores)) == 1


def test_a_level_that_stays_is_the_new_baseline_after_a_window() -> None:
    detector = RobustZ(64)
    generator = np.random.default_rng(3)
    for value in generator.normal(2.0, 0.1, size=64):
        detector.update(value)
    for value in generator.normal(4.0, 0.1, size=64):
        detector.update(value)
    assert abs(detector.update(4.0)) < 3
    assert detector.update(2.0) < -10


def test_outliers_that_are_not_in_a_row_are_no_new_level() -> None:
    detector = RobustZ(64)
    generator = np.random.default_rng(4)
    for value in generator.normal(2.0, 0.1, size=64):
        detector.update(value)
    for value in ([4.0] * 63 + [2.0]) * 3:
        detector.update(value)
    assert detector.update(4.0) > 10


def test_a_constant_past_makes_any_change_infinitely_far() -> None:
    detector = RobustZ(32)
    for _ in range(32):
        detector.update(1.0)
    assert detector.update(1.0) == 0
    assert detector.update(1.1) == np.inf
    assert detector.update(0.9) == -np.inf
