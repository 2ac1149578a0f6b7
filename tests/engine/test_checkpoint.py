"""Which checkpoints are good to go back to, and which are no longer."""

from __future__ import annotations

from sentinel.engine.checkpoint import MOST, Checkpoints
from sentinel.engine.clean import Verdict
from tests.engine.checkpoint_life import NEEDED, NEUTRAL, Life, said


def test_a_checkpoint_is_healthy_after_clean_steps_and_not_before() -> None:
    life = Life()
    life.train(10)
    life.save()
    assert (life.states(), life.good) == ({"step10": "unproven"}, None)
    life.train(NEEDED - 1)
    assert (life.good, life.why("step10")) == (None, "2 of 3 clean steps after it")
    life.train(1)
    assert (life.states(), life.good) == ({"step10": "healthy"}, "step10")
    life.train(5, Verdict(False, "the loss was not finite at step 99"))
    assert life.good == "step10", "what is proven stays so"


def test_a_save_is_incomplete_until_every_rank_has_told_of_it() -> None:
    life = Life()
    life.train(10)
    life.save(ranks=[0])
    life.train(NEEDED)
    assert life.states() == {"step10": "incomplete"}
    assert life.why("step10") == "not yet told that rank 1 wrote a part"
    assert life.known.completed == 0
    life.say(1, said(10))
    assert (life.good, life.known.completed) == ("step10", 1)


def test_weights_that_are_not_finite_on_any_rank_taint_the_checkpoint() -> None:
    life = Life()
    life.train(10)
    life.say(0, said(10))
    life.say(1, said(10, bad="layers.1.weight"))
    life.train(NEEDED)
    assert life.states() == {"step10": "tainted"}
    assert "layers.1.weight on rank 1" in life.why("step10")


def test_trouble_before_it_is_proven_taints_it_and_says_why() -> None:
    life = Life()
    life.train(10)
    life.save()
    life.train(1)
    life.train(1, Verdict(False, "the optimizer skipped it at step 12"))
    life.train(10)
    assert (life.states(), life.good) == ({"step10": "tainted"}, None)
    assert life.why("step10") == "the optimizer skipped it at step 12"


def test_a_step_that_is_neither_clean_nor_trouble_only_takes_longer() -> None:
    life = Life()
    life.train(10)
    life.save()
    life.train(2)
    life.train(5, NEUTRAL)
    assert life.good is None
    life.train(1)
    assert life.good == "step10"


def test_the_step_that_is_in_a_checkpoint_does_not_count_for_it() -> None:
    life = Life()
    life.train(9)
    life.save_early()
    life.train(NEEDED)
    assert life.good is None
    life.train(1)
    assert life.good == "step10"


def test_a_tag_that_is_saved_again_is_another_checkpoint() -> None:
    life = Life()
    life.train(10)
    life.save("latest")
    life.train(NEEDED)
    assert life.good == "latest"
    life.save("latest")
    assert (life.known.all()[0].state, life.known.all()[0].step) == ("unproven", 13)
    life.train(NEEDED)
    assert life.good == "latest"


def test_a_tag_that_is_saved_twice_at_one_step_is_as_it_was_saved_last() -> None:
    life = Life()
    life.train(10)
    life.save(bad="layers.1.weight")
    life.save()
    life.train(NEEDED)
    assert life.good == "step10"


def test_a_list_says_nothing_of_what_rank_0_has_not_saved_yet() -> None:
    life = Life()
    life.train(10)
    life.say(1, said(10, "a"))
    life.say(1, said(10, "b"))
    life.say(0, said(10, "a", present=["a"]))
    assert life.states() == {"a": "unproven", "b": "incomplete"}


def test_going_back_abandons_what_was_saved_after_that_step() -> None:
    life = Life()
    for _ in range(4):
        life.train(10)
        life.save()
    life.train(5)
    assert life.good == "step40"
    life.go_back(20)
    life.train(1)
    assert life.states() == {
        "step10": "healthy",
        "step20": "healthy",
        "step30": "abandoned",
        "step40": "abandoned",
    }
    assert (life.good, life.why("step40")) == ("step20", "the run went back to step 20")
    life.train(9)
    life.save()  # the tag of one that was abandoned
    life.train(NEEDED)
    assert life.good == "step30"


def test_clean_steps_are_counted_anew_when_they_are_done_anew() -> None:
    life = Life()
    life.train(10)
    life.save()
    life.train(2)
    life.go_back(10)
    life.train(NEEDED - 1)
    assert life.good is None
    life.train(1)
    assert life.good == "step10"


def test_what_is_saved_before_the_first_step_after_going_back_is_judged_is_not_abandoned() -> None:
    life = Life()
    life.train(30)
    life.era, life.step = 1, 20
    life.save_early()
    life.known.judged(0, 31, lambda: Verdict(False, "trouble"))  # of the course that is left
    life.train(1 + NEEDED)
    assert life.good == "step21"


def test_the_step_that_is_done_anew_first_abandons_a_checkpoint_of_its_own() -> None:
    life = Life()
    life.train(21)
    life.save()
    life.go_back(20)
    life.train(1 + NEEDED)
    assert life.states() == {"step21": "abandoned"}


def test_a_save_in_which_a_rank_died_is_another_than_that_of_the_next_job() -> None:
    life = Life()
    life.train(10)
    life.save(ranks=[0])
    life.go_back(5)
    life.train(5)
    life.save()
    life.train(NEEDED)
    assert life.good == "step10"


def test_a_run_that_begins_from_the_start_under_its_name_has_nothing_to_go_back_to() -> None:
    life = Life()
    life.train(10)
    life.save()
    life.train(NEEDED)
    life.go_back(0)
    life.train(1)
    assert (life.states(), life.good) == ({"step10": "abandoned"}, None)


def test_what_is_no_longer_in_its_folder_is_gone_until_it_is_there_again() -> None:
    life = Life()
    life.train(10)
    life.save()
    life.train(10)
    life.there.remove("step10")
    life.save()
    assert (life.states()["step10"], life.good) == ("gone", None)
    life.train(10)
    life.there.insert(0, "step10")
    life.save()
    assert life.states() == {"step10": "healthy", "step20": "healthy", "step30": "unproven"}


def test_what_was_there_before_anybody_looked_is_listed_and_never_last_good() -> None:
    life = Life(there=["old"])
    life.train(10)
    life.save()
    life.train(NEEDED)
    assert (life.states(), life.good) == ({"old": "unseen", "step10": "healthy"}, "step10")


def test_a_list_that_is_not_whole_makes_nothing_gone() -> None:
    life = Life()
    life.train(10)
    life.save()
    life.say(0, said(11, present=()))
    life.say(0, said(12, present=[f"other{n}" for n in range(1024)]))
    assert life.states()["step10"] == "unproven"


def test_checkpoints_are_bounded_and_those_that_are_gone_are_forgotten_first() -> None:
    life = Life()
    life.train(1)
    life.save("kept")
    for number in range(MOST + 10):
        life.say(0, said(1, f"t{number}", present=["kept", f"t{number}"]))
    assert len(life.known.all()) == MOST
    assert {"kept", f"t{MOST + 9}"} <= life.states().keys()


def test_a_run_that_went_back_while_no_daemon_looked_is_noticed() -> None:
    life = Life()
    for _ in range(3):
        life.train(10)
        life.save()
    record, life.known = life.known.all(), Checkpoints(NEEDED)
    life.known.adopt(record, 30)
    life.step = 20
    life.train(1)
    assert (life.states()["step30"], life.good) == ("abandoned", "step20")
