"""Commands that ask and show: what they print, how they end, and what they say of bad input."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel import wire
from sentinel.cli.client import Client
from sentinel.cli.order import look
from sentinel.control.barrier import Verdict
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, environment, eventually, sentinel
from tests.daemon.scenes import broken, status


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, FakeJob]]:
    """A daemon with a held run."""
    daemon = Daemon(tmp_path_factory.mktemp("held") / "state").start()
    yield daemon, broken(daemon)
    daemon.kill()


def test_status_json_is_what_was_promised(held: tuple[Daemon, FakeJob]) -> None:
    daemon, job = held
    done = sentinel("status", "--json", "--state", daemon.state)
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = json.loads(done.stdout)
    assert set(run) == {"run", "state", "step", "world_size", "ranks", "hold"}
    assert (run["run"], run["state"], run["world_size"]) == ("run", "held", 2)
    assert set(run["hold"]) == {
        *("step", "by", "since", "held_s", "cost_hours", "ranks", "unit"),
        *("unattended", "hold_for_s", "ends", "deadline", "group_timeout_s"),
    }
    for rank in run["ranks"]:
        assert set(rank) == {
            *("rank", "host", "pid", "step", "phase", "last_seen_s", "collectives")
        }
        assert (rank["step"], rank["host"]) == (job.step, "node-1")
        assert rank["last_seen_s"] >= 0


def test_incidents_json_is_what_was_promised(held: tuple[Daemon, FakeJob]) -> None:
    done = sentinel("incidents", "run", "--json", "--state", held[0].state)
    assert (done.returncode, done.stderr) == (0, "")
    (incident,) = json.loads(done.stdout)
    assert set(incident) == {
        *("id", "run", "state", "severity", "opened_step", "cause", "alerts", "actions", "head"),
        *("certainty", "evidence", "acknowledged", "silenced", "inhibited_by"),
    }
    assert set(incident["cause"]) == {
        *("rule", "signal", "step", "rank", "host", "device", "module"),
        *("parameter", "micro_batch", "batch", "samples"),
    }
    for alert in incident["alerts"]:
        assert set(alert) == {*("rule", "state", "severity", "step", "labels", "value", "summary")}
    assert {alert["rule"]: alert["value"] for alert in incident["alerts"]}["NonFiniteLoss"] == "NaN"
    for action in incident["actions"]:
        assert set(action) == {"action", "state", "step", "by", "at"}


def test_without_a_daemon_the_directory_is_read(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state").start()
    job = broken(daemon)
    alive = json.loads(sentinel("incidents", "--json", "--state", daemon.state).stdout)
    eventually(lambda: daemon.stop() == 0)
    assert json.loads(sentinel("incidents", "--json", "--state", daemon.state).stdout) == alive
    (run,) = json.loads(sentinel("status", "--json", "--state", daemon.state).stdout)
    assert (run["state"], run["hold"]["step"]) == ("lost", job.step)
    assert "layers.1.mlp on rank 1" in sentinel("incidents", "--state", daemon.state).stdout
    for command in ("pause", "resume", "stop"):
        done = sentinel(command, "--state", daemon.state)
        assert done.returncode == 1
        assert "no daemon answers" in done.stderr


def test_what_people_read_names_all_that_matters(held: tuple[Daemon, FakeJob]) -> None:
    daemon, job = held
    shown = sentinel("status", "--state", daemon.state).stdout
    assert f"run: held after step {job.step} since" in shown
    assert "by rule:NonFiniteUpdate" in shown
    assert "rank 1" in shown
    shown = sentinel("incidents", "--state", daemon.state).stdout
    assert "cause: NonFiniteActivation: nonfinite_activation in layers.1.mlp on rank 1" in shown
    assert f"pause done at step {job.step} by rule:NonFiniteUpdate" in shown


@pytest.mark.parametrize(
    "command", ["status", "incidents", "checkpoints", "pause", "resume", "stop", "checkpoint"]
)
def test_a_run_that_is_not_there_is_said_with_what_is_close(
    held: tuple[Daemon, FakeJob], command: str
) -> None:
    done = sentinel(command, "runn", "--state", held[0].state)
    assert done.returncode == 1
    assert done.stderr == "sentinel: there is no run 'runn', did you mean 'run'?\n"


@pytest.mark.parametrize(
    "command", ["status", "incidents", "checkpoints", "pause", "resume", "stop", "checkpoint"]
)
def test_a_directory_that_is_not_there_is_said(tmp_path: Path, command: str) -> None:
    done = sentinel(command, "--state", tmp_path / "nope")
    assert done.returncode == 1
    assert done.stderr.startswith("sentinel: no daemon answers in")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "nope").exists()


def test_a_directory_that_is_no_state_directory_is_said(tmp_path: Path) -> None:
    for command in ("status", "incidents"):
        done = sentinel(command, "--state", tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("sentinel: ")
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--jsn"],
        ["status", "a", "b"],
        ["resume", "--lr-scale", "0"],
        ["resume", "--lr-scale", "much"],
        ["resume", "--skip", "-1"],
        ["resume", "--rewind"],
        ["daemon", "--clean-steps", "-1"],
        ["pause", "--wait", "-1"],
        ["pause", "--hold-for", "soon"],
        ["pause", "--hold-for", "31d"],
        ["pause", "--hold-for", "1h", "--unattended", "hold"],
        ["pause", "--unattended", "sleep"],
        ["run"],
        ["run", "--"],
        ["replay"],
        ["rules"],
        ["rules", "check"],
        ["drill", "earthquake"],
        ["daemon", "--http", "nonsense"],
        ["daemon", "--http", "0.0.0.0:1"],
        ["run", "--http", "example.org:80", "--", "true"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_status_2(tmp_path: Path, arguments: list[str]) -> None:
    done = sentinel(*arguments, SENTINEL_STATE=str(tmp_path / "state"))
    assert done.returncode == 2, done.stderr
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


def test_the_state_directory_comes_from_the_environment(held: tuple[Daemon, FakeJob]) -> None:
    done = sentinel("status", "--json", SENTINEL_STATE=str(held[0].state))
    assert [run["run"] for run in json.loads(done.stdout)] == ["run"]


@pytest.mark.parametrize("command", [[], *([name] for name in ("run", "resume", "drill"))])
def test_help_is_there(command: list[str]) -> None:
    done = sentinel(*command, "--help")
    assert done.returncode == 0
    assert "Usage: sentinel" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sentinel.cli.main import execute\nexecute(['--help'])\n"
        "heavy = {'aiohttp', 'numpy', 'torch', 'sqlite3', 'yaml'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_traceback(held: tuple[Daemon, FakeJob]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "sentinel", "incidents", "--state", str(held[0].state)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        timeout=240,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_what_became_of_an_order_is_read_from_the_directory_of_a_daemon_that_has_ended(
    tmp_path: Path,
) -> None:
    daemon = Daemon(tmp_path / "state").start()
    FakeJob(daemon.place).connect().train()
    assert sentinel("resume", "--state", daemon.state).returncode == 1
    client = Client(daemon.state)
    alive = look(client, 1)
    assert daemon.stop() == 0
    assert look(client, 1) == alive
    assert (alive["action"], alive["state"]) == ("resume", "refused")


def test_no_run_goes_on_is_said(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state").start()
    try:
        done = sentinel("pause", "--state", daemon.state)
        assert done.returncode == 1
        assert "no run goes on" in done.stderr
        assert sentinel("status", "--state", daemon.state).stdout.startswith("no run is known")
        assert sentinel("incidents", "--state", daemon.state).stdout == "no incident\n"
    finally:
        daemon.kill()


def test_a_recorded_run_replays_to_the_alerts_that_it_had(tmp_path: Path) -> None:
    """A hold, a resume after which alerts act anew, a second daemon, a rank that fails."""
    daemon = Daemon(tmp_path / "state").start()
    job = broken(daemon)
    assert status(daemon)["state"] == "held"
    resumed = sentinel("resume", "run", "--state", daemon.state, "--wait", "0")
    assert resumed.returncode == 0, resumed.stderr
    assert job.await_verdict() is Verdict.GO
    for _ in range(3):
        job.train()
    job.train({0: {"skipped": 1.0}, 1: {"skipped": 1.0}})
    assert daemon.stop() == 0
    daemon.start()
    for rank in job.ranks:
        rank.close()
    job.connect()
    for _ in range(15):
        job.train()
    job.train({1: {"loss": float("nan")}})
    job.ranks[0].send(wire.Goodbye("exception", "ValueError"))
    eventually(lambda: b"RankFailed" in daemon.get("/api/v1/incidents")[1], "the failure's alert")
    assert daemon.stop() == 0
    job.vanish()

    done = sentinel("replay", daemon.state, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    replayed = [json.loads(line) for line in done.stdout.splitlines()]
    fields = ("run", "step", "rule", "severity", "actions", "value")
    assert all(set(line) == {*fields} for line in replayed)
    assert [tuple(line[field] for field in fields) for line in replayed] == _on_record(daemon.state)
    assert {"NonFiniteUpdate", "SkippedStep", "RankFailed"} <= {line["rule"] for line in replayed}


def _on_record(state: Path) -> list[tuple[object, ...]]:
    """The alerts that a daemon put on record, in their order, as `replay --json` shows them."""
    with contextlib.closing(sqlite3.connect(f"file:{state}/sentinel.db?mode=ro", uri=True)) as file:
        found = file.execute(
            "SELECT run, fired_step, rule, severity, actions, value FROM alerts ORDER BY id"
        )
        return [(*row[:4], json.loads(row[4]), row[5]) for row in found]


def test_a_foreign_log_is_replayed(tmp_path: Path) -> None:
    log = tmp_path / "their-run.jsonl"
    losses = ["2.0"] * 50 + ["NaN"] + ["2.0"] * 50
    log.write_text(
        "".join(f'{{"step": {n}, "loss": {loss}}}\n' for n, loss in enumerate(losses, 1))
    )
    done = sentinel("replay", log, "--json")
    assert done.returncode == 0, done.stderr
    (alert,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (alert["run"], alert["step"], alert["rule"]) == ("their-run", 51, "NonFiniteLoss")
    assert alert["value"] == "NaN"
    shown = sentinel("replay", log)
    assert "step 51  row 51" in shown.stdout
    assert "Total of 1 run, 101 rows: 1 alert" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("hello\n", "no values of a known name"),
        ('{"step": 1, "loss": 1}\n{"step": 2, "loss": [1]}\n', ":2: "),
    ],
)
def test_a_log_that_cannot_be_read_is_said_with_its_line(
    tmp_path: Path, content: str, reason: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(content)
    done = sentinel("replay", log)
    assert done.returncode == 1
    assert f"sentinel: {log}" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_or_recording_that_is_not_there_is_said(tmp_path: Path) -> None:
    for file in (tmp_path / "nope", tmp_path):
        done = sentinel("replay", file)
        assert done.returncode == 1
        assert done.stderr.startswith("sentinel: ")
        assert "Traceback" not in done.stderr


BAD_RULES = {
    "no YAML": ("groups: [", ":1"),
    "unknown signal": (
        "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: los > 1\n",
        ":5:11: ",
    ),
    "syntax": ("groups:\n- name: g\n  rules:\n  - alert: A\n    expr: loss >\n", ":5:17: "),
    "no rules": ("[]", ":1"),
}


@pytest.mark.parametrize(("content", "place"), BAD_RULES.values(), ids=BAD_RULES.keys())
def test_a_rule_file_that_cannot_be_used_is_said_with_its_line(
    tmp_path: Path, content: str, place: str
) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(content)
    done = sentinel("rules", "check", rules, "default")
    assert done.returncode == 1
    assert f"sentinel: {rules}{place}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "default: " in done.stdout  # the others are checked all the same
    commands: list[list[str | Path]] = [
        ["run", "--rules", rules, "--", "true"],
        ["replay", "--rules", rules, rules],
    ]
    for command in commands:
        done = sentinel(*command, SENTINEL_STATE=str(tmp_path / "state"))
        assert done.returncode == 1
        assert f"{rules}{place}" in done.stderr


def test_the_shipped_pack_is_all_right() -> None:
    done = sentinel("rules", "check", "default")
    assert done.returncode == 0
    assert "rules, all right" in done.stdout


def test_a_pack_that_is_not_there_is_said() -> None:
    done = sentinel("rules", "check", "defualt")
    assert done.returncode == 1
    assert "did you mean 'default'" in done.stderr


def test_slack_without_a_token_is_refused_at_once(tmp_path: Path) -> None:
    done = sentinel("run", "--slack-channel", "x", "--state", tmp_path / "state", "--", "true")
    assert done.returncode == 1
    assert "SLACK_BOT_TOKEN" in done.stderr
    assert not (tmp_path / "state").exists()
