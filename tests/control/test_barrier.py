"""The ranks' half of the hold, one situation at a time."""

from __future__ import annotations

import itertools
import threading

import pytest

from sentinel.control.barrier import ABSENCE, LABOR, SILENCE, Barrier, Verdict
from sentinel.control.outcome import Outcome
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, StopOrder
from tests.control.promises import LEASE, MemoryRegister
from tests.control.simulation import World

HALF = Remedies(lr_scale=0.5)


def hold(epoch: int = 1, step: int = 1, lead: int = 2, **changes: object) -> HoldOrder:
    fields: dict[str, object] = {
        "epoch": epoch,
        "asked": epoch,
        "step": step,
        "lead": lead,
        "lease": LEASE,
        "by": "rule NonFiniteUpdate",
        "reason": "a NaN",
    }
    return HoldOrder(**(fields | changes))  # type: ignore[arg-type]  # a table of mixed values


def outcome_of(world: World) -> Outcome:
    outcome = world.outcome()
    assert outcome is not None
    return outcome


def held_world(size: int = 4, **changes: object) -> World:
    world = World(size)
    world.rounds(7)
    world.tell(hold(**changes))  # type: ignore[arg-type]  # a table of mixed values
    world.rounds(20)
    assert outcome_of(world).phase in ("held", "resumed")
    return world


def test_64_ranks_are_held_at_the_same_step_and_go_on() -> None:
    world = held_world(64)
    assert {one.standing for one in world.workers} == {outcome_of(world).step}
    world.tell(ResumeOrder(1, "user", Remedies(lr_scale=0.5, skip_batches=8)))
    world.rounds(20)
    assert all(one.standing is None for one in world.workers)
    assert all([*one.applied.values()] == [Remedies(0.5, 8)] for one in world.workers)


def test_an_order_that_reaches_one_rank_only_holds_all_of_them() -> None:
    world = World(4)
    world.rounds(5)
    world.office.issued.append(hold())
    world.workers[2].barrier.hear(hold())
    for worker in world.workers:
        world.refresh(worker)  # as every heartbeat does
    world.rounds(20)
    assert outcome_of(world).phase == "held"


def test_a_rank_that_is_past_the_step_moves_the_hold_ahead() -> None:
    world = World(2)
    world.rounds(5)
    slow, fast = world.workers
    slow.barrier.hear(hold(lead=1))
    asked = outcome_of(world)
    fast.barrier.left = asked.step
    moved = fast.barrier.refresh()
    assert moved is not None
    assert (moved.epoch, moved.asked) == (2, 1)
    assert moved.step > asked.step
    assert moved.lead == 2 * asked.lead


def test_a_hold_that_one_rank_never_reaches_is_released_when_the_lease_ends() -> None:
    world = World(3, ahead=100)  # nothing makes the others wait for the third
    standing = world.workers[:2]
    world.tell(hold())
    for _ in range(20):
        for worker in standing:
            world.act(worker)
    assert all(one.standing is not None for one in standing)
    world.now += LEASE + 1
    for _ in range(2):
        for worker in standing:
            world.act(worker)
    assert outcome_of(world).phase == "released"
    assert "2 of 3 ranks" in outcome_of(world).refused
    assert all(one.standing is None for one in standing)


def test_a_resume_that_one_rank_cannot_do_leaves_all_held_and_says_which() -> None:
    world = held_world()
    world.workers[3].refuses = "the trainer does not offer skip_batches"
    world.tell(ResumeOrder(1, "user", Remedies(skip_batches=5)))
    world.rounds(10)
    assert outcome_of(world).phase == "held"
    assert outcome_of(world).refused == "rank 3: the trainer does not offer skip_batches"
    assert not any(one.applied for one in world.workers)
    world.workers[3].refuses = ""
    world.tell(ResumeOrder(1, "user", Remedies(lr_scale=0.1), attempt=2))
    world.rounds(10)
    assert all([*one.applied.values()] == [Remedies(lr_scale=0.1)] for one in world.workers)


def test_remedies_that_fail_on_one_rank_are_taken_back_by_the_others_and_can_be_tried_again() -> (
    None
):
    world = held_world()
    world.workers[2].fails = "no space left on device"
    world.tell(ResumeOrder(1, "user", HALF))
    world.rounds(10)
    outcome = outcome_of(world)
    assert (outcome.phase, outcome.refused) == ("held", "rank 2: no space left on device")
    assert not outcome.torn
    assert not any(one.applied for one in world.workers), "taken back by those that had done it"
    world.workers[2].fails = ""
    world.tell(ResumeOrder(1, "user", HALF, attempt=2))
    world.rounds(10)
    assert [[*one.applied] for one in world.workers] == [[(1, 2)]] * 4


def test_an_order_to_resume_that_comes_again_starts_no_second_attempt() -> None:
    world = held_world(2)
    world.workers[1].refuses = "no"
    order = ResumeOrder(1, "user", HALF)
    world.tell(order)
    world.rounds(10)
    assert (outcome_of(world).phase, outcome_of(world).attempt) == ("held", 1)
    world.tell(order)
    assert (outcome_of(world).phase, outcome_of(world).attempt) == ("held", 1)


