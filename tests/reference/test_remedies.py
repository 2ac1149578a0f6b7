"""What a person may do to a held run, on real DeepSpeed engines of two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reference.conftest import Launch
from tests.reference.remedies_job import ENGINES

pytestmark = pytest.mark.slow
Experiment = dict[str, list[tuple[int, str, float, bool]]]

each_engine = pytest.mark.parametrize("engine", [f"{stage}-{dtype}" for stage, dtype in ENGINES])
each_rank = pytest.mark.parametrize("rank", [0, 1])


@pytest.fixture(scope="module")
def found(
    two_ranks: Launch, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Experiment]]:
    folder = tmp_path_factory.mktemp("remedies")
    job = Path(__file__).with_name("remedies_job.py")
    ended = two_ranks(str(job), str(folder), cwd=folder)
    assert ended.returncode == 0, ended.stdout
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@each_engine
@each_rank
def test_losses_after_a_resume_are_those_without_the_break(
    found: list[dict[str, Experiment]], engine: str, rank: int
) -> None:
    experiment = found[rank][engine]
    assert [number for number, *_ in experiment["unbroken"]] == [4, 5, 6]
    assert experiment["resumed"] == experiment["unbroken"]


@each_engine
@each_rank
def test_a_rollback_undoes_a_nan_and_repeats_the_same_steps(
    found: list[dict[str, Experiment]], engine: str, rank: int
) -> None:
    experiment = found[rank][engine]
    assert experiment["rolled_back"] == experiment["unbroken"]


@each_engine
def test_nan_begins_in_its_module_on_its_rank_alone(
    found: list[dict[str, Experiment]], engine: str
) -> None:
    healthy, poisoned = (found[rank][engine] for rank in (0, 1))
    assert healthy["first_nonfinite"] is None
    assert poisoned["first_nonfinite"] == "layers.1.mlp"
    assert [loss for _, loss, *_ in poisoned["poisoned"]] == ["nan"]
    assert [loss for _, loss, *_ in healthy["poisoned"]] != ["nan"]


@each_engine
@each_rank
def test_skipping_batches_gets_past_a_lasting_nan(
    found: list[dict[str, Experiment]], engine: str, rank: int
) -> None:
    ((number, loss, _, applied),) = found[rank][engine]["skipped"]
    assert number == 7
    assert loss != "nan"
    assert applied


@each_engine
@each_rank
def test_a_scaled_learning_rate_follows_the_schedule_through_save_and_load(
    found: list[dict[str, Experiment]], engine: str, rank: int
) -> None:
    experiment = found[rank][engine]
    scaled = [lr for *_, lr, _ in experiment["scaled"]]
    unscaled = [lr for *_, lr, _ in experiment["unscaled"]]
    assert scaled == [0.5 * lr for lr in unscaled]
    assert len(set(unscaled)) == 2, "a schedule that stands still would prove nothing"
    assert experiment["scaled_resumed"] == experiment["scaled_on"]
