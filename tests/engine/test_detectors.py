"""The contract of all detectors, and what robust_z is for."""

from __future__ import annotations

import copy
import doctest
import inspect
import math
import sys
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine import moments, sorted_window, window
from sentinel.engine.detectors import DETECTORS, Detector, build
from sentinel.engine.detectors.robust_z import RobustZ

_ALL = pytest.mark.parametrize("name", DETECTORS)
_OF_DISTANCES = ["robust_z", "ewma_z", "cusum", "spike_score"]  # from a level, not shares of it
_FINITE = st.one_of(
    st.floats(-1e300, 1e300), st.floats(-10, 10), st.sampled_from([0.0, 1.0, 1e300, -1e300])
)


def _shortest(name: str) -> dict[str, float]:
    """The shortest windows that it takes, so that few values fill them."""
    return {key: one.lowest for key, one in DETECTORS[name].parameters.items() if one.whole}


def _small(name: str) -> Detector:
    return build(name, _shortest(name))


def _length(name: str) -> int:
    """The windows of a small one together."""
    return int(sum(_shortest(name).values()))


def _scores(detector: Detector, values: Iterable[float]) -> list[float]:
    return [detector.update(value) for value in values]


def _noise(count: int, seed: int = 1) -> list[float]:
    """Heavy-tailed around 2.5, with spikes and a change of level on the way."""
    generator = np.random.default_rng(seed)
    values = 2.5 + 0.05 * generator.standard_t(3, size=count)
    values[count // 2 :] += 0.5
    values[::97] += 3.0
    return [float(value) for value in values]


@pytest.mark.parametrize(
    "module",
    [window, sorted_window, moments, *(sys.modules[k.__module__] for k in DETECTORS.values())],
)
def test_documented_examples_are_true(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert tried
    assert not failed


@_ALL
def test_a_detector_is_a_file_and_a_class_of_its_name_with_formula_and_source(name: str) -> None:
    kind = DETECTORS[name]
    assert kind.__module__ == f"sentinel.engine.detectors.{name}"
    assert kind.__name__ == "".join(word.capitalize() for word in name.split("_"))
    said = kind.__doc__ or ""
    assert "Source: " in said
    assert ">>> " in said


@_ALL
def test_parameters_are_within_their_bounds_and_as_the_class_has_them(name: str) -> None:
    kind = DETECTORS[name]
    defaults = {
        key: one.default for key, one in inspect.signature(kind.__init__).parameters.items()
    }
    del defaults["self"]
    assert defaults == {key: one.default for key, one in kind.parameters.items()}
    for one in kind.parameters.values():
        assert one.lowest <= one.default <= one.highest
        assert one.help
        if one.whole:
            assert all(float(n).is_integer() for n in (one.lowest, one.default, one.highest))


@_ALL
def test_the_page_on_detectors_names_it_with_its_parameters_and_bounds(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text()
    _, _, after = page.partition(f"\n## `{name}`\n")
    section, _, _ = after.partition("\n## ")
    assert "\nSource: " in section
    for key, one in DETECTORS[name].parameters.items():
        row = f"| `{key}` | {one.default:,g} | {one.lowest:,g} | {one.highest:,g} | {one.help} |"
        assert row in section


@_ALL
@pytest.mark.parametrize("end", ["lowest", "default", "highest"])
def test_every_parameter_may_be_at_the_ends_of_its_bounds(name: str, end: str) -> None:
    known = DETECTORS[name].parameters
    together = {key: float(getattr(one, end)) for key, one in known.items()}
    for given_ in (together, *({key: value} for key, value in together.items())):
        for score in _scores(build(name, given_), _noise(300)):
            assert isinstance(score, float)


@_ALL
@given(values=st.lists(st.one_of(_FINITE, st.sampled_from([np.nan, np.inf, -np.inf])), max_size=80))
def test_what_is_not_finite_scores_nan_and_changes_nothing(name: str, values: list[float]) -> None:
    seen, clean = _small(name), _small(name)
    for value in values:
        score = seen.update(value)
        if np.isfinite(value):
            np.testing.assert_equal(score, clean.update(value))
        else:
            assert np.isnan(score)


@_ALL
@pytest.mark.filterwarnings("error")
@given(values=st.lists(_FINITE, min_size=1, max_size=40))
def test_finite_values_score_a_number_once_warm(name: str, values: list[float]) -> None:
    """Of any size up to 1e300, and without a warning."""
    detector = _small(name)
    warm = 2 * _length(name) + 64
    many = values * (1 + 2 * warm // len(values))
    numbers = [not math.isnan(score) for score in _scores(detector, many)]
    assert not numbers[0]
    assert numbers == sorted(numbers)
    assert all(numbers[warm:])


@_ALL
@pytest.mark.parametrize("value", [0.0, 2.5, -1e-300, 1e300])
def test_a_constant_series_is_nothing_special(name: str, value: float) -> None:
    scores = _scores(_small(name), [value] * (2 * _length(name) + 200))
    assert all(math.isfinite(score) for score in scores[-100:])
    if name in _OF_DISTANCES:
        assert set(scores[-100:]) == {0.0}


@_ALL
@pytest.mark.parametrize("factor", [2.0**-40, 1e-3, 7.0, 2.0**40])
def test_scores_do_not_depend_on_the_scale_of_the_values(name: str, factor: float) -> None:
    values = _noise(1200)
    expected = _scores(_small(name), values)
    found = _scores(_small(name), [factor * value for value in values])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", _OF_DISTANCES)
@pytest.mark.parametrize("shift", [-100.0, 10.0])
def test_scores_of_distances_do_not_depend_on_the_level(name: str, shift: float) -> None:
    without = {"floor": 0.0} if "floor" in DETECTORS[name].parameters else {}
    values = _noise(1200)
    expected = _scores(build(name, without), values)
    found = _scores(build(name, without), [value + shift for value in values])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@_ALL
def test_scores_are_the_same_each_time(name: str) -> None:
    values = _noise(1000)
    np.testing.assert_equal(_scores(_small(name), values), _scores(_small(name), values))


@_ALL
@pytest.mark.parametrize("before", [0, 5, 31, 64, 500])
def test_a_deep_copy_goes_on_as_the_original_does_and_apart_from_it(name: str, before: int) -> None:
    values = _noise(before + 400)
    original, untouched = _small(name), _small(name)
    for detector in (original, untouched):
        _scores(detector, values[:before])
    copied = copy.deepcopy(original)
    _scores(copied, [1e6, -1e6, 0.0] * 50)
    copied = copy.deepcopy(original)
    expected = _scores(untouched, values[before:])
    np.testing.assert_equal(_scores(copied, values[before:]), expected)
    np.testing.assert_equal(_scores(original, values[before:]), expected)


def _cells(thing: object) -> int:
    """How many values an object keeps, in whatever it is made of."""
    if isinstance(thing, Mapping):
        return sum(_cells(value) for value in thing.values())
    if isinstance(thing, (list, tuple, deque)):
        return sum(_cells(value) for value in thing)
    if isinstance(thing, (array, np.ndarray)):
        return len(thing)
    slots = {key: getattr(thing, key) for key in getattr(type(thing), "__slots__", ())}
    parts = {**slots, **getattr(thing, "__dict__", {})}
    return _cells(parts) if parts else 1


@_ALL
@pytest.mark.parametrize(
    "values", [_noise(5000), [float(2**at % 1009) for at in range(5000)], [1.0] * 5000]
)
def test_memory_is_bounded_by_the_windows(name: str, values: list[float]) -> None:
    detector = _small(name)
    _scores(detector, values[:1000])
    bound = 64 + 2 * _length(name)
    assert _cells(detector) <= bound
    _scores(detector, values[1000:])
    assert _cells(detector) <= bound


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


_DEFERRING = [name for name, kind in DETECTORS.items() if hasattr(kind, "learn")]


@pytest.mark.parametrize("name", _DEFERRING)
@pytest.mark.parametrize("series", ["noise", "levels", "falling", "constant"])
@pytest.mark.parametrize("asked", [0.0, 0.1, 1.0])
def test_a_score_that_is_deferred_is_the_same_and_never_above_its_bound(
    name: str, series: str, asked: float
) -> None:
    generator = np.random.default_rng(5)
    values = {
        "noise": _noise(1500),
        "levels": [1.0 + 0.5 * (at // 300 % 3) + 0.01 * (at * 7 % 11) for at in range(1500)],
        "falling": [2.0 + 4 / (1 + at / 50) + 0.001 * (at * 13 % 29) for at in range(1500)],
        "constant": [2.0] * 700 + [2.5] * 800,
    }[series]
    values[400:410] = [np.nan, np.inf, 0.0, -0.0, -1.0, 1e300, 30.0, 30.0, 1e-300, 2.0]
    for parameters in ({}, _shortest(name)):
        at_once, deferring = build(name, parameters), build(name, parameters)
        for value in values:
            score, bound = at_once.update(value), deferring.learn(value)  # type: ignore[attr-defined]
            assert math.isnan(score) == math.isnan(bound)
            if not math.isnan(score):
                assert score <= bound
                if bound > 5 or generator.random() < asked:
                    assert repr(deferring.score()) == repr(score)  # type: ignore[attr-defined]


def test_where_values_lie_close_together_no_score_is_worked_out() -> None:
    detector = RobustZ()
    values = [float(value) for value in np.random.default_rng(6).normal(2.0, 0.1, size=2000)]
    bounds = [detector.learn(value) for value in values]
    assert bounds[200:].count(5.0) > 1500
