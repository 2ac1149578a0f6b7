"""Snapshots of what is known of earlier steps: which are kept, and which is taken up again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sentinel.engine.evaluation.operators import Graph
from sentinel.engine.evaluation.values import Values
from sentinel.engine.language.expression import Comparison, Reading, Score, Window
from sentinel.engine.language.parse import parse
from sentinel.engine.snapshot import EVERY, FEWEST, MAX_CELLS, MOST, Memory, Snapshots

_NODE = Window(Reading("loss"), 8)


class _Known:
    """A part that knows which step it is at."""

    def __init__(self, cells: int = 8) -> None:
        self.cells = cells
        self.at: object = None

    def remember(self) -> dict[Window | Score, object]:
        return {_NODE: self.at}

    def recall(self, memory: Memory) -> None:
        self.at = memory.get(_NODE)


def _run(snapshots: Snapshots, part: _Known, first: int, last: int) -> None:
    for step in range(first, last + 1):
        part.at = step
        snapshots.judged(step)


@pytest.mark.parametrize(
    ("back_to", "known"), [(1000, 900), (901, 900), (900, 800), (350, 300), (100, None), (1, None)]
)
def test_a_run_goes_on_from_the_last_snapshot_before_the_step(
    back_to: int, known: int | None
) -> None:
    part = _Known()
    snapshots = Snapshots([part])
    _run(snapshots, part, 1, 1000)
    snapshots.go_back(back_to)
    assert part.at == known


def test_what_came_after_that_step_is_not_taken_up_by_a_later_rewind() -> None:
    part = _Known()
    snapshots = Snapshots([part])
    _run(snapshots, part, 1, 1000)
    snapshots.go_back(450)
    _run(snapshots, part, 450, 520)
    snapshots.go_back(510)
    assert part.at == 400
    assert snapshots.steps == [100, 200, 300, 400]


def test_a_run_can_go_back_to_the_same_step_again_and_again() -> None:
    part = _Known()
    snapshots = Snapshots([part])
    _run(snapshots, part, 1, 500)
    for _ in range(5):
        snapshots.go_back(450)
        assert part.at == 400
        _run(snapshots, part, 450, 480)


def test_snapshots_are_few_and_reach_far_back() -> None:
    part = _Known()
    snapshots = Snapshots([part])
    for start in range(1, 30_001, 500):
        _run(snapshots, part, start, start + 499)
        steps = [0, *snapshots.steps]
        assert len(snapshots.steps) <= MOST
        newest = steps[-1]
        assert newest >= start + 499 - EVERY
        for earlier, later in pairwise(steps):
            assert later - earlier <= max(2 * EVERY, 0.5 * (newest - earlier))


@pytest.mark.parametrize("share", [1 / 4, 1 / 6, 1 / 10])
def test_a_large_memory_has_fewer_of_them(share: float) -> None:
    part = _Known(int(share * MAX_CELLS))
    snapshots = Snapshots([part])
    _run(snapshots, part, 1, 30 * EVERY)
    assert len(snapshots.steps) == round(1 / share)


def test_a_memory_that_grows_too_large_has_none() -> None:
    part = _Known()
    snapshots = Snapshots([part])
    _run(snapshots, part, 1, 500)
    part.cells = MAX_CELLS // FEWEST + 1
    _run(snapshots, part, 501, 700)
    assert snapshots.steps == []
    snapshots.go_back(650)
    assert part.at is None


class _Losses:
    """A step at which four ranks had a loss."""

    def read(self, reading: Reading) -> Values:
        return Values(np.arange(4.0), np.zeros(4, bool))


def test_what_is_remembered_of_arrays_can_be_put_aside_and_taken_up_again() -> None:
    graph = Graph()
    root = parse("median(by_rank(loss)[8]) + ewma_z(by_rank(loss), window=8) > 0").root
    assert isinstance(root, Comparison)
    score = graph.number(root.left)

    def judge(steps: int) -> Values:
        for _ in range(steps):
            source = _Losses()
            found = score(source)
            graph.learn(source)
        return found

    assert judge(8).missing.all()
    after_eight = graph.remember()
    assert not judge(1).missing.any()
    cells = graph.cells
    graph.recall({})
    assert graph.cells == 0
    assert judge(8).missing.all()
    graph.recall(after_eight)
    assert graph.cells == cells
    np.testing.assert_array_equal(judge(1).values, np.arange(4.0))


def test_going_back_over_and_over_does_not_use_up_the_room_for_windows() -> None:
    graph = Graph()
    root = parse("max(by_rank(loss)[10000]) < 0 or robust_z(by_rank(loss), 10000) > 1").root
    condition = graph.condition(root)
    for _ in range(1000):  # together more than there is room for
        condition(_Losses())
        graph.recall({})


def test_rules_without_a_memory_are_no_burden() -> None:
    graph = Graph()
    snapshots = Snapshots([graph])
    for step in range(1, 301):
        snapshots.judged(step)
    snapshots.go_back(250)
    assert graph.cells == 0
