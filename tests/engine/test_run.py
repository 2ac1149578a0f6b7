"""One run, whole: what is told when, of whom, and how often."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sentinel.engine.rule import MAX_LIVE
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import Cause
from sentinel.wire import Goodbye
from tests.engine import world
from tests.engine.measured import APPLIED, LOSS, NAMES, NAN, WELL
from tests.engine.world import Job, actions, alerts, incidents, states, steps


def test_what_cannot_wait_is_told_the_moment_its_frame_arrives() -> None:
    job = Job([APPLIED], NAMES, 64)
    job.step(1, WELL)
    job.now += 0.1
    told = job.frame(17, 2, {**WELL, "nonfinite_update": 1.0}, {"nonfinite_update": "blocks.3"})
    assert job.engine.step == 1
    (wanted,) = actions(told)
    assert (wanted.action, wanted.rule, wanted.step) == ("pause", "Applied", 2)
    assert (wanted.unattended, wanted.labels) == ("stop", {"rank": "17"})
    assert wanted.reason == "blocks.3 on rank 17 of host17 at step 2: 1.0, 1.0"
    (opened,) = incidents(told)
    assert opened.cause == Cause(
        "Applied", "nonfinite_update", 2, 17, "host17", "cuda:17", "blocks.3"
    )
    assert [type(one).__name__ for one in told] == [
        "IncidentChanged",
        "AlertChanged",
        "ActionWanted",
    ]
    assert [alerts(told)[0].incident, wanted.incident] == [opened.id] * 2


def test_what_was_judged_at_once_is_not_judged_again_with_the_step() -> None:
    rule = world.rule("by_rank(nonfinite_update) > 0", "Twice", holds=steps(2))
    job = Job([rule], NAMES)
    assert job.step(1, {**WELL, "nonfinite_update": 1.0}) == []
    assert states(job.step(2, WELL, {1: {"nonfinite_update": 1.0}})) == [("Twice", "firing", 1)]


def test_what_is_pending_for_a_rank_does_not_outlive_its_way_back() -> None:
    rule = world.rule("by_rank(nonfinite_update) > 0", "Twice", holds=steps(2))
    bad = {**WELL, "nonfinite_update": 1.0}
    back = Job([rule], NAMES, 1)
    back.frame(0, 5, bad)
    assert back.frame(0, 4, bad) == []
    assert states(back.frame(0, 5, bad)) == [("Twice", "firing", 4)]
    born_again = Job([rule], NAMES, 1)
    born_again.frame(0, 5, bad)
    born_again.hello(0, "b", step=5)
    assert born_again.frame(0, 6, bad) == []
    assert states(born_again.frame(0, 7, bad)) == [("Twice", "firing", 6)]


def test_a_late_frame_is_still_heard_for_what_is_its_ranks_own() -> None:
    job = Job([APPLIED], NAMES, patience=5.0)
    job.frame(0, 1, WELL)
    job.tick(6.0)
    assert states(job.frame(1, 1, {**WELL, "nonfinite_update": 1.0})) == [("Applied", "firing", 1)]


def test_the_same_first_module_is_told_when_the_alert_fires_later() -> None:
    rule = world.rule("by_rank(nonfinite_activation) > 0", "Lasting", holds=steps(3))
    job = Job([rule], NAMES)
    for step, module in enumerate(("first", "second", "third"), 1):
        bad = {**WELL, "nonfinite_activation": 1.0}
        job.frame(0, step, bad, {"nonfinite_activation": module})
    (opened,) = incidents(job.told)
    assert (opened.cause.step, opened.cause.module, opened.opened_step) == (1, "first", 3)


def test_the_worst_severity_is_the_incidents() -> None:
    job = Job([LOSS, APPLIED], NAMES, 1)
    job.step(1, {**WELL, "loss": NAN})
    told = job.step(2, {**WELL, "nonfinite_update": 1.0})
    assert [(one.change, one.severity) for one in incidents(job.told)] == [
        ("opened", "warning"),
        ("updated", "critical"),
    ]
    assert incidents(told)[0].cause.rule == "Loss"


def test_an_incident_is_over_after_some_quiet_steps() -> None:
    job = Job([LOSS], NAMES, 1)
    job.step(1, {**WELL, "loss": NAN})
    job.step(2, {**WELL, "loss": NAN})
    for step in range(3, 20):
        job.step(step, WELL)
    assert states(job.told) == [("Loss", "firing", 1), ("Loss", "resolved", 1)]
    assert all(math.isnan(one.value) for one in alerts(job.told))
    assert [one.change for one in incidents(job.told)] == ["opened", "resolved"]
    assert job.step(30, {**WELL, "loss": NAN})
    first, _, again = incidents(job.told)
    assert first.id != again.id


def test_what_follows_while_an_incident_is_open_belongs_to_it() -> None:
    job = Job([LOSS], NAMES, 1)
    job.step(1, {**WELL, "loss": NAN})
    for step in range(2, 10):
        job.step(step, WELL)
    job.step(10, {**WELL, "loss": NAN})
    assert [one.change for one in incidents(job.told)] == ["opened"]
    assert len({one.incident for one in alerts(job.told)}) == 1
    for step in range(11, 22):  # it resolves at 13, and that is the first quiet step
        job.step(step, WELL)
        assert len(incidents(job.told)) == 1
    assert [one.change for one in incidents(job.step(22, WELL))] == ["resolved"]


def test_alerts_neither_repeat_nor_resolve_when_the_run_goes_back() -> None:
    above = world.rule("loss > 2 * mean(loss[3])", "Above")
    job = Job([above, APPLIED], NAMES, 1)
    for step in range(1, 8):
        job.step(step, WELL)
    job.step(8, {**WELL, "loss": 9.0, "nonfinite_update": 1.0})
    before = list(job.told)
    assert states(before) == [("Applied", "firing", 8), ("Above", "firing", 8)]
    for step in (5, 6, 7):
        job.step(step, {**WELL, "loss": 9.0, "nonfinite_update": 1.0})
    assert alerts(job.told) == alerts(before)
    (back,) = incidents(job.told)[len(incidents(before)) :]
    assert back.silent, "whoever had it go back knows"
    assert [one.title for one in back.evidence] == ["the run went back from step 8 to step 4"]
    assert states(job.step(8, {**WELL, "nonfinite_update": 1.0})) == [("Above", "resolved", 8)]


@pytest.mark.parametrize("keeps", [0, 2])
def test_at_most_some_dozens_of_alerts_of_a_rule_are_followed(keeps: int) -> None:
    job = Job([replace(LOSS, keeps=steps(keeps))], NAMES, 200)
    job.step(1, {**WELL, "loss": NAN})
    assert len(alerts(job.told)) == MAX_LIVE
    assert job.engine.unfollowed == {"Loss": 200 - MAX_LIVE}
    for step in range(2, 6):
        job.step(step, WELL)
    assert job.engine.unfollowed == {}
    assert len(states(job.told)) == 2 * MAX_LIVE


def test_the_first_to_break_is_followed_though_it_is_heard_last() -> None:
    job = Job([replace(LOSS, keeps=steps(5))], NAMES, 200)
    job.step(1, WELL)
    for rank in range(150):
        job.frame(rank, 2, WELL)
        job.frame(rank, 3, {**WELL, "loss": NAN})
    job.frame(199, 2, {**WELL, "loss": NAN})
    cause = incidents(job.told)[-1].cause
    assert (cause.rank, cause.step) == (199, 2)
    for rank in range(150, 199):
        job.frame(rank, 2, {**WELL, "loss": NAN})
    assert len(alerts(job.told)) == MAX_LIVE + 1, "nobody began before the first"


def test_over_a_step_too_at_most_some_dozens_are_followed() -> None:
    rule = world.rule("by_rank(loss) > loss - 1 and loss > 0", "All")
    job = Job([rule], NAMES, 100)
    job.step(1, WELL)
    assert len(alerts(job.told)) == MAX_LIVE
    assert {one.labels["rank"] for one in alerts(job.told)} == {str(r) for r in range(MAX_LIVE)}
    assert job.engine.unfollowed == {"All": 100 - MAX_LIVE}
    job.step(2, {**WELL, "loss": 0.0})
    assert job.engine.unfollowed == {}


def test_a_fault_in_one_rule_switches_off_that_rule_alone() -> None:
    layers = [f"layer_grad_norm/{at}" for at in range(1601)]
    broken = world.rule("layer_grad_norm > mean(layer_grad_norm[10000])", "Broken")
    fine = world.rule("loss > 3", "Fine")
    job = Job([broken, fine], [*layers, "loss"], 1)
    job.step(1, dict.fromkeys([*layers, "loss"], 1.0))
    assert job.engine.rule_errors == {"Broken": 1}
    told = job.step(2, dict.fromkeys([*layers, "loss"], 9.0))
    assert states(told) == [("Fine", "firing", 2)]
    assert job.engine.rule_errors == {"Broken": 1}


def test_layers_are_alerts_of_their_own() -> None:
    rule = world.rule("layer_grad_norm > 3", "Layer", summary="{layer} = {module}: {value:.1f}")
    job = Job([rule], ["layer_grad_norm/a", "layer_grad_norm/b"])
    told = job.step(1, {"layer_grad_norm/a": 2.0, "layer_grad_norm/b": 8.0})
    (alert,) = alerts(told)
    assert (alert.labels, alert.value, alert.score) == ({"layer": "b"}, 4.0, 4.0)
    assert alert.summary == "b = b: 4.0"
    assert incidents(told)[0].cause.module == "b"


# The end of a run, and what comes after it.

SILENT = world.rule("by_rank(silence) > 30", "Silent", severity="critical")
GONE = world.rule("by_rank(lost) > 0", "Gone", severity="critical")


def test_when_the_job_ends_whoever_said_no_goodbye_is_lost() -> None:
    job = Job([SILENT, GONE], NAMES)
    job.engine.feed(0, Goodbye("finished"), job.now)
    told = job.engine.ended(job.now + 1)
    assert [(one.rule, one.labels) for one in alerts(told)] == [("Gone", {"rank": "1"})]


def test_a_crash_that_follows_a_nan_belongs_to_it() -> None:
    job = Job([LOSS, GONE], NAMES)
    job.step(1, WELL)
    job.frame(0, 2, WELL)
    job.frame(1, 2, {**WELL, "loss": NAN})
    told = job.engine.ended(job.now + 1)
    assert [one.rule for one in alerts(told)] == ["Gone", "Gone"]
    assert [one.change for one in incidents(told)] == ["updated"]  # it is critical now
    assert incidents(told)[0].cause.rule == "Loss"


def test_a_silence_after_the_last_step_that_others_began_is_not_its_cause() -> None:
    job = Job([LOSS, SILENT], NAMES, patience=60.0)
    job.step(1, WELL)
    job.frame(0, 2, {**WELL, "loss": NAN})  # rank 1 hangs in step 2
    told = job.tick(31.0)  # patience has not ended, step 2 is still open
    assert [(one.rule, one.step) for one in alerts(told)] == [("Silent", 2)] * 2
    assert incidents(told)[-1].cause.rule == "Loss"


def test_the_end_of_a_run_resolves_what_no_longer_held() -> None:
    job = Job([LOSS, APPLIED], NAMES, 1)
    job.step(1, {**WELL, "loss": NAN})
    job.step(2, WELL)
    job.engine.feed(0, Goodbye("finished"), job.now)
    told = job.engine.ended(job.now + 1)
    assert states(told) == [("Loss", "resolved", 1)]
    assert [one.change for one in incidents(told)] == ["resolved"]

    job = Job([LOSS, APPLIED], NAMES, 1)
    job.step(1, {**WELL, "loss": NAN})
    job.step(2, WELL)
    job.engine.feed(0, Goodbye("stopped"), job.now)
    told = job.engine.ended(job.now + 1)
    assert states(told) == [("Loss", "resolved", 1)]
    assert incidents(told) == [], "it may come back, and nobody knows that it is mended"

    job = Job([LOSS, APPLIED], NAMES, 1)
    job.step(1, {**WELL, "nonfinite_update": 1.0})
    assert job.engine.ended(job.now + 1) == [], "what still held stays open"


def test_the_last_steps_of_a_job_are_judged_when_it_ends() -> None:
    job = Job([world.rule("loss > 3")], NAMES)
    job.frame(0, 1, {**WELL, "loss": 9.0})
    assert states(job.engine.ended(job.now)) == [("Rule", "firing", 1)]


def test_another_job_of_the_same_name_begins_with_a_clean_slate() -> None:
    job = Job([LOSS, APPLIED, GONE], NAMES)
    job.step(5, {**WELL, "nonfinite_update": 1.0})
    first = incidents(job.told)[0].id
    for rank in (0, 1):
        job.engine.feed(rank, Goodbye("finished"), job.now)
    assert job.engine.ended(job.now) == []
    told = job.hello(0, "b")
    assert {one.state for one in alerts(told)} == {"resolved"}
    assert [(one.change, one.id) for one in incidents(told)] == [("resolved", first)]
    job.frame(0, 1, WELL)
    assert job.engine.step == 5, "rank 1 is waited for, though it is known only from before"
    assert job.hello(1, "b") == []
    assert [one.rule for one in alerts(job.frame(1, 1, {**WELL, "loss": NAN}))] == ["Loss"]
    assert job.engine.step == 1
    assert len(actions(job.step(2, {**WELL, "nonfinite_update": 1.0}))) == 1


# After a restart of the daemon.


def test_an_incident_goes_on_in_a_new_daemon() -> None:
    job = Job([LOSS, APPLIED], NAMES)
    job.step(7, WELL, {1: {"loss": NAN}})
    (opened,) = incidents(job.told)
    after = Job([LOSS, APPLIED], NAMES, greet=False)
    after.engine.adopt(world.open_incident(job.told))
    for rank in (0, 1):
        after.hello(rank)
    assert after.step(8, WELL, {1: {"loss": NAN}}) == [], "it neither repeats nor resolves"
    for step in range(9, 30):
        after.step(step, WELL)
    assert states(after.told) == [("Loss", "resolved", 7)]
    assert [(one.change, one.id) for one in incidents(after.told)] == [("resolved", opened.id)]


def test_an_adopted_alert_of_a_rule_that_is_gone_resolves() -> None:
    job = Job([LOSS], NAMES)
    job.step(7, WELL, {1: {"loss": NAN}})
    changed = world.rule("nonfinite(loss)", "Loss")
    for rules in ([APPLIED], [changed]):
        after = Job(rules, NAMES, greet=False)
        after.engine.adopt(world.open_incident(job.told))
        assert states(after.tick()) == [("Loss", "resolved", 7)]


def test_ids_of_incidents_differ_between_runs_and_times() -> None:
    ids = set()
    for run, now in (("a", 1.0), ("b", 1.0), ("a", 2.0)):
        engine = RunEngine(run, [replace(LOSS)])
        engine.feed(0, world.hello(0, 1, NAMES), now)
        told = engine.feed(0, world.frame(1, 1, NAMES, {"loss": NAN}), now)
        ids |= {one.id for one in incidents(told)}
    assert len(ids) == 3
    assert all(len(one) == 10 for one in ids)


def test_a_rule_asks_for_its_action_once_however_many_ranks_it_fires_for() -> None:
    job = Job([APPLIED], NAMES, 8)
    job.step(1, {**WELL, "nonfinite_update": 1.0})
    assert len(alerts(job.told)) == 8
    assert len(actions(job.told)) == 1
    job.step(2, WELL)
    job.step(3, WELL, {3: {"nonfinite_update": 1.0}})
    assert len(actions(job.told)) == 2, "it asks again once none was firing any more"


def test_one_label_of_a_signal_is_judged_by_its_name() -> None:
    rules = [
        world.rule('logged["val_loss"] > 3', "Val"),
        world.rule('by_rank(layer_grad_norm["h.1"]) > 5', "Layer"),
        world.rule('missing(logged["never"])', "Never"),
        world.rule('layer_grad_norm > 3 * layer_grad_norm["h.0"]', "Ratio"),
    ]
    names = ["logged/accuracy", "logged/val_loss", "layer_grad_norm/h.0", "layer_grad_norm/h.1"]
    job = Job(rules, names)
    job.step(1, {"logged/accuracy": 9.0, "layer_grad_norm/h.0": 9.0, "layer_grad_norm/h.1": 4.0})
    assert states(job.told) == [("Never", "firing", 1)]
    told = job.step(
        2,
        {"logged/val_loss": 4.0, "layer_grad_norm/h.0": 1.0},
        {0: {"layer_grad_norm/h.1": 4.0}, 1: {"layer_grad_norm/h.1": 16.0}},
    )
    fired = {(one.rule, *one.labels.items()): one.value for one in alerts(told)}
    assert fired == {
        ("Val",): 4.0,
        ("Layer", ("rank", "1")): 16.0,
        ("Ratio", ("layer", "h.1")): 20.0**0.5,
    }
