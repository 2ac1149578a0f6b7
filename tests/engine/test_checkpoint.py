"""Which checkpoints are good to go back to: health, going back, rotation, what a person names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import wire
from sentinel.engine.checkpoint import MOST, Checkpoint, Checkpoints, newest_healthy
from sentinel.engine.clean import Verdict
from sentinel.engine.rollback import steps_back, target
from sentinel.engine.rotation import Rotation
from sentinel.errors import ControlError

CLEAN, NEUTRAL = Verdict(True), Verdict(False)
NEEDED = 3


def said(
    step: int,
    tag: str | None = None,
    *,
    bad: str = "",
    present: Sequence[str] = (),
    folder: str = "/ckpt",
) -> wire.Checkpoint:
    return wire.Checkpoint(step, tag or f"step{step}", folder, 1.5, bad, tuple(present))


@dataclass
class Life:
    """A run of two ranks whose script keeps `keep` checkpoints (0: all of them)."""

    keep: int = 0
    known: Checkpoints = field(default_factory=lambda: Checkpoints(NEEDED))
    step: int = 0
    era: int = 0
    there: list[str] = field(default_factory=list)

    def train(self, count: int = 1, verdict: Verdict = CLEAN) -> None:
        for _ in range(count):
            self.step += 1
            self.known.judged(self.era, self.step, lambda: verdict)

    def save(self, tag: str | None = None, bad: str = "", ranks: Iterable[int] = (0, 1)) -> None:
        name = tag or f"step{self.step}"
        self.there = [one for one in self.there if one != name] + [name]
        if self.keep:
            self.there = self.there[-self.keep :]
        for rank in ranks:
            self.say(rank, said(self.step, tag, bad=bad, present=() if rank else self.there))

    def save_early(self) -> None:
        """Save the coming step, and tell of it before that step is judged."""
        self.step += 1
        self.save()
        self.step -= 1

    def say(self, rank: int, message: wire.Checkpoint) -> None:
        self.known.saved(rank, message, self.era, 2, 1000.0 + self.step)

    def go_back(self, step: int) -> None:
        self.step, self.era = step, self.era + 1

    def states(self) -> dict[str, str]:
        return {one.tag: one.state for one in self.known.all()}

    def why(self, tag: str) -> str:
        (one,) = [one for one in self.known.all() if one.tag == tag]
        return one.why

    @property
    def good(self) -> str | None:
        last = self.known.last_good
        return last.tag if last else None

    def asks(self, signal: str) -> float | None:
        return self.known.signals()[signal]


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


# Messages of ranks in any order.

TAGS = st.sampled_from(["a", "b", "c"])
SAVES = st.lists(st.tuples(TAGS, st.integers(0, 2), st.booleans()), min_size=1, max_size=6)


@settings(deadline=None)
@given(SAVES, st.data())
def test_the_order_in_which_ranks_are_heard_makes_no_difference(
    plan: list[tuple[str, int, bool]], data: st.DataObject
) -> None:
    told: dict[int, list[wire.Checkpoint]] = {0: [], 1: [], 2: []}
    step, there = 10, dict[str, None]()
    for tag, later, bad in plan:
        step += later
        there.pop(tag, None)
        there[tag] = None
        there = dict.fromkeys([*there][-2:])
        for rank, messages in told.items():
            name = "w" if bad and rank else ""
            messages.append(said(step, tag, bad=name, present=[] if rank else [*there]))

    def known(order: Iterable[int]) -> list[Checkpoint]:
        checkpoints, at = Checkpoints(0), dict.fromkeys(told, 0)
        for rank in order:
            checkpoints.saved(rank, told[rank][at[rank]], 0, 3, 1.0)
            at[rank] += 1
        return checkpoints.all()

    together = [rank for _ in plan for rank in told]
    assert known(data.draw(st.permutations(together))) == known(together)


# Any life of a run, against the definition.

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("train"), st.sampled_from(["clean", "clean", "neutral", "bad"])),
        st.tuples(st.just("train more"), st.just("clean")),
        st.tuples(st.just("save"), st.sampled_from(["well", "well", "well", "bad", "part"])),
        st.tuples(st.just("back"), st.sampled_from([1, 2, 4, 7])),
        st.tuples(st.just("remove"), st.sampled_from(["oldest", "newest"])),
    ),
    max_size=30,
)


def healthy_by_definition(log: Sequence[tuple[str, object, int]]) -> set[str]:
    """Tags that are whole, finite, there, of this course, and followed by clean steps enough."""
    found = set()
    for at, (kind, how, step) in enumerate(log):
        if kind != "save" or how != "well":
            continue
        clean, good = 0, True
        tag = f"step{step}"
        for what, which, of_step in log[at + 1 :]:
            if what == "save" and of_step == step:
                good = False  # written over
            elif what == "list":
                assert isinstance(which, tuple)
                good = good and (tag in which)
            elif what == "back" and of_step < step:
                good = False
            elif what == "back" and clean < NEEDED:
                clean = 0
            elif what == "train" and clean < NEEDED and which == "bad":
                good = False
            elif what == "train" and which == "clean":
                clean += 1
        if good and clean >= NEEDED:
            found.add(tag)
    return found


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_the_healthy_are_those_of_which_all_is_true_and_the_newest_of_them_is_last_good(
    events: list[tuple[str, str | int]],
) -> None:
    life, log = Life(), list[tuple[str, object, int]]()
    verdicts = {"clean": CLEAN, "neutral": NEUTRAL, "bad": Verdict(False, "trouble")}
    for kind, how in [("train", "clean"), *events]:
        if kind == "train":
            life.train(1, verdicts[str(how)])
        elif kind == "train more":
            for _ in range(NEEDED):
                life.train()
                log.append(("train", how, life.step))
            continue
        elif kind == "save":
            if ("save", "part", life.step) in log:
                continue  # which of both the other rank speaks of then cannot be known
            log.append(("save", how, life.step))
            life.save(bad="w" if how == "bad" else "", ranks=[0] if how == "part" else [0, 1])
            log.append(("list", tuple(life.there), life.step))
            continue
        elif kind == "remove":
            if life.there:
                life.there.pop(0 if how == "oldest" else -1)
            continue
        else:
            life.go_back(max(0, life.step - int(how)))
            log.append(("back", how, life.step))
            life.train(1)
            how = "clean"
        log.append(("train", how, life.step))
    expected = healthy_by_definition(log)
    healthy = {tag for tag, state in life.states().items() if state == "healthy"}
    assert healthy == expected
    newest = max(expected, key=lambda tag: int(tag[4:]), default=None)
    assert life.good == newest == (g.tag if (g := newest_healthy(life.known.all())) else None)


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.integers(0, 20))
def test_a_daemon_that_goes_on_from_the_record_says_the_same(
    events: list[tuple[str, str | int]], restart: int
) -> None:
    lives = (Life(), Life())
    verdicts = {"clean": CLEAN, "neutral": NEUTRAL, "bad": Verdict(False, "trouble")}
    for at, (kind, how) in enumerate(events):
        for life in lives:
            if kind.startswith("train"):
                life.train(NEEDED if kind == "train more" else 1, verdicts[str(how)])
            elif kind == "save" and life.step:
                life.save(bad="w" if how == "bad" else "", ranks=[0] if how == "part" else [0, 1])
        if at == restart:
            known = Checkpoints(NEEDED)
            known.adopt(lives[0].known.all(), lives[0].step)
            lives[0].known = known
    assert lives[0].known.all() == lives[1].known.all()
    assert lives[0].known.last_good == lives[1].known.last_good


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


# Rotation.


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


# What a person names.


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
