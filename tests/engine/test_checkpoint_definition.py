"""Whatever becomes of a run, its checkpoints are as they are defined to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import wire
from sentinel.engine.checkpoint import Checkpoint, Checkpoints, newest_healthy
from sentinel.engine.clean import Verdict
from tests.engine.checkpoint_life import CLEAN, NEEDED, NEUTRAL, Life, said

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
