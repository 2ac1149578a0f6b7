"""The daemon's half of the hold: what it asks for, believes and records."""

from __future__ import annotations

import pytest

from sentinel.control.ask import ATTEMPTS
from sentinel.control.hold import PATIENCE, Effect, Record, RunControl, Send
from sentinel.control.outcome import Outcome
from sentinel.errors import ControlError
from sentinel.wire import HoldOrder, Remedies, ResumeOrder, Standing, StopOrder


def control(world_size: int = 2) -> RunControl:
    return RunControl("demo", world_size, offers=frozenset({"scale_lr"}))


def pause(run: RunControl, now: float = 0.0) -> list[Effect]:
    return run.pause(by="rule R", reason="a NaN", step=40, step_seconds=0.05, now=now)


def outcome(phase: str, serial: int, **changes: object) -> Outcome:
    fields: dict[str, object] = {
        "serial": serial,
        "epoch": 1,
        "phase": phase,
        "step": 44,
        "asked": 1,
        "by": "rule R",
    }
    return Outcome(**(fields | changes))  # type: ignore[arg-type]  # a table of mixed values


def held(run: RunControl, *, bad_weights: str = "") -> None:
    pause(run)
    run.report(outcome("hold", 1), 1.0)
    for rank in range(run.world_size):
        run.standing(rank, Standing(1, 44, bad_weights if rank == 1 else ""))
    run.report(outcome("held", 2), 2.0)


def records(effects: list[Effect]) -> list[tuple[str, str, str]]:
    return [(one.id, one.action, one.state) for one in effects if isinstance(one, Record)]


def orders(effects: list[Effect]) -> list[HoldOrder | ResumeOrder | StopOrder]:
    return [one.order for one in effects if isinstance(one, Send)]


def state(run: RunControl) -> str:
    return run.state


def test_a_pause_is_recorded_when_asked_for_and_when_done() -> None:
    run = control()
    effects = pause(run)
    assert records(effects) == [("1/pause", "pause", "requested")]
    (order,) = orders(effects)
    assert isinstance(order, HoldOrder)
    assert order.step == 41
    assert run.report(outcome("hold", 1), 1.0) == []
    assert state(run) == "pausing"
    assert records(run.report(outcome("held", 2), 2.0)) == [("1/pause", "pause", "done")]
    assert state(run) == "held"
    assert run.hold is not None
    assert (run.hold.step, run.hold.by, run.hold.since) == (44, "rule R", 2.0)


def test_the_lead_grows_with_the_number_of_steps_that_pass_on_the_way() -> None:
    (slow,) = orders(control().pause(by="", reason="", step=1, step_seconds=10, now=0))
    (fast,) = orders(control().pause(by="", reason="", step=1, step_seconds=0.001, now=0))
    assert isinstance(slow, HoldOrder)
    assert isinstance(fast, HoldOrder)
    assert slow.lead == 2
    assert fast.lead > 40


def test_reports_of_other_ranks_and_old_ones_change_nothing() -> None:
    run = control()
    held(run)
    assert run.report(outcome("held", 2), 3.0) == []
    assert run.report(outcome("hold", 1), 3.0) == []
    assert state(run) == "held"


def test_a_resume_with_remedies_is_ordered_recorded_and_confirmed() -> None:
    run = control()
    held(run)
    effects = run.resume(by="user ada", remedies=Remedies(lr_scale=0.5), force=False, now=5.0)
    assert orders(effects) == [ResumeOrder(1, "user ada", Remedies(lr_scale=0.5))]
    assert records(effects) == [("1/resume/1", "resume", "requested")]
    run.report(outcome("accepting", 3, attempt=1, by="user ada"), 6.0)
    assert state(run) == "resuming"
    done = run.report(outcome("resumed", 4, attempt=1, by="user ada"), 7.0)
    assert records(done) == [("1/resume/1", "resume", "done")]
    assert (run.state, run.hold) == ("running", None)


def test_a_resume_that_a_rank_refuses_leaves_the_run_held_and_says_why() -> None:
    run = control()
    held(run)
    run.resume(by="user ada", remedies=Remedies(lr_scale=0.5), force=False, now=5.0)
    run.report(outcome("accepting", 3, attempt=1), 6.0)
    effects = run.report(outcome("held", 4, attempt=1, refused="rank 1: cannot"), 7.0)
    (record,) = [one for one in effects if isinstance(one, Record)]
    assert (record.id, record.state, record.reason) == ("1/resume/1", "failed", "rank 1: cannot")
    assert state(run) == "held"
    assert run.hold is not None
    assert run.hold.since == 2.0


def test_a_plain_resume_with_non_finite_weights_is_refused_unless_forced() -> None:
    run = control()
    held(run, bad_weights="h.0.mlp.weight")
    with pytest.raises(ControlError, match=r"non-finite weights \(h.0.mlp.weight on rank 1\)"):
        run.resume(by="user", remedies=Remedies(), force=False, now=5.0)
    assert state(run) == "held"
    assert orders(run.resume(by="user", remedies=Remedies(), force=True, now=5.0))


