"""Plain loops under guard on two ranks: they agree, and what fails on one never hangs another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hooks.scripts.guard_run import BAD, STEPS
from tests.hooks.two_ranks import two_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    out = tmp_path_factory.mktemp("guard")
    return two_ranks("guard_run", out)


def test_while_nothing_is_wrong_losses_and_weights_are_bit_equal(ranks: Ranks) -> None:
    for rank in ranks:
        for how in ("unguarded", "guarded"):
            assert rank[how]["losses"] == rank["unwatched"]["losses"]
            assert rank[how]["weights"] == rank["unwatched"]["weights"]
        assert [values["skipped"] for values in rank["guarded"]["steps"]] == [0] * STEPS


def test_it_adds_one_collective_a_step_and_a_second_where_there_is_a_doubt(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["unguarded"]["collectives"] == rank["unwatched"]["collectives"]
        assert rank["guarded"]["collectives"] == rank["unwatched"]["collectives"] + STEPS
        assert rank["bad"]["collectives"] == rank["unwatched"]["collectives"] + STEPS + 1


def test_a_bad_step_is_left_out_on_both_ranks_as_if_by_hand(ranks: Ranks) -> None:
    for rank in ranks:
        for how, by_hand in (("bad", "by hand"), ("own", "own by hand")):
            assert rank[how]["losses"] == rank[by_hand]["losses"]
            assert rank[how]["weights"] == rank[by_hand]["weights"]
            assert rank[how]["rates"] == rank[by_hand]["rates"] == rank["unwatched"]["rates"]
            skipped = [values["skipped"] for values in rank[how]["steps"]]
            assert skipped == [float(step == BAD) for step in range(STEPS)]
            assert not any(values["nonfinite_update"] for values in rank[how]["steps"])


def test_gradients_that_are_bad_on_one_rank_alone_are_found_there_and_stop_both(
    ranks: Ranks,
) -> None:
    innocent, culprit = (rank["own"] for rank in ranks)
    assert innocent["found"][BAD] == []
    assert innocent["steps"][BAD]["nonfinite_gradient"] == 0
    assert innocent["steps"][BAD]["skipped"] == 1
    assert culprit["steps"][BAD]["nonfinite_gradient"] == 1
    assert {module for _, module, _ in culprit["found"][BAD]} == {"head"}


def test_elements_whose_squares_overflow_are_no_reason_on_any_rank(ranks: Ranks) -> None:
    for rank, case in enumerate(ranks):
        applied, left_out = case["huge"]["weights"]
        assert applied == pytest.approx([0.0] * 4 if rank == 0 else [1.0] * 4, abs=1e-12)
        assert left_out == applied


def test_a_fault_of_ours_on_one_rank_holds_up_nobody_and_is_said_once(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["blinded"]["losses"] == rank["unwatched"]["losses"]
        assert rank["blinded"]["weights"] == rank["unwatched"]["weights"]
    assert ranks[0]["blinded"]["log"] == []
    (line,) = ranks[1]["blinded"]["log"]
    assert "the guard failed" in line
    assert "broken on purpose" in line


def test_a_guard_on_one_rank_alone_is_refused_before_it_can_hang(ranks: Ranks) -> None:
    asking, other = (rank["disagreeing"] for rank in ranks)
    assert "guard=True on rank 0 and not on 1 of 2 ranks" in asking["refused"]
    assert other["refused"] == ""
    assert asking["optimizer"] == other["optimizer"]
    assert "step" not in asking["optimizer"]
    assert [rank["agreeing"]["guard"] for rank in ranks] == [True, True]


def test_the_death_of_a_rank_is_the_jobs_own_error(ranks: Ranks) -> None:
    assert ranks[0]["bereaved"].endswith("Error, weights kept")
