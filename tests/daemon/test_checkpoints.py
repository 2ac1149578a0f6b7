"""Checkpoints as the daemon tracks them: told by ranks, kept on record, gone back to by people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sentinel import wire
from sentinel.control.barrier import Verdict
from sentinel.engine.checkpoint import Checkpoint
from sentinel.store.shapes import ActionRow
from sentinel.store.store import Store
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually, sentinel
from tests.daemon.scenes import APPLIED_NAN, in_state, incidents

ALL = ("scale_lr", "skip_batches", "save_checkpoint", "load_checkpoint", "rewind_data")
NEEDED = 3
CLEAN_STEPS = ("--clean-steps", str(NEEDED))

Json = dict[str, Any]


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for which three clean steps make a checkpoint healthy; each test has its run."""
    daemon = Daemon(tmp_path_factory.mktemp("keeper") / "state", CLEAN_STEPS).start()
    yield daemon
    daemon.kill()


class SavingJob(FakeJob):
    """A job that saves now and then, into a folder that has `there`."""

    there: tuple[str, ...] = ()

    def save(self, *, bad: str = "", ranks: Sequence[int] = (0, 1), keep: int = 9) -> None:
        """All ranks, or these, save a checkpoint after the step they have done."""
        tag = f"step{self.step}"
        self.there = (*self.there, tag)[-keep:]
        for number in ranks:
            name, present = (bad, ()) if number else ("", self.there)
            message = wire.Checkpoint(self.step, tag, "/ckpt", 0.5, name, present)
            self.ranks[number].send(message)

    def go_on(self, steps: int) -> None:
        """As many good steps."""
        for _ in range(steps):
            assert self.train() is Verdict.GO


def saving(daemon: Daemon, run: str, **options: Any) -> SavingJob:
    """A job that has saved after step 5, and done enough clean steps since."""
    job = SavingJob(daemon.place, run=run, offers=ALL, **options)
    job.connect()
    job.go_on(5)
    job.save()
    job.go_on(NEEDED)
    come_to(daemon, run, step5="healthy")
    return job


def break_and_hold(daemon: Daemon, job: SavingJob, run: str) -> None:
    """A NaN is applied to its weights."""
    job.train(APPLIED_NAN)
    job.train_until_stand()
    in_state(daemon, job, "held", run)


def known(daemon: Daemon, run: str) -> list[Json]:
    code, body = daemon.get(f"/api/v1/checkpoints?run={run}")
    assert code == 200, body
    found: list[Json] = json.loads(body)
    return found


def states(daemon: Daemon, run: str) -> dict[str, str]:
    return {one["tag"]: one["state"] for one in known(daemon, run)}


def come_to(daemon: Daemon, run: str, **expected: str) -> None:
    """Wait until these checkpoints are in these states."""
    eventually(lambda: expected.items() <= states(daemon, run).items(), f"{expected}")


def recorded(daemon: Daemon, run: str) -> tuple[dict[str, str], list[ActionRow]]:
    """States of checkpoints, and actions, as the directory has them."""
    store = Store.open(daemon.state, readonly=True)
    try:
        rows: list[Checkpoint] = store.checkpoints(run)
        return {one.tag: one.state for one in rows}, store.actions(run)
    finally:
        store.close()


