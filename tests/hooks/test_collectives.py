"""Collectives on two real gloo ranks, each case in the same start of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hooks.scripts.collective_cases import HELD_UP
from tests.hooks.two_ranks import two_ranks

pytestmark = pytest.mark.slow
EXPOSED = "exposed_communication_seconds"
REDUCED = "collective_seconds|all_reduce@default:0-1"
Ranks = list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    out = tmp_path_factory.mktemp("collectives")
    return two_ranks("collective_cases", out)


def kinds(values: dict[str, float], signal: str) -> dict[str, float]:
    """The values of a signal by label."""
    named = {tuple(key.split("|")): value for key, value in values.items() if "|" in key}
    return {label: value for (name, label), value in named.items() if name == signal}


def test_collectives_are_told_apart_by_operation_and_group_from_their_first_step(
    ranks: Ranks,
) -> None:
    sizes = {
        "all_reduce@default:0-1": 800.0,  # two of 100 float32
        "all_gather@data:0-1": 800.0,  # what it gets, from both ranks
        "reduce_scatter@data:0-1": 800.0,  # what it gives
        "barrier@default:0-1": 0.0,
    }
    for rank, own in zip(ranks, ({}, {"broadcast@lonely:1": 400.0}), strict=True):
        first = rank["ordinary"]["first"]
        assert kinds(first, "collective_bytes") == {**sizes, **own}
        seconds = kinds(first, "collective_seconds")
        assert set(seconds) == {*sizes, *own}
        assert min(seconds.values()) > 0
        assert first[EXPOSED] > 0
        assert rank["ordinary"]["lost"] == []
        assert rank["ordinary"]["sum"] == 4.0


def test_a_group_is_reported_by_its_members_and_gets_its_name_when_it_is_made(
    ranks: Ranks,
) -> None:
    numbers = [kinds(rank["ordinary"]["first"], "collective_sequence") for rank in ranks]
    assert numbers[0] == {"default:0-1": 3.0, "data:0-1": 3.0}
    assert numbers[1] == {**numbers[0], "lonely:1": 1.0}
    for rank in ranks:
        second = rank["ordinary"]["second"]
        assert kinds(second, "collective_sequence")["data#3:0-1"] == 1.0
        assert set(kinds(second, "collective_seconds")) == {"all_reduce@data#3:0-1"}


def test_a_watch_starts_no_collective_of_its_own(ranks: Ranks) -> None:
    assert [rank["ordinary"]["counted"] for rank in ranks] == [6, 7]


def test_while_a_rank_stands_in_a_collective_another_thread_sees_who_has_not_entered_it(
    ranks: Ranks,
) -> None:
    waiting, culprit = (rank["hanging"] for rank in ranks)
    assert waiting["stands"] == [1, 0]
    assert culprit["stands"] == [0]
    assert waiting["values"][REDUCED] >= HELD_UP
    assert waiting["values"][EXPOSED] >= HELD_UP


def test_what_torch_starts_inside_is_not_seen_and_the_step_says_nothing(ranks: Ranks) -> None:
    for rank in ranks:
        case = rank["inside_torch"]
        for seen in (case["seen"], case["again"]):
            assert REDUCED in seen
            assert EXPOSED in seen
        assert kinds(case["unseen"], "collective_seconds") == {}
        assert kinds(case["unseen"], "collective_bytes") == {}
        assert EXPOSED not in case["unseen"]
        assert kinds(case["unseen"], "collective_sequence")["default:0-1"] == 8.0
        signals = {"collective_seconds", "collective_bytes", EXPOSED}
        gone = {signal: why for signal, every, why in case["lost"] if every == 0}
        assert set(gone) == signals
        assert all("2 of 3 collectives of default:0-1" in why for why in gone.values())
        assert {signal for signal, every, _ in case["lost"] if every == 1} == signals  # back


def test_two_watches_share_what_is_replaced_and_the_last_one_puts_it_back(ranks: Ranks) -> None:
    for rank in ranks:
        case = rank["together"]
        for values in (*case["both"], case["one"]):
            assert values["collective_bytes|all_reduce@default:0-1"] == 12.0
        assert case["as before"]


def test_a_later_wrapper_of_somebody_elses_stays_and_is_called_once_each_time(
    ranks: Ranks,
) -> None:
    for rank in ranks:
        case = rank["together"]
        assert case["theirs stands"]
        assert case["theirs called"] == 3
        assert case["sum"] == 32.0  # five times doubled
        assert case["over theirs"]["collective_bytes|all_reduce@default:0-1"] == 12.0


def test_numbers_of_a_group_in_which_ranks_also_send_are_not_told(ranks: Ranks) -> None:
    numbers = [kinds(rank["sending"]["before"], "collective_sequence") for rank in ranks]
    assert numbers[0]["pipe:0-1"] == numbers[1]["pipe:0-1"] == 1.0
    assert numbers[0]["default:0-1"] == numbers[1]["default:0-1"]
    for rank in ranks:
        case = rank["sending"]
        assert "pipe:0-1" not in kinds(case["after"], "collective_sequence")
        assert "pipe:0-1" not in case["sequences"]
        entered, _ = case["sequences"]["default:0-1"]
        assert entered == numbers[0]["default:0-1"]


def test_a_fault_of_ours_costs_the_signal_and_nothing_else(ranks: Ranks) -> None:
    for rank in ranks:
        case = rank["broken"]
        assert case["sum"] == 2.0
        assert EXPOSED not in case["values"]
        assert case["lost"] == [EXPOSED]
        assert case["left"] == []


def test_a_forked_child_measures_nothing(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["forked"] == {"silent child": True, "loud parent": True}


def test_compiled_code_does_the_same_under_a_watch(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["compiled"]["results"] == [[5.0] * 3] * 2