def test_a_resume_waits_for_every_rank_to_have_looked_at_its_weights() -> None:
    run = control()
    pause(run)
    run.standing(0, Standing(1, 44))
    run.report(outcome("held", 2), 2.0)
    with pytest.raises(ControlError, match="only 1 of 2 ranks"):
        run.resume(by="user", remedies=Remedies(), force=False, now=5.0)


def test_remedies_that_a_trainer_does_not_offer_are_refused_by_name() -> None:
    run = control()
    held(run)
    with pytest.raises(ControlError, match=r"skip_batches: its trainer offers scale_lr"):
        run.resume(by="user", remedies=Remedies(skip_batches=3), force=False, now=5.0)


def test_what_is_not_held_cannot_be_resumed_and_what_is_cannot_be_paused() -> None:
    run = control()
    with pytest.raises(ControlError, match="running, not held"):
        run.resume(by="user", remedies=Remedies(), force=False, now=0.0)
    held(run)
    with pytest.raises(ControlError, match="already held after step 44"):
        pause(run)


def test_a_hold_that_lapses_is_asked_for_again_farther_ahead_and_then_given_up() -> None:
    run = control()
    (first,) = orders(pause(run))
    assert isinstance(first, HoldOrder)
    lead = first.lead
    for attempt in range(1, ATTEMPTS):
        effects = run.report(outcome("released", 2 * attempt, epoch=attempt), 1.0)
        (again,) = orders(effects)
        assert isinstance(again, HoldOrder)
        assert (again.epoch, again.asked, again.lead) == (attempt + 1, 1, 2 * lead)
        lead = again.lead
    effects = run.report(outcome("released", 99, epoch=ATTEMPTS), 1.0)
    assert records(effects) == [("1/pause", "pause", "lapsed")]
    assert state(run) == "running"


def test_an_order_that_nobody_answers_is_given_up() -> None:
    run = control()
    pause(run)
    assert run.tick(PATIENCE - 1) == []
    assert records(run.tick(PATIENCE + 1)) == [("1/pause", "pause", "failed")]
    assert state(run) == "running"


def test_stop_ends_a_held_run_and_a_running_one() -> None:
    run = control()
    held(run)
    assert orders(run.stop(by="user", step=44, step_seconds=0.1, now=3.0)) == [StopOrder(1, "user")]
    assert records(run.report(outcome("stopped", 3), 4.0)) == [("1/stop", "stop", "done")]
    other = control()
    effects = other.stop(by="user", step=9, step_seconds=0.1, now=0.0)
    (order,) = orders(effects)
    assert isinstance(order, HoldOrder)
    assert order.then == "stop"
    assert records(effects) == [("1/stop", "stop", "requested")]
    done = other.report(outcome("stopped", 2, then="stop"), 4.0)
    assert records(done) == [("1/stop", "stop", "done")]


def test_a_restarted_daemon_learns_of_a_hold_and_records_it_under_the_same_name() -> None:
    run = control()
    effects = run.report(outcome("held", 2), 50.0)
    assert records(effects) == [("1/pause", "pause", "done")]
    assert state(run) == "held"
    assert run.hold is not None
    assert run.hold.by == "rule R"
    unattended = outcome("resumed", 3, by="unattended: nobody answered")
    assert records(run.report(unattended, 60.0)) == [("1/resume/0", "resume", "done")]


def test_a_rank_that_connects_late_is_told_what_is_pending() -> None:
    run = control()
    assert run.pending() == []
    effects = pause(run)
    assert [one.order for one in run.pending()] == orders(effects)
    run.report(outcome("held", 2), 2.0)
    assert run.pending() == []


def test_a_resume_or_stop_that_nobody_confirmed_has_lapsed_when_the_run_ends() -> None:
    run = control()
    held(run)
    run.resume(by="user ada", remedies=Remedies(lr_scale=0.5), force=False, now=5.0)
    assert records(run.ended(6.0)) == [("1/resume/1", "resume", "lapsed")]
    other = control()
    held(other)
    other.stop(by="user ada", step=44, step_seconds=0.1, now=5.0)
    assert records(other.ended(6.0)) == [("1/stop", "stop", "lapsed")]
    assert other.ended(7.0) == []


def test_an_order_to_a_run_that_ends_has_lapsed() -> None:
    run = control()
    pause(run)
    assert records(run.ended(3.0)) == [("1/pause", "pause", "lapsed")]
    assert run.ended(4.0) == []


def checkpoint(run: RunControl) -> list[Effect]:
    run.offers = frozenset({"save_checkpoint", "load_checkpoint"})
    return run.checkpoint(by="user ada", reason="to be safe", step=40, step_seconds=0.05, now=0.0)


