"""What can be seen of a run, as the daemon tells it, keeps it on record and measures it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from sentinel import wire
from sentinel.daemon.covering import AT_ONCE, INTERVAL, Covering
from sentinel.daemon.run import Run
from sentinel.engine.coverage import RunCoverage
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually, sentinel

Json = dict[str, Any]
NO_DEVICE = wire.Coverage(1, "device_memory_used_bytes", "the model is not on a CUDA device")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Daemon, FakeJob]]:
    """A run of two ranks, of which the second has lost its gradient norm."""
    daemon = Daemon(tmp_path / "state").start()
    job = FakeJob(daemon.place).connect()
    for rank in job.ranks:
        rank.send(NO_DEVICE)
        rank.send(wire.Coverage(1, "loss", "over the budget of 1%", 4))
    job.ranks[1].send(wire.Coverage(1, "grad_norm", "its probe failed"))
    job.train()
    yield daemon, job
    daemon.kill()


class Seen:
    """As much of a run as is looked at; `looks` counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended: float | None = None
        self.seen: RunCoverage | None = None
        self.looks = 0
        self.engine = self

    def coverage(self) -> RunCoverage:
        """As an engine does."""
        self.looks += 1
        return RunCoverage(self.name, self.looks, "0", (), (), ())


def test_many_runs_are_looked_at_in_turn_and_those_that_have_ended_at_once() -> None:
    runs = [Seen(f"run-{number}") for number in range(2 * AT_ONCE + 1)]
    covering, every = Covering(), cast("list[Run]", runs)
    for moment in range(3):
        covering.settled(covering.due(every, 100.0 + moment))
    assert [one.looks for one in runs] == [1] * len(runs)
    covering.due(every, 100.0 + INTERVAL)
    assert [one.looks for one in runs] == [2] * AT_ONCE + [1] * (AT_ONCE + 1)
    for one in runs[-2:]:
        one.ended = 100.0
    assert [one.run for one in covering.due(every, 101.0 + INTERVAL)] == [
        one.name for one in runs[-2:]
    ]
    looks = [one.looks for one in runs]
    covering.due(every, math.inf)
    assert [one.looks for one in runs] == [count + 1 for count in looks]


def coverage(daemon: Daemon) -> Json:
    """As `status run --coverage --json` shows it."""
    done = sentinel("status", "run", "--coverage", "--json", "--state", daemon.state)
    assert (done.returncode, done.stderr) == (0, "")
    (report,) = json.loads(done.stdout)
    found: Json = report
    return found


def judged(daemon: Daemon) -> Json:
    """The same, once a step was judged."""

    def look() -> Json | None:
        report = coverage(daemon)
        return report if report["step"] else None

    return eventually(look, "a judged step")


def test_coverage_is_told_by_the_daemon_by_its_record_and_by_its_metrics(
    watched: tuple[Daemon, FakeJob],
) -> None:
    daemon, job = watched
    report = judged(daemon)
    assert set(report) == {"run", "step", "ranks", "unseen", "signals", "rules"}
    signals = {line["signal"]: line for line in report["signals"] if line["state"] != "measured"}
    assert signals["loss"] == {
        "signal": "loss",
        "state": "sampled",
        "ranks": "0-1",
        "every": 4,
        "reason": "over the budget of 1%",
        "last_step": None,
        "applicable": True,
    }
    assert (signals["grad_norm"]["state"], signals["grad_norm"]["ranks"]) == ("missing", "1")
    rules = {rule["rule"]: rule for rule in report["rules"]}
    assert rules["NonFiniteUpdate"] == {
        "rule": "NonFiniteUpdate",
        "state": "ok",
        "blind": [],
        "applicable": True,
    }
    assert rules["GradientExplosion"]["state"] == "blind"
    assert rules["GradientExplosion"]["blind"] == [
        {"signal": "grad_norm", "ranks": "1", "reason": "its probe failed"}
    ]
    blind = 'sentinel_rule_blind{run="run",rule="GradientExplosion"}'
    metrics = eventually(lambda: known if blind in (known := daemon.metrics()) else None)
    assert metrics[blind] == 1
    assert metrics['sentinel_rule_blind{run="run",rule="NonFiniteUpdate"}'] == 0
    assert metrics['sentinel_signals{run="run",state="sampled"}'] == 1
    assert metrics['sentinel_signals{run="run",state="missing"}'] >= 2
    job.ranks[0].send(wire.Heartbeat(1, "forward", 0.0, {"queue full": 3}))
    job.ranks[1].send(wire.Heartbeat(1, "forward", 0.0, {"queue full": 4}))
    drops = 'sentinel_self_dropped_frames_total{run="run",reason="queue full"}'
    eventually(lambda: daemon.metrics()[drops] == 7)
    assert daemon.stop() == 0
    assert coverage(daemon) == report


def test_a_person_reads_which_rules_are_blind_on_which_ranks_and_why(
    watched: tuple[Daemon, FakeJob],
) -> None:
    daemon, _ = watched
    judged(daemon)
    shown = sentinel("status", "run", "--coverage", "--state", daemon.state).stdout
    assert "run: ranks 0-1 at step 1\n" in shown
    assert "every 4 steps; over the budget of 1%" in shown
    assert "  GradientExplosion: blind on rank 1\n" in shown
    assert "    grad_norm is missing on rank 1: its probe failed\n" in shown
    assert "  DeviceOOMRisk: blind\n" in shown
    assert "NonFiniteUpdate" not in shown
    assert max(map(len, shown.splitlines())) < 160


def test_coverage_of_a_run_that_nobody_knows_is_said(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state").start()
    done = sentinel("status", "run", "--coverage", "--state", daemon.state)
    assert (done.returncode, done.stderr) == (1, "sentinel: there is no run 'run'\n")
    assert daemon.stop() == 0
    done = sentinel("status", "run", "--coverage", "--state", daemon.state)
    assert (done.returncode, done.stderr) == (1, "sentinel: there is no run 'run'\n")
