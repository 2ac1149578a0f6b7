"""What outlives a daemon: its record, the job's own state, and what follows from both."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

from sentinel import clock, wire
from sentinel.control.barrier import Verdict
from sentinel.daemon.leftover import GRACE, Leftovers
from sentinel.store.shapes import ActionRow, RankRow, RunRow
from sentinel.store.store import Store
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually, sentinel
from tests.daemon.scenes import APPLIED_NAN, SKIPPED, broken, in_state, incidents, status

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
    code, answer = daemon.request("POST", "/api/runs/run/resume", {"lr_scale": 0.5})
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


def test_an_order_in_the_first_second_of_a_run_is_completed_on_the_record(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    code, answer = daemon.request("POST", "/api/runs/run/pause")
    assert code == 200, answer
    for rank in job.ranks:
        eventually(lambda rank=rank: rank.obey() or rank.orders)  # type: ignore[misc]
    daemon.kill()
    with sqlite3.connect(daemon.state / "sentinel.db") as record:
        record.execute("DELETE FROM ranks")  # as it is until the first second is over
    job.train_until_stand()
    daemon.start()
    job.connect()
    eventually(lambda: [row.state for row in _actions(daemon)] == ["done"])
    assert _actions(daemon)[0].step == job.step


def test_what_was_asked_of_a_job_that_is_gone_has_lapsed_when_another_takes_its_name(
    daemon: Daemon,
) -> None:
    job = FakeJob(daemon.place).connect()
    eventually(lambda: _ranks_known(daemon))
    assert daemon.request("POST", "/api/runs/run/pause")[0] == 200
    daemon.kill()
    job.vanish()
    daemon.start()
    code, answer = daemon.request("POST", "/api/runs/run/resume")
    assert (code, "has come back" in answer.decode()) == (409, True)
    FakeJob(daemon.place, pid=9000).connect()
    eventually(lambda: [row.state for row in _actions(daemon)] == ["lapsed", "refused"])


def _actions(daemon: Daemon) -> list[ActionRow]:
    store = Store.open(daemon.state, readonly=True)
    try:
        return store.actions("run")
    finally:
        store.close()


def _ranks_known(daemon: Daemon) -> bool:
    store = Store.open(daemon.state, readonly=True)
    try:
        return len(store.ranks("run")) == 2
    finally:
        store.close()


def test_another_job_by_the_same_name_is_a_new_one(daemon: Daemon) -> None:
    job = broken(daemon)
    daemon.kill()
    job.vanish()
    daemon.start()
    new = FakeJob(daemon.place, pid=9000).connect()
    new.train()
    assert status(daemon)["state"] == "running"
    eventually(lambda: incidents(daemon)[0]["state"] == "resolved")
    # Its orders are counted anew, and are on record as its own.
    assert daemon.request("POST", "/api/runs/run/pause")[0] == 200
    new.train_until_stand()
    assert in_state(daemon, new, "held")["hold"]["step"] == new.step
    new.vanish()


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