@pytest.mark.parametrize(("refused", "became"), [("", "done"), ("rank 1: disk full", "failed")])
def test_a_checkpoint_is_on_the_record_with_what_became_of_it(refused: str, became: str) -> None:
    run = control()
    effects = checkpoint(run)
    assert records(effects) == [("1/checkpoint", "checkpoint", "requested")]
    (order,) = orders(effects)
    assert isinstance(order, HoldOrder)
    assert order.then == "checkpoint"
    run.report(outcome("hold", 1, then="checkpoint"), 1.0)
    run.report(outcome("applying", 3, then="checkpoint", attempt=1), 2.0)
    assert state(run) == "resuming"
    end = run.report(outcome("resumed", 4, then="checkpoint", attempt=1, refused=refused), 3.0)
    assert records(end) == [("1/checkpoint", "checkpoint", became)]
    assert state(run) == "running"


def test_a_checkpoint_that_the_trainer_cannot_save_is_refused() -> None:
    with pytest.raises(ControlError, match="cannot save a checkpoint: its trainer offers scale_lr"):
        control().checkpoint(by="user", reason="", step=1, step_seconds=0.1, now=0.0)


def test_a_pause_asked_for_during_a_checkpoint_is_ordered_when_that_is_over() -> None:
    run = control()
    checkpoint(run)
    effects = pause(run, now=1.0)
    assert records(effects) == [("2/pause", "pause", "requested")]
    assert orders(effects) == []
    with pytest.raises(ControlError, match="already pausing"):
        pause(run, now=1.0)
    run.report(outcome("hold", 1, epoch=3, then="checkpoint"), 1.0)
    end = run.report(outcome("resumed", 2, epoch=3, then="checkpoint"), 2.0)
    (order,) = orders(end)
    assert isinstance(order, HoldOrder)
    assert (order.epoch, order.asked, order.then) == (4, 2, "hold")
    held = run.report(outcome("held", 4, epoch=4, asked=2), 3.0)
    assert records(held) == [("2/pause", "pause", "done")]


def test_a_rollback_is_the_way_out_of_weights_that_are_not_finite() -> None:
    run = control()
    run.offers = frozenset({"load_checkpoint"})
    held(run, bad_weights="h.0.mlp.weight")
    effects = run.resume(by="user", remedies=Remedies(rollback="step90"), force=False, now=5.0)
    assert orders(effects) == [ResumeOrder(1, "user", Remedies(rollback="step90"), 1)]
    assert [one.reason for one in effects if isinstance(one, Record)] == ["rolled back to step90"]


def test_a_run_whose_rollback_failed_is_resumed_only_by_another_or_by_force() -> None:
    run = control()
    run.offers = frozenset({"load_checkpoint"})
    held(run)
    torn = outcome("held", 5, attempt=1, torn=True, refused="rank 1: truncated")
    run.report(torn, 6.0)
    with pytest.raises(ControlError, match=r"has failed \(rank 1: truncated\)"):
        run.resume(by="user", remedies=Remedies(), force=False, now=7.0)
    effects = run.resume(by="user", remedies=Remedies(rollback="step80"), force=False, now=7.0)
    assert orders(effects) == [ResumeOrder(1, "user", Remedies(rollback="step80"), 2)]


def test_what_is_known_only_by_its_end_is_on_the_record_whole() -> None:
    late = outcome("resumed", 5, attempt=2, by="user ada", asked_by="rule R", refused="")
    whole = [("1/pause", "pause", "done"), ("1/resume/2", "resume", "done")]
    run = control()
    effects = run.report(late, 50.0)
    assert records(effects) == whole
    assert [one.by for one in effects if isinstance(one, Record)] == ["rule R", "user ada"]
    other = control()  # that has heard of a later hold first
    other.report(outcome("held", 9, epoch=3, asked=3), 50.0)
    assert records(other.report(late, 51.0)) == whole
    assert other.report(late, 52.0) == []
    assert state(other) == "held"


def test_a_stop_that_no_rank_heard_is_told_to_those_that_come_back_and_given_up_in_the_end() -> (
    None
):
    run = control()
    held(run)
    run.stop(by="user", step=44, step_seconds=0.1, now=3.0)
    assert [one.order for one in run.pending()] == [StopOrder(1, "user")]
    assert records(run.tick(4.0 + PATIENCE)) == [("1/stop", "stop", "failed")]
    assert run.pending() == []


def test_an_order_whose_number_was_taken_by_one_of_an_earlier_daemon_is_given_again() -> None:
    run = control()
    pause(run)
    effects = run.report(outcome("resumed", 7, epoch=6, asked=5, by="user"), 1.0)
    (order,) = orders(effects)
    assert isinstance(order, HoldOrder)
    assert order.epoch == 7
    assert state(run) == "pausing"


def test_an_order_that_finds_the_run_held_already_has_failed_and_says_why() -> None:
    run = control()
    pause(run)
    effects = run.report(outcome("held", 7, epoch=6, asked=5), 1.0)
    failed = [one for one in effects if isinstance(one, Record) and one.state == "failed"]
    assert [(one.id, one.reason) for one in failed] == [
        ("1/pause", "the run was to stand after step 44 already")
    ]
    assert state(run) == "held"
