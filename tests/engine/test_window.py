from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine import window
from sentinel.engine.window import MAX_CELLS, RingWindow


def _mad(values: Sequence[float]) -> float:
    center = statistics.median(values)
    return statistics.median(abs(value - center) for value in values)


def _slope(values: Sequence[float]) -> float:
    """The median slope of all pairs: windows here are short."""
    values = list(values)
    pairs = [
        (late - early) / (i - j)
        for i, late in enumerate(values)
        for j, early in enumerate(values[:i])
    ]
    return statistics.median(pairs) if pairs else math.nan


_ORACLES: list[tuple[window.Statistic, Callable[[Sequence[float]], float]]] = [
    (window.mean, statistics.fmean),
    (window.std, statistics.pstdev),
    (window.median, statistics.median),
    (window.median_absolute_deviation, _mad),
    (window.low, min),
    (window.high, max),
    (window.slope, _slope),
]
_STEP = st.lists(st.one_of(st.none(), st.floats(-100, 100, width=32)), min_size=3, max_size=3)


@given(length=st.integers(1, 5), history=st.lists(_STEP, max_size=15))
def test_each_element_has_the_statistics_of_its_own_last_values(
    length: int, history: list[list[float | None]]
) -> None:
    ring = RingWindow(length)
    ring.grow((3,))
    oracle: list[deque[float]] = [deque(maxlen=length) for _ in range(3)]
    for step in history:
        ring.push(
            np.array([9e9 if value is None else value for value in step]),
            np.array([value is not None for value in step]),
        )
        for past, value in zip(oracle, step, strict=True):
            past.extend([] if value is None else [value])
    assert ring.count.tolist() == [len(past) for past in oracle]
    for statistic, expected in _ORACLES:
        want = [expected(past) if past else np.nan for past in oracle]
        assert ring.over(statistic) == pytest.approx(want, rel=1e-9, abs=1e-9, nan_ok=True)


def test_elements_that_become_known_later_start_empty() -> None:
    ring = RingWindow(3)
    ring.push(np.array([[1.0]]), np.array([[True]]))
    ring.push(np.array([[2.0, 5.0], [7.0, 8.0]]), np.array([[True, True], [False, True]]))
    assert ring.count.tolist() == [[2, 1], [0, 1]]
    assert ring.over(window.high).tolist()[0] == [2.0, 5.0]


def test_a_single_number_without_labels_has_a_window_too() -> None:
    ring = RingWindow(2)
    for value in (1.0, 2.0, 3.0):
        ring.push(np.asarray(value), np.asarray(True))
    assert float(ring.over(window.mean)) == 2.5


def test_a_window_that_would_fill_the_memory_is_refused() -> None:
    ring = RingWindow(10_000)
    with pytest.raises(MemoryError, match="10000 steps over 1601 elements"):
        ring.grow((MAX_CELLS // 10_000 + 1,))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([3.0 * at for at in range(100)], 3.0),
        ([3.0 * at + (500.0 if at % 25 == 0 else 0.0) for at in range(100)], 3.0),
        ([0.0] * 75 + [1000.0] * 25, 0.0),  # taken in one go
        ([float(at % 10) for at in range(100)], 0.0),  # taken and given back
        ([0.0] * 80 + [3.0 * at for at in range(20)], 0.0),  # too short to be told from a jump
    ],
)
def test_a_slope_is_that_of_most_of_the_window(line: list[float], expected: float) -> None:
    ring = RingWindow(100)
    for value in [7.0] * 30 + line:  # which fill the ring from its middle on
        ring.push(np.asarray(value), np.asarray(True))
    assert float(ring.over(window.slope)) == pytest.approx(expected, abs=0.15)
