"""Whatever evaluates expressions agrees with their definition, at every step, for every label."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import product
from typing import Protocol

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sentinel.engine.expression import (
    Condition,
    Constant,
    Number,
    Reading,
    Window,
    axes_of,
    readings,
    walk,
)
from sentinel.engine.operators import Graph
from sentinel.engine.parse import parse
from sentinel.engine.values import Values
from sentinel.errors import RuleError
from tests.engine.expressions import LABELLED, LAYERS, PLAIN, RANKS, conditions, written
from tests.engine.reference_evaluator import Labels, Moment, Reference


class Evaluator(Protocol):
    """Something that evaluates rules step by step. None is missing."""

    def step(self, moment: Moment) -> None:
        """Evaluate all rules at the next step."""

    def condition(self, node: Condition) -> dict[Labels, bool | None]:
        """A rule's condition at that step, for all elements."""

    def number(self, node: Number) -> dict[Labels, float | None]:
        """A number of a rule at that step, for all elements."""


class _Told:
    """The arrays of a step."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def read(self, reading: Reading) -> Values:
        known, measured = self._moment.known, self._moment.measured
        places = [known[axis] for axis in axes_of(reading)]
        shape = tuple(map(len, places))
        values, missing = np.full(shape, 99.0), np.ones(shape, bool)
        for place in np.ndindex(shape):
            labels = [names[at] for names, at in zip(places, place, strict=True)]
            rank = labels.pop() if reading.by_rank else None
            key = reading.signal, labels.pop() if labels else reading.label, rank
            if key in measured:
                values[place], missing[place] = measured[key], False
        return Values(values, missing)


class OverArrays:
    """All elements at once, with numpy."""

    def __init__(self, roots: Sequence[Condition]) -> None:
        self._graph = Graph()
        self._roots = roots
        self._moment: Moment | None = None
        self._source: _Told | None = None

    @staticmethod
    def takes(root: Condition) -> bool:
        return True

    def step(self, moment: Moment) -> None:
        if self._source is not None:
            self._graph.learn(self._source)
        self._moment, self._source = moment, _Told(moment)
        for root in self._roots:
            self.condition(root)

    def condition(self, node: Condition) -> dict[Labels, bool | None]:
        assert self._source is not None
        with np.errstate(all="ignore"):
            true, missing = self._graph.condition(node)(self._source)
        return {
            labels: None if missing[place] else bool(true[place])
            for labels, place in self._elements(node, true.shape)
        }

    def number(self, node: Number) -> dict[Labels, float | None]:
        assert self._source is not None
        with np.errstate(all="ignore"):
            values, missing = self._graph.number(node)(self._source)
        return {
            labels: None if missing[place] else float(values[place])
            for labels, place in self._elements(node, values.shape)
        }

    def _elements(
        self, node: Number | Condition, shape: tuple[int, ...]
    ) -> list[tuple[Labels, tuple[int, ...]]]:
        assert self._moment is not None
        places = [self._moment.known[axis] for axis in axes_of(node)]
        assert shape == tuple(map(len, places))
        return list(zip(product(*places), np.ndindex(shape), strict=True))


# Every way to evaluate rules: whether it takes a rule, and what evaluates those that it takes.
EVALUATORS: list[tuple[Callable[[Condition], bool], Callable[[Sequence[Condition]], Evaluator]]] = [
    (OverArrays.takes, OverArrays),
]


def _history(seed: int, length: int, spread: int) -> list[Moment]:
    """Steps at which layers and ranks come to be known; values repeat, are missing, or not finite.

    All finite ones are multiples of a half: sums of them are exact.
    """
    noise = random.Random(seed)
    layers, ranks = noise.choice([0, 1, 3]), noise.choice([0, 1, 5, 6])
    moments = []
    for _ in range(length):
        layers = min(len(LAYERS), layers + (noise.random() < 0.2))
        ranks = min(len(RANKS), ranks + (noise.random() < 0.2))
        known = {"layer": LAYERS[:layers], "rank": RANKS[:ranks]}
        keys = [
            (signal, label, rank)
            for signal, labels in [*((one, [None]) for one in PLAIN), (LABELLED, known["layer"])]
            for label in labels
            for rank in (None, *known["rank"])
        ]
        measured = {key: _value(noise, spread) for key in keys if noise.random() > 0.15}
        moments.append(Moment(known, measured))
    return moments


def _value(noise: random.Random, spread: int) -> float:
    if noise.random() < 0.08:
        return noise.choice([math.nan, math.inf, -math.inf])
    return noise.randint(-spread, spread) / 2


def _rules(roots: list[Condition]) -> list[Condition]:
    """The same, as they are read from text."""
    for root in roots:
        assume(readings(root))
        try:
            assert parse(written(root)).root == root
        except RuleError as error:  # hypothesis may build a rule that is too large
            assume("more than" not in error.reason and "deeper" not in error.reason)
            raise
    return roots


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    roots=st.lists(conditions, min_size=1, max_size=2).map(_rules),
    seed=st.integers(0, 1 << 32),
    length=st.sampled_from([2, 6, 6, 12, 12, 16, 12, 45]),
    spread=st.sampled_from([1, 4, 16]),
)
def test_every_evaluator_agrees_with_the_definition(
    roots: list[Condition], seed: int, length: int, spread: int
) -> None:
    history = _history(seed, length, spread)
    for takes, make in EVALUATORS:
        taken = [root for root in roots if takes(root)]
        reference, evaluator = Reference(), make(taken)
        for moment in history:
            reference.steps.append(moment)
            evaluator.step(moment)
            for root in taken:
                _compare(root, reference, evaluator, len(reference.steps))


def _compare(root: Condition, reference: Reference, evaluator: Evaluator, step: int) -> None:
    for node in walk(root):
        if isinstance(node, (Constant, Window)):
            continue
        if isinstance(node, Number):
            for labels, value in evaluator.number(node).items():
                expected = reference.number(node, labels)
                assert _same(value, expected), (step, written(node), labels, value, expected)
        else:
            for labels, truth in evaluator.condition(node).items():
                holds = reference.condition(node, labels)
                assert truth is holds, (step, written(node), labels, truth, holds)
