"""From a bad step to a held run and on: what rules and people ask for, and what is on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sentinel import wire
from sentinel.control.barrier import Verdict
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually, sentinel
from tests.daemon.scenes import APPLIED_NAN, SKIPPED, broken, in_state, incidents, status


def test_an_applied_nan_holds_all_ranks_at_the_same_step(daemon: Daemon) -> None:
    job = broken(daemon)
    run = status(daemon)
    assert run["hold"]["step"] == job.step
    assert run["hold"]["by"] == "rule:NonFiniteUpdate"
    assert [(rank["step"], rank["phase"]) for rank in run["ranks"]] == [(job.step, "held")] * 2
    (incident,) = incidents(daemon)
    cause = incident["cause"]
    assert (cause["rule"], cause["step"], cause["rank"], cause["module"]) == (
        "NonFiniteActivation",
        6,
        1,
        "layers.1.mlp",
    )
    (action,) = incident["actions"]
    assert (action["action"], action["state"], action["step"]) == ("pause", "done", job.step)


def test_a_resume_carries_its_remedies_to_every_rank(daemon: Daemon) -> None:
    job = broken(daemon)
    code, answer = daemon.request(
        "POST", "/api/v1/runs/run/resume", {"lr_scale": 0.5, "skip_batches": 7}
    )
    assert code == 200, answer
    assert job.await_verdict() is Verdict.GO
    assert [rank.applied for rank in job.ranks] == [[wire.Remedies(0.5, 7)]] * 2
    in_state(daemon, job, "running")
    eventually(
        lambda: (
            [(a["action"], a["state"]) for a in incidents(daemon)[0]["actions"]]
            == [("pause", "done"), ("resume", "done")]
        )
    )
    assert incidents(daemon)[0]["actions"][1]["by"].startswith("user ")
    for _ in range(15):  # the alerts that held it are acknowledged: they do not hold it again
        assert job.train() is Verdict.GO


def test_a_nan_that_comes_back_after_a_resume_holds_the_run_once_more(daemon: Daemon) -> None:
    job = broken(daemon)
    assert daemon.request("POST", "/api/v1/runs/run/resume", {})[0] == 200
    assert job.await_verdict() is Verdict.GO
    in_state(daemon, job, "running")
    job.train()  # well: much sooner than the alert would have resolved by itself
    job.train(APPLIED_NAN)
    job.await_hold_order()
    job.train_until_stand()
    in_state(daemon, job, "held")
    assert [(a["action"], a["state"]) for a in incidents(daemon)[0]["actions"]] == [
        ("pause", "done"),
        ("resume", "done"),
        ("pause", "done"),
    ]


def test_a_remedy_that_a_trainer_does_not_offer_is_refused_and_recorded(daemon: Daemon) -> None:
    job = broken(daemon, offers=("scale_lr",))
    code, answer = daemon.request("POST", "/api/v1/runs/run/resume", {"skip_batches": 7})
    assert code == 409
    assert "cannot be resumed with skip_batches" in json.loads(answer)["error"]
    last = incidents(daemon)[0]["actions"][-1]
    assert (last["action"], last["state"]) == ("resume", "refused")
    assert job.poll() is Verdict.STAND


def test_weights_that_are_not_finite_are_trained_on_only_by_force(daemon: Daemon) -> None:
    job = broken(daemon, bad_weights="layers.1.mlp.weight")
    refused = sentinel("resume", "--state", daemon.state)
    assert refused.returncode == 1
    assert "non-finite weights (layers.1.mlp.weight" in refused.stderr
    assert "Traceback" not in refused.stderr
    code, _ = daemon.request("POST", "/api/v1/runs/run/resume", {"force": True})
    assert code == 200
    assert job.await_verdict() is Verdict.GO


def test_a_held_run_can_be_stopped(daemon: Daemon) -> None:
    job = broken(daemon)
    assert daemon.request("POST", "/api/v1/runs/run/stop", {})[0] == 200
    assert job.await_verdict() is Verdict.STOP
    job.goodbye("stopped")
    assert in_state(daemon, job, "finished")["hold"] is None
    states = {a["action"]: a["state"] for a in incidents(daemon)[0]["actions"]}
    assert states == {"pause": "done", "stop": "done"}


def test_a_running_run_can_be_stopped_after_a_common_step(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    assert daemon.request("POST", "/api/v1/runs/run/stop")[0] == 200
    eventually(lambda: job.train() is not Verdict.GO)
    assert job.await_verdict() is Verdict.STOP


def test_a_person_can_pause_and_resume_from_the_command_line(daemon: Daemon) -> None:
    job = FakeJob(daemon.place, run="by hand").connect()
    job.train()
    terms = ("--hold-for", "1h30m", "--unattended", "stop")
    asked = sentinel("pause", "by hand", "--wait", "0", *terms, "--state", daemon.state)
    assert asked.returncode == 0, asked.stderr
    job.train_until_stand()
    run = in_state(daemon, job, "held", "by%20hand")
    assert run["hold"]["by"].startswith("user ")
    assert (run["hold"]["unattended"], run["hold"]["hold_for_s"]) == ("stop", 5400.0)
    shown = sentinel("status", "by hand", "--state", daemon.state).stdout
    assert "If nobody answers: the run is stopped at" in shown
    (asked_for, *_) = json.loads(
        sentinel("audit", "by hand", "--json", "--state", daemon.state).stdout
    )
    assert asked_for["row"]["order"] == {"unattended": "stop", "hold_for": 5400.0}
    again = sentinel("pause", "--state", daemon.state)
    assert again.returncode == 1
    assert "already held" in again.stderr
    assert sentinel("resume", "--wait", "0", "--state", daemon.state).returncode == 0
    assert job.await_verdict() is Verdict.GO
    job.train()


@pytest.mark.parametrize("action", ["resume", "pause", "stop"])
def test_an_order_to_a_run_that_has_ended_is_refused_and_recorded(
    daemon: Daemon, action: str
) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    job.goodbye()
    in_state(daemon, job, "finished")
    done = sentinel(action, "run", "--state", daemon.state)
    assert done.returncode == 1
    assert "run run is finished" in done.stderr
    code, row = daemon.get("/api/v1/actions/1")
    assert code == 200
    assert (json.loads(row)["action"], json.loads(row)["state"]) == (action, "refused")


def test_a_resume_of_a_run_that_is_not_held_is_refused_with_the_reason(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    done = sentinel("resume", "--state", daemon.state)
    assert done.returncode == 1
    assert "is running, not held" in done.stderr
    assert json.loads(daemon.get("/api/v1/actions/1")[1])["state"] == "refused"
    job.goodbye()


def test_one_skipped_step_warns_and_training_goes_on(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    for _ in range(5):
        job.train()
    job.train(SKIPPED)
    for _ in range(30):
        assert job.train() is Verdict.GO
    eventually(lambda: status(daemon)["step"] == 36)
    (incident,) = incidents(daemon)
    assert incident["severity"] == "warning"
    assert incident["actions"] == []
    assert daemon.metrics()['sentinel_steps_skipped_total{run="run"}'] == 1
    job.goodbye()


def test_a_daemon_that_only_observes_acts_on_no_rule_but_on_people(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state", options=("--observe",)).start()
    try:
        job = FakeJob(daemon.place).connect()
        for _ in range(3):
            job.train(APPLIED_NAN)
        eventually(lambda: incidents(daemon) and incidents(daemon)[0]["actions"])
        eventually(lambda: incidents(daemon)[0]["actions"][0]["state"] == "refused")
        for _ in range(20):
            assert job.train(APPLIED_NAN) is Verdict.GO
        assert daemon.request("POST", "/api/v1/runs/run/pause")[0] == 200
        job.train_until_stand()
        in_state(daemon, job, "held")
    finally:
        daemon.kill()


def test_runs_are_served_beside_each_other(daemon: Daemon) -> None:
    good = FakeJob(daemon.place, run="good", ranks=1).connect()
    bad = broken(daemon, run="bad")
    for _ in range(10):
        assert good.train() is Verdict.GO
    several = sentinel("pause", "--state", daemon.state)
    assert several.returncode == 1
    assert "bad" in several.stderr
    assert "good" in several.stderr
    assert status(daemon, "bad")["state"] == "held"
    assert status(daemon, "good")["state"] == "running"
    assert incidents(daemon, "good") == []
    bad.vanish()
    good.goodbye()


RULES = """\
extends: default
groups:
  - name: mine
    rules:
      - {alert: NonFiniteUpdate, actions: [stop]}
      - {alert: LossHigh, expr: loss > 100, actions: [checkpoint]}
