"""Which ranks a rank says to share a parameter with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.wire import Series
from sentinel_hooks.adapters.membership import Membership, groups_of, ranges
from sentinel_hooks.probes.tensors import Tensors


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ((), ""),
        ((5,), "5"),
        ((0, 1), "0-1"),
        ((3, 1, 2, 0, 8), "0-3,8"),
        ((0, 4, 8, 12), "0-12/4"),
        ((0, 8), "0,8"),
        ((0, 1, 8, 9, 16), "0-1,8-9,16"),
    ],
)
def test_ranks_are_written_as_ranges(ranks: tuple[int, ...], text: str) -> None:
    assert ranges(ranks) == text


def read(text: str) -> set[int]:
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


@given(st.sets(st.integers(0, 300)))
def test_no_rank_is_lost_in_ranges(ranks: set[int]) -> None:
    assert read(ranges(ranks)) == ranks


def test_series_are_grouped_by_who_shares_their_tensors() -> None:
    tensors = Tensors(("a.w", "a.b", "e.w"), ("a", "e"), (0, 0, 1), (4, 2, 4), (0, 0, 0))
    dense, expert = Membership((0, 1), (0,)), Membership((0,), (0,))
    series = [
        Series("loss"),
        Series("summed_grad_norm"),
        *(Series("tensor_grad_norm", name) for name in tensors.names),
        *(Series("layer_grad_norm", name) for name in tensors.layers),
        Series("collective_seconds", "a"),
    ]
    said = groups_of(series, tensors, (dense, dense, expert))
    assert [(one.shards, one.replicas, one.spans) for one in said] == [
        ("0-1", "0", ((2, 2), (5, 1))),
        ("0", "0", ((4, 1), (6, 1))),
    ]


def test_of_a_layer_whose_tensors_are_spread_differently_nothing_is_said() -> None:
    tensors = Tensors(("a.w", "a.b"), ("a",), (0, 0), (4, 2), (0, 0))
    mixed = (Membership((0, 1), (0,)), Membership((0,), (0,)))
    said = groups_of(
        [Series("layer_grad_norm", "a"), Series("tensor_grad_norm", "a.b")], tensors, mixed
    )
    assert [one.spans for one in said] == [((1, 1),)]
