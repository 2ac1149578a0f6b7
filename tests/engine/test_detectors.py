"""The contract of all detectors, and what each is for."""

from __future__ import annotations

import doctest
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine import window
from sentinel.engine.detectors import DETECTORS, Detector
from sentinel.engine.detectors.robust_z import RobustZ

_ALL = pytest.mark.parametrize("kind", DETECTORS.values(), ids=DETECTORS.keys())


def _score(detector: Detector, value: float) -> float:
    return float(detector.update(np.array([value]))[0])


@pytest.mark.parametrize(
    "module", [window, *(sys.modules[k.__module__] for k in DETECTORS.values())]
)
def test_documented_examples_are_true(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert tried
    assert not failed


@_ALL
def test_a_detector_names_its_source(kind: type[Detector]) -> None:
    assert "Source: " in (kind.__doc__ or "")
    assert kind.default_window > 0


@_ALL
@given(
    values=st.lists(
        st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, -np.inf, 0.0])),
        max_size=80,
    )
)
def test_what_is_not_finite_scores_nan_and_changes_nothing(
    kind: type[Detector], values: list[float]
) -> None:
    seen, clean = kind(16), kind(16)
    for value in values:
        score = _score(seen, value)
        if np.isfinite(value):
            np.testing.assert_equal(score, _score(clean, value))
        else:
            assert np.isnan(score)


@_ALL
@given(values=st.lists(st.floats(-1e300, 1e300), min_size=40, max_size=120))
def test_finite_values_score_a_number_once_warm(kind: type[Detector], values: list[float]) -> None:
    detector = kind(32)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = [_score(detector, value) for value in values]
    assert all(np.isnan(score) for score in scores[:32])
    assert not any(np.isnan(score) for score in scores[32:])


@_ALL
def test_elements_do_not_touch_each_other(kind: type[Detector]) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(100, 3))
    together, alone = kind(32), [kind(32) for _ in range(3)]
    for row in values:
        scores = together.update(row)
        np.testing.assert_equal(scores, [_score(d, x) for d, x in zip(alone, row, strict=True)])


def test_a_spike_does_not_raise_the_level_that_it_is_measured_by() -> None:
    detector = RobustZ(64)
    generator = np.random.default_rng(2)
    for value in generator.normal(2.0, 0.1, size=64):
        _score(detector, value)
    scores = [_score(detector, 4.0) for _ in range(63)]
    assert min(scores) > 10
    assert len(set(scores)) == 1


def test_a_level_that_stays_is_the_new_baseline_after_a_window() -> None:
    detector = RobustZ(64)
    generator = np.random.default_rng(3)
    for value in generator.normal(2.0, 0.1, size=64):
        _score(detector, value)
    for value in generator.normal(4.0, 0.1, size=64):
        _score(detector, value)
    assert abs(_score(detector, 4.0)) < 3
    assert _score(detector, 2.0) < -10


def test_outliers_that_are_not_in_a_row_are_no_new_level() -> None:
    detector = RobustZ(64)
    generator = np.random.default_rng(4)
    for value in generator.normal(2.0, 0.1, size=64):
        _score(detector, value)
    for value in ([4.0] * 63 + [2.0]) * 3:
        _score(detector, value)
    assert _score(detector, 4.0) > 10


def test_a_constant_past_makes_any_change_infinitely_far() -> None:
    detector = RobustZ(32)
    for _ in range(32):
        _score(detector, 1.0)
    assert _score(detector, 1.0) == 0
    assert _score(detector, 1.1) == np.inf
    assert _score(detector, 0.9) == -np.inf
