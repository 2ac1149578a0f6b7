"""What outlives a daemon: its record, the job's own state, and what follows from both."""

from __future__ import annotations

import itertools
import json
import sqlite3
from dataclasses import replace

from sentinel import clock, wire
from sentinel.control import outcome as control
from sentinel.control.barrier import Verdict
from sentinel.daemon.leftover import GRACE, Leftovers
from sentinel.store.shapes import ActionRow, RankRow, RunRow
from sentinel.store.store import Store
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually, sentinel
from tests.daemon.scenes import APPLIED_NAN, SKIPPED, Json, broken, in_state, incidents, status

TOO_LATE = (["refused"], ["lapsed"])  # before or after the order was given


def test_a_held_run_is_adopted_after_kill_9_and_can_be_resumed(daemon: Daemon) -> None:
    job = broken(daemon)
    before, (incident,) = status(daemon), incidents(daemon)
    eventually(lambda: _ranks_known(daemon))
    daemon.kill()
    gone = sentinel("status", "--json", "--state", daemon.state)
    assert [(run["run"], run["state"]) for run in json.loads(gone.stdout)] == [("run", "lost")]
    daemon.start()
    job.connect()
    after = in_state(daemon, job, "held")
    grows = {"held_s": 0.0, "cost_hours": 0.0}
    assert after["hold"] | grows == before["hold"] | grows
    assert after["hold"]["held_s"] > before["hold"]["held_s"]
    assert incidents(daemon) == [incident]  # not one action or alert more
    code, answer = daemon.request("POST", "/api/v1/runs/run/resume", {"lr_scale": 0.5})
    assert code == 200, answer
    assert job.await_verdict() is Verdict.GO
    in_state(daemon, job, "running")
    for _ in range(20):
        assert job.train() is Verdict.GO
    eventually(lambda: len(incidents(daemon)[0]["actions"]) == 2)
    assert len(incidents(daemon)) == 1


def _row(daemon: Daemon) -> RunRow:
    store = Store.open(daemon.state, readonly=True)
    try:
        (row,) = store.runs()
        return row
    finally:
        store.close()


