"""What a script keeps of its checkpoints, and whether the last good one is at risk."""

from __future__ import annotations

import pytest

from sentinel.engine.checkpoint import Checkpoints
from sentinel.engine.clean import Verdict
from sentinel.engine.rotation import Rotation
from tests.engine.checkpoint_life import NEEDED, Life


@pytest.mark.parametrize(
    ("listed", "kept", "doomed"),
    [
        (["a", "ab", "abc", "abcd"], None, ""),
        (["a", "ab", "bc"], 2, "b"),
        (["abc", "bcd"], 3, "b"),
        (["abc", "cd"], 2, "c"),
        (["abc", "bcd", "bcde"], None, ""),  # one was removed by hand, and no rule has kept three
        (["Aabc", "Abcd"], 4, "b"),  # the first is kept for good
        ([], None, ""),
    ],
)
def test_what_a_script_keeps_is_known_once_it_has_removed_one(
    listed: list[str], kept: int | None, doomed: str
) -> None:
    rotation = Rotation()
    for present in listed:
        rotation.listed(tuple(present))
    assert (rotation.kept, "".join(rotation.doomed())) == (kept, doomed)


def _rotating(keep: int, saves: int, pace: int = 10) -> Life:
    life = Life(keep)
    for _ in range(saves):
        life.train(pace)
        life.save()
    return life


def test_a_healthy_run_whose_checkpoints_are_proven_in_time_is_never_at_risk() -> None:
    life = Life(keep=2)
    for _ in range(12):
        for _ in range(10):
            life.train(1)
            assert life.asks("last_good_at_risk") in (None, 0.0), life.step
            assert life.asks("last_good_gone") == 0.0
        life.save()
        assert life.asks("last_good_at_risk") in (None, 0.0), life.step
        assert life.asks("last_good_gone") == 0.0, life.step
    assert life.good == "step110"


@pytest.mark.parametrize("needed", [10, 11])
def test_clean_steps_as_many_as_lie_between_saves_are_no_risk(needed: int) -> None:
    life = Life(keep=2, known=Checkpoints(needed))
    for _ in range(8):
        life.train(9)
        life.save_early()
        assert life.asks("last_good_at_risk") in (None, 0.0)
        assert life.asks("last_good_gone") == 0.0
        life.train(1)
        assert life.asks("last_good_at_risk") in (None, 0.0)


def test_other_folders_that_come_and_go_say_nothing_of_what_is_kept() -> None:
    life = Life(there=["logs"])
    for _ in range(3):
        life.train(10)
        life.save()
    life.there.remove("logs")
    life.train(10)
    life.save()
    life.train(1)
    assert (life.states()["logs"], life.asks("last_good_at_risk")) == ("gone", None)


def test_nothing_is_said_of_risk_while_nothing_was_ever_removed() -> None:
    life = _rotating(0, 5)
    life.train(1, Verdict(False, "trouble"))
    assert life.asks("last_good_at_risk") is None


def test_the_save_before_the_last_healthy_one_is_removed_says_so() -> None:
    life = _rotating(2, 4)
    life.train(1, Verdict(False, "trouble"))
    assert life.good == "step30"
    assert life.asks("last_good_at_risk") == 1.0, "step40 is tainted, and step30 goes next"
    assert life.known.detail("last_good_at_risk") == "step30 (step 30)"
    life.train(9)
    life.save()
    assert life.asks("last_good_at_risk") is None, "there is none"
    assert life.asks("last_good_gone") == 1.0
    assert life.known.detail("last_good_gone") == "step30 (step 30)"
    life.train(NEEDED)
    assert (life.good, life.asks("last_good_gone")) == ("step50", 0.0)


def test_a_script_that_keeps_one_is_told_of_before_and_after_each_save() -> None:
    life = _rotating(1, 2)
    assert life.asks("last_good_gone") == 1.0
    life.train(NEEDED)
    assert (life.asks("last_good_at_risk"), life.asks("last_good_gone")) == (1.0, 0.0)


def test_what_is_removed_before_it_could_be_proven_is_told_of() -> None:
    life = Life(keep=2, known=Checkpoints(50))
    for _ in range(3):
        life.train(20)
        life.save()
    assert life.asks("last_good_gone") == 1.0


def test_what_a_script_keeps_is_known_after_a_restart_too() -> None:
    life = _rotating(2, 4)
    known = Checkpoints(NEEDED)
    known.adopt(life.known.all(), life.step)
    life.known = known
    life.train(1, Verdict(False, "trouble"))
    assert life.asks("last_good_at_risk") == 1.0
