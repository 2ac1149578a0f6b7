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

from sentinel.engine.evaluation.operators import Graph
from sentinel.engine.evaluation.scalar import ScalarGraph, key
from sentinel.engine.evaluation.values import Values
from sentinel.engine.language.expression import (
    Condition,
    Constant,
    Number,
    Reading,
    Window,
    axes_of,
    readings,
    walk,
)
from sentinel.engine.language.parse import parse
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

    def inherit(self, numbers: ScalarGraph) -> None:
        """Go on from what was known of single numbers."""
        for root in self._roots:
            self._graph.condition(root)
        self._graph.inherit(numbers.remember())

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


class OverFloats:
    """Single numbers, of ranks only while there is but one; then arrays that go on from there."""

    def __init__(self, roots: Sequence[Condition]) -> None:
        self._numbers = ScalarGraph()
        self._roots = roots
        self._by_rank = any(map(axes_of, roots))
        for root in roots:
            self._numbers.condition(root)
        self._numbers.feed_only(self._numbers.states)
        self._row: dict[str, float] | None = None
        self._ranks: Sequence[str] = ()
        self._arrays: OverArrays | None = None

    @staticmethod
    def takes(root: Condition) -> bool:
        return set(axes_of(root)) <= {"rank"}

    def step(self, moment: Moment) -> None:
        if self._row is not None:
            self._numbers.learn()
            self._numbers.recall(self._numbers.remember())
        self._ranks = moment.known["rank"]
        if self._arrays is None and self._by_rank and len(self._ranks) != 1:
            self._arrays = OverArrays(self._roots)
            self._arrays.inherit(self._numbers)
        if self._arrays is not None:
            return self._arrays.step(moment)
        self._row = {
            key(Reading(signal, rank is not None, label)): value
            for (signal, label, rank), value in moment.measured.items()
        }
        assert self._numbers.take(self._row) == []
        return None

    def condition(self, node: Condition) -> dict[Labels, bool | None]:
        if self._arrays is not None:
            return self._arrays.condition(node)
        assert self._row is not None
        truth = self._numbers.condition(node)(self._row)
        return dict.fromkeys(self._elements(node), truth)

    def number(self, node: Number) -> dict[Labels, float | None]:
        if self._arrays is not None:
            return self._arrays.number(node)
        assert self._row is not None
        value = self._numbers.number(node)(self._row)
        return dict.fromkeys(self._elements(node), value)

    def _elements(self, node: Number | Condition) -> list[Labels]:
        return [(rank,) for rank in self._ranks] if axes_of(node) else [()]


# Every way to evaluate rules: whether it takes a rule, and what evaluates those that it takes.
EVALUATORS: list[tuple[Callable[[Condition], bool], Callable[[Sequence[Condition]], Evaluator]]] = [
    (OverArrays.takes, OverArrays),
    (OverFloats.takes, OverFloats),
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
