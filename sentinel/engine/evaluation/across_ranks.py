"""Operators that compare the ranks of one step with each other: the last axis of their arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.evaluation.values import Operator, Source, Truths, Values
from sentinel.engine.window import Floats

_FEWEST = 4  # ranks: of fewer nobody can say which is the outlier
_BY_MEDIAN = 1.4826  # median absolute deviation to standard deviation, for normal noise
_BY_MEAN = math.sqrt(math.pi / 2)  # mean absolute deviation to standard deviation, likewise


def rank_outlier(of: Operator[Values], source: Source) -> Values:
    """`(x - median) / (1.4826 * MAD)` over the finite values of a step's ranks.

    Where more than half of them are equal, the MAD is 0 and the mean absolute deviation stands in
    for it; 0 where all of them are. What is not finite has no place among them: NaN. Missing where
    fewer than four are finite.

    Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993 (the modified z-score).
    """
    values, missing = of(source)
    told = np.where(np.isfinite(values) & ~missing, values, np.nan)
    count = np.isfinite(told).sum(axis=-1, keepdims=True)
    if values.shape[-1] < _FEWEST:
        return Values(told, np.ones(values.shape, bool))
    distance = told - _median(told, count)
    size = np.abs(distance)
    middle, mean = _median(size, count), np.nansum(size, axis=-1, keepdims=True) / count
    scale = np.where(middle > 0, _BY_MEDIAN * middle, _BY_MEAN * mean)
    scores = np.where(distance == 0, 0.0, distance / scale)
    return Values(scores, missing | (count < _FEWEST))


def disagrees(of: Operator[Values], tolerance: float, source: Source) -> Truths:
    """Which ranks do not say what most of them say, within the tolerance of `math.isclose`.

    What most say is the median, the lower of two; NaN is above all numbers and equal to itself.
    Where no more than half of the ranks agree with it, nobody knows who is right: true for all.
    """
    values, missing = of(source)
    if not values.size:
        return Truths(missing, missing)
    count = (~missing).sum(axis=-1, keepdims=True)
    ordered = np.sort(np.where(missing, np.nan, values), axis=-1)
    usual = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=-1)
    near = np.abs(values - usual) <= tolerance * np.maximum(np.abs(values), np.abs(usual))
    same = (values == usual) | (np.isnan(values) & np.isnan(usual))
    agree = (same | (near & np.isfinite(values) & np.isfinite(usual))) & ~missing
    settled = 2 * agree.sum(axis=-1, keepdims=True) > count
    return Truths(~missing & ~(agree & settled), missing)


def _median(values: Floats, count: NDArray[np.intp]) -> Floats:
    """Of the `count` values of each row that are no NaN; the axis stays."""
    ordered = np.sort(values, axis=-1)
    below = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=-1)
    above = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-1] - 1), axis=-1)
    return (below + above) / 2