"""


def test_rules_can_ask_for_a_checkpoint_or_for_the_end_of_the_run(tmp_path: Path) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(RULES)
    daemon = Daemon(tmp_path / "state", options=("--rules", str(rules))).start()
    try:
        job = FakeJob(daemon.place, offers=("save_checkpoint",)).connect()
        job.train({0: {"loss": 1000.0}, 1: {"loss": 1000.0}})
        order = job.await_hold_order()
        assert (order.then, order.by) == ("checkpoint", "rule:LossHigh")
        job.vanish()

        ending = FakeJob(daemon.place, run="ending").connect()
        ending.train(APPLIED_NAN)
        order = ending.await_hold_order()
        assert (order.then, order.by) == ("stop", "rule:NonFiniteUpdate")
        eventually(lambda: ending.train() is not Verdict.GO)
        assert ending.await_verdict() is Verdict.STOP
        ending.goodbye("stopped")
        in_state(daemon, ending, "finished", "ending")
        (action,) = incidents(daemon, "ending")[0]["actions"]
        assert (action["action"], action["state"]) == ("stop", "done")

        unable = FakeJob(daemon.place, run="unable", offers=()).connect()
        unable.train({0: {"loss": 1000.0}, 1: {"loss": 1000.0}})
        eventually(
            lambda: incidents(daemon, "unable") and incidents(daemon, "unable")[0]["actions"]
        )
        (action,) = incidents(daemon, "unable")[0]["actions"]
        assert (action["action"], action["state"]) == ("checkpoint", "refused")
    finally:
        daemon.kill()
