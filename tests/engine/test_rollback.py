"""What a person may go back to by name, and how far back it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sentinel.engine.checkpoint import Checkpoint
from sentinel.engine.clean import Verdict
from sentinel.engine.rollback import steps_back, target
from sentinel.errors import ControlError
from tests.engine.checkpoint_life import Life


def _known() -> list[Checkpoint]:
    life = Life(there=["old"])
    life.train(10)
    life.save()
    life.train(10)
    life.save()
    life.train(1, Verdict(False, "a non-finite update was applied at step 21"))
    life.train(9)
    life.save(ranks=[0])
    return life.known.all()


def test_last_good_is_made_out() -> None:
    assert target("gpt", _known(), "last-good", force=False) == "step10"
    assert target("gpt", _known(), "old", force=False) == "old"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("step20", "is tainted: a non-finite update was applied at step 21"),
        ("step30", "is incomplete: not yet told that rank 1"),
        ("step1", "has no checkpoint 'step1', did you mean 'step10'?: "),
    ],
)
def test_what_is_not_good_is_refused_with_the_reason_and_taken_by_force(
    wanted: str, reason: str
) -> None:
    with pytest.raises(ControlError, match=r"step") as refused:
        target("gpt", _known(), wanted, force=False)
    assert reason in str(refused.value)
    assert target("gpt", _known(), wanted, force=True) == wanted


def test_without_a_healthy_one_it_is_said_what_there_is() -> None:
    with pytest.raises(ControlError, match="no healthy checkpoint: none is known"):
        target("gpt", [], "last-good", force=False)
    bad = [one for one in _known() if one.state != "healthy"]
    with pytest.raises(ControlError) as refused:
        target("gpt", bad, "last-good", force=True)
    assert "step20 is tainted (a non-finite" in str(refused.value)
    assert "step30 is incomplete" in str(refused.value)
    gone = [replace(one, state="gone") for one in _known()]
    with pytest.raises(ControlError, match="all that were saved are gone"):
        target("gpt", gone, "last-good", force=False)


@pytest.mark.parametrize(
    ("step", "words"), [(10, "0 steps back"), (11, "1 step back"), (9, "1 steps ahead")]
)
def test_how_far_it_is_back(step: int, words: str) -> None:
    assert steps_back(_known()[0], step) == words
