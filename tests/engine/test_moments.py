"""Mean and deviation of a moving window, against numpy over its values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.moments import MovingMoments


@given(
    values=st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=60),
    length=st.integers(1, 20),
)
def test_they_are_those_of_the_last_values(values: list[float], length: int) -> None:
    moving = MovingMoments(length)
    for at, value in enumerate(values):
        moving.push(value)
        last = np.array(values[max(0, at + 1 - length) : at + 1])
        size = float(np.abs(last).max())
        assert len(moving) == len(last)
        assert moving.moments().size == len(last)
        assert moving.moments().mean == pytest.approx(float(last.mean()), rel=0, abs=1e-12 * size)
        expected = pytest.approx(float(last.std()), rel=1e-9, abs=1e-12 * size + 1e-140)
        assert moving.moments().deviation == expected


def test_a_huge_value_that_has_left_the_window_leaves_no_error_behind() -> None:
    moving = MovingMoments(10)
    noise = 1e-6 * np.random.default_rng(1).normal(size=10)
    for value in (1e300, -1e300, *noise.tolist()):
        moving.push(value)
    assert moving.moments().mean == pytest.approx(noise.mean(), rel=1e-12)
    assert moving.moments().deviation == pytest.approx(noise.std(), rel=1e-12)


def test_a_deep_copy_is_apart() -> None:
    moving = MovingMoments(4)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        moving.push(value)
    copied = copy.deepcopy(moving)
    before = moving.moments()
    for value in (9.0, 9.0, 9.0, 9.0, 9.0):
        copied.push(value)
    assert moving.moments() == before
    assert copied.moments().mean == 9.0
