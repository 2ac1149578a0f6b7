"""Rolling raw DeepSpeed engines of two ranks back, whose script knows nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hooks.scripts.rollback_cases import ENGINES
from tests.reference.conftest import finish_ranks

pytestmark = pytest.mark.slow
Row = list[Any]  # number of the step, exact loss, learning rate, fingerprint of the batch

each_engine = pytest.mark.parametrize("engine", [f"{stage}-{dtype}" for stage, dtype in ENGINES])
each_rank = pytest.mark.parametrize("rank", [0, 1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("rollback")
    top = Path(__file__).parents[2]
    ended = finish_ranks("-m", "tests.hooks.scripts.rollback_cases", str(folder), cwd=top)
    assert ended.returncode == 0, ended.stdout
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@each_engine
@each_rank
def test_with_rewind_the_same_steps_are_done_again(
    found: list[dict[str, Any]], engine: str, rank: int
) -> None:
    rows: list[Row] = found[rank][engine]["rows"]
    assert [row[0] for row in rows[:9]] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert rows[6:9] == rows[3:6]


@each_engine
@each_rank
def test_losses_are_those_of_a_run_restarted_by_hand_with_the_same_data(
    found: list[dict[str, Any]], engine: str, rank: int
) -> None:
    seen = found[rank][engine]
    assert seen["by_hand"]["same data"] == seen["rows"][6:9]
    assert seen["by_hand"]["data going on"] == seen["rows"][9:12]


@each_engine
@each_rank
def test_without_rewind_no_batch_is_seen_twice_and_skipped_ones_never(
    found: list[dict[str, Any]], engine: str, rank: int
) -> None:
    seen = found[rank][engine]
    batches = [row[3] for row in seen["rows"]]
    assert len({*batches[:6], *batches[9:15]}) == 12
    # 3 were before the checkpoint; then 3 and 3 more, 2 skipped, 3; the last went back to the 4th.
    assert batches[17] == batches[3]
    assert seen["position"] == 4


@each_engine
@each_rank
def test_a_factor_applies_on_top_of_the_restored_schedule(
    found: list[dict[str, Any]], engine: str, rank: int
) -> None:
    rows: list[Row] = found[rank][engine]["rows"]
    scheduled = [row[2] for row in rows[3:6]]
    assert len(set(scheduled)) == 3, "a schedule that stands still would prove nothing"
    assert [row[2] for row in rows[12:15]] == [0.5 * rate for rate in scheduled]


@each_engine
@each_rank
def test_a_checkpoint_brings_back_the_factor_it_was_saved_with(
    found: list[dict[str, Any]], engine: str, rank: int
) -> None:
    rows: list[Row] = found[rank][engine]["rows"]
    assert rows[15] == rows[14]  # saved while the rate was halved
    assert rows[17] == rows[3]  # saved before


@each_engine
def test_every_save_is_told_of_and_the_first_rank_says_what_is_there(
    found: list[dict[str, Any]], engine: str
) -> None:
    for rank in (0, 1):
        saved = found[rank][engine]["saved"]
        assert [one[:2] for one in saved] == [[3, "mine"], [5, "scaled"], [6, "sentinel-step6"]]
        assert {Path(one[2]).name for one in saved} == {engine}
        assert {one[3] for one in saved} == {""}
        present = [one[4] for one in saved]
        everything = ["mine", "scaled", "sentinel-step6"]
        assert present == ([everything[:1], everything[:2], everything] if rank == 0 else [[]] * 3)


@each_engine
@each_rank
def test_what_cannot_be_loaded_is_refused_with_the_reason(
    found: list[dict[str, Any]], engine: str, rank: int
) -> None:
    seen = found[rank][engine]
    assert "attach(..., checkpoints=FOLDER)" in seen["refused"]
    why = seen["refusals"]
    assert "there: mine, scaled, sentinel-step6" in why["none"]
    for path in ("../mine", "a/b", ".."):
        assert "cannot name a checkpoint" in why[path]
    assert why["cut"].endswith(".pt is cut short")
    assert why["gone"].endswith(".pt is not there")
    assert why["whole"] == ""


@each_engine
@each_rank
def test_every_step_is_measured_whatever_its_number(
    found: list[dict[str, Any]], engine: str, rank: int
) -> None:
    seen = found[rank][engine]
    numbers = [row[0] for row in seen["rows"]]
    assert seen["samples"] == numbers
    assert seen["boundaries"][: len(numbers)] == numbers
    assert seen["missing"] == []


@each_rank
def test_weights_destroyed_by_a_nan_are_got_back_by_a_rollback_alone(
    found: list[dict[str, Any]], rank: int
) -> None:
    seen = found[rank]["0-fp32"]
    destroyed = seen["destroyed"]
    assert destroyed["bad_weight"] == destroyed["saved"] == "positions"
    assert destroyed["rollback to it"].endswith("weights are not finite: positions")
    assert "only a rollback" in destroyed["going on"]
    assert destroyed["way out"] == destroyed["going on then"] == ""
    assert destroyed["after"] == seen["rows"][3]