def test_a_pause_that_was_under_way_is_completed_on_the_record(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    job.train(APPLIED_NAN)
    eventually(lambda: incidents(daemon) and incidents(daemon)[0]["actions"])
    eventually(lambda: _ranks_known(daemon))
    for rank in job.ranks:
        eventually(lambda rank=rank: rank.obey() or rank.orders)  # type: ignore[misc]
    daemon.kill()
    job.train_until_stand()
    daemon.start()
    job.connect()
    in_state(daemon, job, "held")
    eventually(lambda: incidents(daemon)[0]["actions"][0]["state"] == "done")
    (action,) = incidents(daemon)[0]["actions"]
    assert (action["action"], action["step"]) == ("pause", job.step)


def test_an_order_in_the_first_second_of_a_run_lapses_and_the_hold_is_on_the_record(
    daemon: Daemon,
) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    code, answer = daemon.request("POST", "/api/v1/runs/run/pause")
    assert code == 200, answer
    for rank in job.ranks:
        eventually(lambda rank=rank: rank.obey() or rank.orders)  # type: ignore[misc]
    daemon.kill()
    with sqlite3.connect(daemon.state / "sentinel.db") as record:
        record.execute("DELETE FROM ranks")  # as it is until the first second is over
    job.train_until_stand()
    daemon.start()
    job.connect()
    eventually(lambda: [row.state for row in _actions(daemon)] == ["lapsed", "done"])
    assert _actions(daemon)[1].step == job.step


def test_what_was_asked_of_a_job_that_is_gone_has_lapsed_when_another_takes_its_name(
    daemon: Daemon,
) -> None:
    job = FakeJob(daemon.place).connect()
    eventually(lambda: _ranks_known(daemon))
    assert daemon.request("POST", "/api/v1/runs/run/pause")[0] == 200
    daemon.kill()
    job.vanish()
    daemon.start()
    code, answer = daemon.request("POST", "/api/v1/runs/run/resume")
    assert (code, "has come back" in answer.decode()) == (409, True)
    FakeJob(daemon.place, pid=9000).connect()
    eventually(lambda: [row.state for row in _actions(daemon)] == ["lapsed", "refused"])


def _actions(daemon: Daemon) -> list[ActionRow]:
    store = Store.open(daemon.state, readonly=True)
    try:
        return store.actions("run")
    finally:
        store.close()


def _again(daemon: Daemon, job: FakeJob) -> None:
    """The daemon is killed, and another finds the same job."""
    eventually(lambda: _ranks_known(daemon))
    daemon.kill()
    daemon.start()
    job.connect()


def _told(daemon: Daemon) -> list[tuple[str, str]]:
    """What was asked of the run, and what became of it."""
    told: list[tuple[str, str]] = []
    while True:
        code, answer = daemon.get(f"/api/v1/actions/{len(told) + 1}")
        if code != 200:
            return told
        row = json.loads(answer)
        told.append((row["action"], row["state"]))


def _heard(job: FakeJob) -> None:
    """Wait until every rank has had an order, and is where the register then is."""
    for rank in job.ranks:
        before = len(rank.orders)
        eventually(lambda rank=rank, before=before: rank.obey() or len(rank.orders) > before)  # type: ignore[misc]


def _resume(daemon: Daemon, job: FakeJob, **remedies: float) -> None:
    code, answer = daemon.request("POST", "/api/v1/runs/run/resume", remedies)
    assert code == 200, answer
    _heard(job)


def _phase(job: FakeJob) -> str:
    outcome = control.decode(job.register.value)
    assert outcome is not None
    return outcome.phase


def _come_to(job: FakeJob, phase: str) -> None:
    """Every rank looks in turn, until this is what the register says."""
    for rank in itertools.cycle(job.ranks):
        if _phase(job) == phase:
            return
        rank.barrier.poll(clock.monotonic())


def test_a_daemon_killed_at_any_moment_of_a_resume_has_on_record_what_became_of_it(
    daemon: Daemon,
) -> None:
    job = broken(daemon)
    job.ranks[1].fails = "the checkpoint is gone"
    _resume(daemon, job, lr_scale=0.5)
    assert _phase(job) == "accepting"
    _again(daemon, job)
    eventually(lambda: status(daemon)["state"] == "resuming")
    _come_to(job, "applying")
    job.ranks[0].barrier.poll(clock.monotonic())  # does its own, and waits
    _again(daemon, job)
    assert status(daemon)["state"] == "resuming"
    daemon.kill()
    _come_to(job, "held")  # one has failed while nobody watched
    for rank in job.ranks:
        rank.barrier.poll(clock.monotonic())
        assert rank.applied == []
    daemon.start()
    job.connect()
    in_state(daemon, job, "held")
    eventually(lambda: _told(daemon) == [("pause", "done"), ("resume", "failed")])
    job.ranks[1].fails = ""
    _resume(daemon, job, lr_scale=0.5)
    daemon.kill()  # the ranks go on, and no report arrives
    assert job.await_verdict() is Verdict.GO
    job.train()
    daemon.start()
    job.connect()
    in_state(daemon, job, "running")
    done = [("pause", "done"), ("resume", "failed"), ("resume", "done")]
    eventually(lambda: _told(daemon) == done)
    assert [rank.applied for rank in job.ranks] == [[wire.Remedies(0.5)]] * 2
    job.goodbye()


def test_orders_that_a_daemon_died_before_sending_have_lapsed_also_of_a_held_run(
    daemon: Daemon,
) -> None:
    job = broken(daemon)
    eventually(lambda: _ranks_known(daemon))
    daemon.kill()
    store = Store.open(daemon.state)
    try:  # as it stands on the record between the writing of an order and its sending
        for action in ("resume", "stop"):
            store.add_action(
                "run", action, by="user ada", at=clock.steady(), step=job.step, state="requested"
            )
    finally:
        store.close()
    daemon.start()
    job.connect()
    in_state(daemon, job, "held")

    told = [("pause", "done"), ("resume", "lapsed"), ("stop", "lapsed")]
    eventually(lambda: _told(daemon) == told)
    _resume(daemon, job)  # and the run is none the worse for it
    assert job.await_verdict() is Verdict.GO


def test_a_hold_that_lapses_while_the_daemon_is_gone_is_on_the_record_as_lapsed(
    daemon: Daemon,
) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    assert daemon.request("POST", "/api/v1/runs/run/pause")[0] == 200
    _heard(job)
    eventually(lambda: _ranks_known(daemon))
    daemon.kill()
    job.ranks[1].barrier.depart()
    assert _phase(job) == "released"
    daemon.start()
    job.ranks[0].connect()
    job.ranks[0].heartbeat()
    job.ranks[0].barrier.refresh()

    eventually(lambda: _told(daemon) == [("pause", "lapsed")])
    assert b"rank 1 has left the run" in daemon.get("/api/v1/actions/1")[1]
    assert status(daemon)["state"] == "running"
    job.vanish()


def _ranks_known(daemon: Daemon) -> bool:
    store = Store.open(daemon.state, readonly=True)
    try:
        return len(store.ranks("run")) == 2
    finally:
        store.close()


def test_a_job_that_comes_back_under_another_daemon_goes_on_with_its_incident_alone(
    daemon: Daemon,
) -> None:
    job = broken(daemon)
    (before,) = incidents(daemon)
    daemon.kill()
    job.vanish()
    daemon.start()
    new = FakeJob(daemon.place, pid=9000).connect()
    new.train()
    assert status(daemon)["state"] == "running", "its hold was the old processes'"
    (after,) = eventually(lambda: _with_history(daemon))
    assert (after["id"], after["state"], after["cause"]) == (before["id"], "open", before["cause"])
    assert after["evidence"][-1]["title"] == "the run was restarted at step 0"
    assert {alert["state"] for alert in after["alerts"]} == {"resolved"}
    # Its orders are counted anew, and are on record as its own.
    assert daemon.request("POST", "/api/v1/runs/run/pause")[0] == 200
    new.train_until_stand()
    assert in_state(daemon, new, "held")["hold"]["step"] == new.step
    new.vanish()


def _with_history(daemon: Daemon) -> list[Json]:
    found = incidents(daemon)
    return found if any(one["kind"] == "history" for one in found[0]["evidence"]) else []


def test_a_job_that_was_stopped_over_its_incident_and_comes_back_goes_on_with_it(
    daemon: Daemon,
) -> None:
    job = broken(daemon)
    assert daemon.request("POST", "/api/v1/runs/run/stop", {})[0] == 200
    assert job.await_verdict() is Verdict.STOP
    job.goodbye("stopped")
    in_state(daemon, job, "finished")
    again = FakeJob(daemon.place, pid=9000).connect()
    again.train()
    (incident,) = eventually(lambda: _with_history(daemon))
    assert incident["state"] == "open"
    eventually(lambda: again.train() and incidents(daemon)[0]["state"] == "resolved")
    assert len(incidents(daemon)) == 1
    again.goodbye()


def test_a_job_that_is_started_again_under_a_living_daemon_is_held_anew(daemon: Daemon) -> None:
    job = broken(daemon)
    job.vanish()
    again = FakeJob(daemon.place, pid=9000).connect()
    in_state(daemon, again, "running")
    for _ in range(40):
        again.train()
    eventually(lambda: incidents(daemon)[0]["state"] == "resolved")
    again.train(APPLIED_NAN)
    again.train_until_stand()
    in_state(daemon, again, "held")
    assert len(incidents(daemon)) == 2
    again.vanish()


def test_a_run_by_the_name_of_a_finished_one_begins_anew(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    for _ in range(3):
        job.train(SKIPPED)
    job.goodbye()
    in_state(daemon, job, "finished")
    again = FakeJob(daemon.place, pid=9000).connect()
    again.train()
    eventually(lambda: status(daemon)["step"] == 1)
    assert daemon.metrics()['sentinel_steps_skipped_total{run="run"}'] == 0
    eventually(lambda: [one["state"] for one in incidents(daemon)] == ["resolved"])
    again.goodbye()


def test_a_pause_that_comes_too_late_is_refused_on_the_record(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    for rank in job.ranks:  # in one breath: the run is over before the wish is on the record
        for _ in range(3):
            rank.frame(skipped=1.0)
        rank.send(wire.Goodbye("finished"))
    in_state(daemon, job, "finished")
    eventually(lambda: [a["state"] for a in incidents(daemon)[0]["actions"]] in TOO_LATE)


def test_a_shutdown_loses_nothing(daemon: Daemon) -> None:
    job = broken(daemon)
    assert daemon.stop() == 0
    assert _row(daemon).state == "held"
    daemon.start()
    job.connect()
    in_state(daemon, job, "held")


def test_runs_whose_ranks_do_not_come_back_are_lost(daemon: Daemon) -> None:
    daemon.kill()
    now = clock.steady()
    store = Store.open(daemon.state)
    try:
        row = RunRow("away", started=now)
        rank = RankRow(0, "node-1", 1, "cpu", 5, "forward", now)
        store.save_runs([(row, [rank]), (replace(row, name="over", ended=now), [])])
        leftovers = Leftovers(store, now)
        assert leftovers.given_up(now + GRACE - 1) == []
        lost = leftovers.given_up(now + GRACE)
        assert lost == [(replace(row, state="lost", ended=now + GRACE), [rank])]
        leftovers.settled(["away"])
        assert leftovers.given_up(now + GRACE + 1) == []
    finally:
        store.close()