def lone(register: MemoryRegister, rank: int, **hands: object) -> Barrier:
    """One of two ranks, standing after step 3 of a run that is held there."""
    fields: dict[str, object] = {"accept": lambda _: "", "apply": lambda _: ""}
    barrier = Barrier(register, rank, 2, **(fields | hands))  # type: ignore[arg-type]
    barrier.hear(hold(step=3))
    barrier.left = 2
    assert not barrier.leave(3)
    barrier.arrive(3, 0.0)
    return barrier


def two_in(phase: str, **hands: object) -> tuple[Barrier, Barrier]:
    """Two ranks that have come so far on the way to resume with remedies."""
    register = MemoryRegister()
    pair = (lone(register, 0), lone(register, 1, **hands))
    for _ in range(3):
        for one in pair:
            one.poll(0.0)
    pair[0].hear(ResumeOrder(1, "user", Remedies(rollback="2", lr_scale=0.5)))
    for turn in itertools.cycle(pair):
        if register.history[-1].phase == phase:
            break
        turn.poll(0.0)
    return pair


def phase_of(barrier: Barrier) -> str | None:
    return barrier.seen.phase if barrier.seen else None


def test_a_rank_that_dies_at_its_remedies_is_missed_within_a_minute_of_silence() -> None:
    waiting, _ = two_in("applying")
    waiting.poll(1.0)  # does its own
    waiting.poll(2.0)
    assert waiting.poll(2.0 + SILENCE) is Verdict.STAND
    assert phase_of(waiting) == "applying"
    waiting.poll(3.0 + SILENCE)
    assert phase_of(waiting) == "held"
    assert waiting.seen is not None
    assert waiting.seen.refused.startswith("1 of 2 ranks have carried it out, and no other")
    assert waiting.seen.torn


def test_a_rank_that_lives_may_take_long_for_its_remedies_but_not_for_ever() -> None:
    stuck, release = threading.Event(), threading.Event()

    def apply(remedies: Remedies) -> str:
        stuck.set()
        assert release.wait(30)
        return ""

    undone: list[Remedies] = []
    waiting, busy = two_in("applying", apply=apply, undo=undone.append)
    thread = threading.Thread(target=busy.poll, args=(1.0,))
    thread.start()
    assert stuck.wait(30)
    waiting.poll(1.0)
    now = 1.0
    while now < LABOR:
        waiting.poll(now)
        busy.refresh()  # its heartbeat, which does not wait for `apply`
        now += SILENCE / 2
        assert phase_of(waiting) == "applying", now
    busy.refresh()
    waiting.poll(now + SILENCE)
    assert waiting.seen is not None
    assert waiting.seen.refused == f"1 of 2 ranks have carried it out within {LABOR:g} s"
    release.set()
    thread.join()
    assert busy.poll(now) is Verdict.STAND
    assert busy.poll(now) is Verdict.STAND
    assert undone == [Remedies(rollback="2", lr_scale=0.5)], "it came too late, once"


@pytest.mark.parametrize("hand", ["accept", "apply"])
def test_what_a_trainer_raises_is_its_answer(hand: str) -> None:
    def fail(remedies: Remedies) -> str:
        raise OSError("stale file handle")

    phase = "accepting" if hand == "accept" else "applying"
    pair = two_in(phase, **{hand: fail})
    for _ in range(4):
        for one in pair:
            one.poll(0.0)
    assert pair[0].seen is not None
    assert pair[0].seen.phase == "held"
    assert pair[0].seen.refused == "rank 1: OSError: stale file handle"


def test_after_a_rollback_the_next_hold_is_at_a_step_that_is_near() -> None:
    world = World(3)
    world.rounds(60)
    world.tell(hold())
    world.rounds(20)
    before = outcome_of(world).step
    world.tell(ResumeOrder(1, "user", Remedies(rollback="2", rewind=True)))
    world.rounds(6)
    assert {one.barrier.left for one in world.workers} <= {2, 3, 4, 5}
    world.tell(hold(epoch=2))
    world.rounds(20)
    assert outcome_of(world).phase == "held"
    assert outcome_of(world).step < before / 2
    assert {one.step for one in world.workers} == {outcome_of(world).step}


def test_a_run_whose_rollback_failed_on_one_rank_never_goes_on_by_itself() -> None:
    world = held_world(2, hold_for=100.0, unattended="resume")
    world.workers[1].fails = "checkpoint is truncated"
    world.tell(ResumeOrder(1, "user", Remedies(rollback="2")))
    world.rounds(10)
    assert outcome_of(world).torn
    world.rounds(3, seconds=200.0)
    assert outcome_of(world).phase == "held"
    world.workers[1].fails = ""
    world.tell(ResumeOrder(1, "user", Remedies(rollback="1"), attempt=2))
    world.rounds(10)
    assert (outcome_of(world).phase, outcome_of(world).torn) == ("resumed", False)