def test_health_is_judged_on_after_kill_9_from_what_is_on_record(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state", CLEAN_STEPS).start()
    job = saving(daemon, "run")
    job.save(bad="layers.1.weight")
    job.go_on(1)
    job.save(ranks=[0])
    job.go_on(1)
    job.save()
    expected = {"step5": "healthy", "step8": "tainted", "step9": "incomplete"}
    come_to(daemon, "run", **expected, step10="unproven")
    before = known(daemon, "run")
    assert [one["tag"] for one in before if one["last_good"]] == ["step5"]
    why = {one["tag"]: one["why"] for one in before}
    assert "layers.1.weight on rank 1" in why["step8"]
    assert why["step9"] == "not yet told that rank 1 wrote a part"
    eventually(lambda: recorded(daemon, "run")[0] == states(daemon, "run"), "the record")
    daemon.kill()
    daemon.start()
    job.connect()
    assert known(daemon, "run") == before
    job.go_on(NEEDED)
    come_to(daemon, "run", **expected, step10="healthy")
    assert [one["tag"] for one in known(daemon, "run") if one["last_good"]] == ["step10"]
    metrics = daemon.metrics()
    assert metrics['sentinel_last_good_step{run="run"}'] == 10
    assert metrics['sentinel_checkpoints{run="run",state="healthy"}'] == 2
    job.vanish()
    again = SavingJob(daemon.place, pid=9000)  # a new job that begins at the start
    again.connect()
    again.train()
    come_to(daemon, "run", step5="abandoned", step8="tainted", step10="abandoned")
    assert 'sentinel_last_good_step{run="run"}' not in daemon.metrics()
    again.save()
    eventually(lambda: recorded(daemon, "run")[0].get("step1") == "unproven", "at once")
    again.go_on(NEEDED)
    come_to(daemon, "run", step1="healthy")
    again.goodbye()
    shown = known(daemon, "run")
    assert daemon.stop() == 0
    done = sentinel("checkpoints", "--json", "--state", daemon.state)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == shown


def test_a_run_goes_back_to_last_good_which_is_named_in_the_answer_and_on_the_record(
    keeper: Daemon,
) -> None:
    job = saving(keeper, "back", bad_weights="layers.1.mlp.weight")
    break_and_hold(keeper, job, "back")
    refused = sentinel("resume", "back", "--state", keeper.state)
    assert refused.returncode == 1
    assert "has non-finite weights (layers.1.mlp.weight" in refused.stderr
    way = f"`sentinel resume back --rollback last-good`, now step5, {job.step - 5} steps back"
    assert way in refused.stderr
    body = {"rollback": "last-good", "rewind": True, "skip_batches": 2}
    code, answer = keeper.request("POST", "/api/v1/runs/back/resume", body)
    assert (code, json.loads(answer).get("rollback")) == (200, "step5"), answer
    assert job.await_verdict() is Verdict.GO
    expected = wire.Remedies(skip_batches=2, rollback="step5", rewind=True)
    assert [rank.applied for rank in job.ranks] == [[expected]] * 2
    in_state(keeper, job, "running", "back")
    (resume,) = [a for a in recorded(keeper, "back")[1] if a.id == json.loads(answer)["id"]]
    assert resume.reason == "roll back to step5, which is last-good"
    job.vanish()


def test_a_rollback_that_would_do_harm_is_refused_with_what_would_be_right(keeper: Daemon) -> None:
    job = saving(keeper, "harm")
    job.save(bad="layers.1.weight")
    break_and_hold(keeper, job, "harm")
    for options, status, reason in (
        (["--rollback", "stpe5"], 1, "has no checkpoint 'stpe5', did you mean 'step5'?: step8 is"),
        (["--rollback", "step8"], 1, "checkpoint step8 of run harm is tainted: weights that were"),
        (["--rewind"], 2, "--rewind goes with --rollback"),
    ):
        done = sentinel("resume", "harm", *options, "--state", keeper.state)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False)
        assert reason in done.stderr
    assert [a.state for a in recorded(keeper, "harm")[1][1:]] == ["refused", "refused"]
    forced = {"rollback": "step8", "force": True}
    code, answer = keeper.request("POST", "/api/v1/runs/harm/resume", forced)
    assert (code, json.loads(answer).get("rollback")) == (200, "step8"), answer
    assert job.await_verdict() is Verdict.GO
    job.vanish()


def test_without_a_healthy_checkpoint_it_is_said_what_there_is(keeper: Daemon) -> None:
    job = SavingJob(keeper.place, run="none", offers=ALL, bad_weights="w")
    job.connect()
    job.go_on(5)
    job.save()
    break_and_hold(keeper, job, "none")
    last_good = {"rollback": "last-good", "force": True}
    code, answer = keeper.request("POST", "/api/v1/runs/none/resume", last_good)
    assert code == 409
    assert b"run none has no healthy checkpoint: step5 is tainted (" in answer
    code, answer = keeper.request("POST", "/api/v1/runs/none/resume", {})
    assert code == 409
    assert b"no checkpoint is known to be healthy, see `sentinel checkpoints none`" in answer
    job.vanish()


def test_rotation_that_takes_the_last_good_one_is_told_before_and_after(keeper: Daemon) -> None:
    job = SavingJob(keeper.place, run="rotating")
    job.connect()
    for _ in range(3):
        job.go_on(10)
        job.save(keep=2)
    job.train({0: {"skipped": 1.0}})
    assert "step20 (step 20)" in eventually(lambda: _fired(keeper, "LastGoodAtRisk"))
    job.train()
    job.save(keep=2)
    assert "has removed step20 (step 20)" in eventually(lambda: _fired(keeper, "LastGoodGone"))
    assert states(keeper, "rotating")["step20"] == "gone"
    job.goodbye()


def _fired(daemon: Daemon, rule: str) -> str:
    found = [a for one in incidents(daemon, "rotating") for a in one["alerts"] if a["rule"] == rule]
    return str(found[0]["summary"]) if found else ""


def test_a_checkpoint_can_be_asked_for_while_training_goes_on(keeper: Daemon) -> None:
    job = SavingJob(keeper.place, run="asked", offers=ALL)
    job.connect()
    job.train()
    code, answer = keeper.request("POST", "/api/v1/runs/asked/checkpoint")
    assert code == 200, answer
    order = job.await_hold_order()
    assert (order.then, order.by.startswith("user ")) == ("checkpoint", True)
    job.vanish()