def test_a_person_who_tried_in_vain_has_answered() -> None:
    world = held_world(2, hold_for=100.0)
    world.now += 99
    world.workers[1].refuses = "no"
    world.tell(ResumeOrder(1, "user", HALF))
    world.rounds(5)
    world.rounds(3, seconds=30.0)
    assert outcome_of(world).phase == "held"
    world.rounds(3, seconds=30.0)
    assert outcome_of(world).phase == "resumed"


@pytest.mark.parametrize(
    ("refuses", "fails", "why"),
    [("", "", ""), ("cannot write", "", "rank 1: cannot write"), ("", "full", "rank 1: full")],
)
def test_a_checkpoint_is_saved_by_all_at_one_step_and_the_run_goes_on_in_any_case(
    refuses: str, fails: str, why: str
) -> None:
    world = World(3)
    world.rounds(5)
    world.workers[1].refuses, world.workers[1].fails = refuses, fails
    world.tell(hold(then="checkpoint"))
    world.rounds(20)
    outcome = outcome_of(world)
    assert (outcome.phase, outcome.refused) == ("resumed", why)
    assert "held" not in [one.phase for one in world.register.history]
    saved = [[*one.applied.values()] for one in world.workers]
    assert saved == [[] if why else [Remedies(checkpoint=True)]] * 3
    assert all(one.standing is None for one in world.workers)


def test_nobody_goes_on_before_all_have_ended_a_checkpoint_that_failed_on_one() -> None:
    world = World(2)
    world.rounds(5)
    world.workers[1].fails = "full"
    world.tell(hold(then="checkpoint"))
    world.rounds(20)
    phases = [(one.phase, one.refused) for one in world.register.history]
    assert phases[-2:] == [("applying", "rank 1: full"), ("resumed", "rank 1: full")]


def test_stop_ends_every_rank_at_the_same_step_held_or_not() -> None:
    world = held_world()
    world.tell(StopOrder(1, "user"))
    world.rounds(5)
    assert len({one.stopped for one in world.workers} - {None}) == 1
    running = World(4)
    running.rounds(9)
    running.tell(hold(then="stop"))
    running.rounds(20)
    assert None not in {one.stopped for one in running.workers}
    assert len({one.stopped for one in running.workers}) == 1


@pytest.mark.parametrize(
    ("unattended", "phase"), [("resume", "resumed"), ("stop", "stopped"), ("hold", "held")]
)
def test_nobody_answering_does_what_the_rule_says(unattended: str, phase: str) -> None:
    world = held_world(2, unattended=unattended, hold_for=100.0)
    world.now += 101
    world.rounds(5)
    assert outcome_of(world).phase == phase
    assert outcome_of(world).by.startswith("unattended") == (unattended != "hold")


def test_a_daemon_that_stays_away_counts_as_nobody_answering() -> None:
    world = held_world(2)
    world.office.kill()
    world.now += ABSENCE - 1
    world.rounds(5)
    assert outcome_of(world).phase == "held"
    world.now += 2
    world.rounds(5)
    assert outcome_of(world).phase == "resumed"
    assert outcome_of(world).by == "unattended: the daemon is gone"


def test_an_absence_that_began_before_the_hold_says_nothing_yet() -> None:
    world = World(2)
    world.office.kill()
    world.now += ABSENCE + 1
    world.rounds(5)
    world.tell(hold())
    world.rounds(20)
    assert outcome_of(world).phase == "held"
    world.now += ABSENCE + 1
    world.rounds(5)
    assert outcome_of(world).phase == "resumed"


def test_a_rank_that_leaves_the_run_releases_a_hold_that_would_wait_for_it() -> None:
    world = World(2)
    world.rounds(5)
    world.tell(hold())
    world.workers[1].barrier.depart()
    assert outcome_of(world).phase == "released"
    assert outcome_of(world).refused == "rank 1 has left the run"


def test_a_rank_that_is_interrupted_while_others_accept_leaves_them_held() -> None:
    waiting, leaving = two_in("accepting")
    leaving.depart()
    waiting.poll(0.0)
    assert waiting.seen is not None
    assert (waiting.seen.phase, waiting.seen.refused) == ("held", "rank 1 has left the run")


def test_a_rank_that_dies_while_held_is_missed_when_somebody_wants_to_go_on() -> None:
    world = held_world(3)
    world.workers[1].die()
    world.rounds(3, seconds=600.0)
    assert outcome_of(world).phase == "held", "nobody is inside a collective: they can wait"
    world.tell(ResumeOrder(1, "user"))
    world.rounds(3)
    assert outcome_of(world).phase == "accepting"
    world.rounds(3, seconds=LEASE)
    assert outcome_of(world).phase == "held"
    assert outcome_of(world).refused == f"2 of 3 ranks accepted within {LEASE:g} s"


@pytest.mark.parametrize("epoch", [0, 1])
def test_orders_of_an_epoch_that_is_over_are_ignored(epoch: int) -> None:
    world = held_world(2)
    world.tell(ResumeOrder(1, "user"))
    world.rounds(10)
    serial = len(world.register.history)
    world.tell(hold(epoch=epoch), ResumeOrder(epoch, "user"), StopOrder(epoch, "user"))
    assert len(world.register.history) == serial
