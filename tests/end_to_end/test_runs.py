"""A stranger's DeepSpeed script under `sentinel run`: what is found, held, refused and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sentinel_hooks.probes.fingerprint import fingerprint
from tests.daemon.process import environment, eventually, sentinel
from tests.hooks.scripts.gpt import batch
from tests.hooks.two_ranks import NO_COMPILER

SCRIPT = Path(__file__).with_name("train.py")
ROOT = str(Path(__file__).parents[2])
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Training:
    """The script, with `sentinel run` in front of it."""

    state: Path
    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(180)

    def status(self) -> dict[str, object]:
        """Its run as `sentinel status --json` tells it, or nothing yet."""
        done = sentinel("status", "--json", "--state", self.state)
        runs: list[dict[str, object]] = json.loads(done.stdout) if done.returncode == 0 else []
        return runs[0] if runs else {}

    def held(self) -> dict[str, object]:
        """Its status, once it is held."""

        def look() -> dict[str, object] | None:
            assert self.process.poll() is None, self.log.read_text()
            status = self.status()
            return status if status.get("state") == "held" else None

        return eventually(look, "the hold", within=300)

    def incidents(self) -> list[dict[str, object]]:
        """What `sentinel incidents --json` tells."""
        done = sentinel("incidents", "--json", "--state", self.state)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found


def start(folder: Path, **env: object) -> Training:
    state, log = folder / "state", folder / "log"
    run = [sys.executable, "-m", "sentinel", "run", "--state", str(state), "--name", "gpt"]
    command = [*run, "--", *TORCHRUN, str(SCRIPT)]
    settings = environment(
        **{name: str(value) for name, value in env.items()}, PYTHONPATH=ROOT, **NO_COMPILER
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=settings, start_new_session=True
        )
    return Training(state, process, log)


@pytest.fixture
def cleanup() -> Iterator[list[Training]]:
    started: list[Training] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)


def cause(incident: dict[str, object]) -> tuple[object, ...]:
    found = incident["cause"]
    assert isinstance(found, dict)
    return tuple(found[name] for name in ("rule", "step", "rank", "module"))


NAN = ("NonFiniteActivation", 9, 1, "blocks.1.mlp")


@pytest.mark.parametrize("inject", ["forward", "hook"])
def test_a_nan_that_is_applied_holds_both_ranks_and_can_only_be_stopped(
    tmp_path: Path, cleanup: list[Training], inject: str
) -> None:
    training = start(tmp_path, STAGE=0, BAD="8,9", STEPS=100_000, INJECT=inject)
    cleanup.append(training)
    status = training.held()
    hold, ranks = status["hold"], status["ranks"]
    assert isinstance(hold, dict)
    assert isinstance(ranks, list)
    assert [rank["step"] for rank in ranks] == [hold["step"], hold["step"]]
    assert [rank["phase"] for rank in ranks] == ["held", "held"]
    refused = sentinel("resume", "--state", training.state)
    assert refused.returncode == 1
    assert "non-finite weights" in refused.stderr
    assert training.status()["state"] == "held"
    assert sentinel("stop", "--state", training.state).returncode == 0
    assert training.finish() == 0, training.log.read_text()
    (incident,) = training.incidents()
    assert incident["severity"] == "critical"
    assert cause(incident) == NAN
    rows = batch(2 * 8 + 1)
    told = incident["cause"]
    assert isinstance(told, dict)
    assert (told["micro_batch"], told["samples"]) == (0, [])
    assert told["batch"] == fingerprint((rows[:, :-1], rows[:, 1:]))
    assert hold["by"] == "rule:NonFiniteUpdate"
    actions = incident["actions"]
    assert isinstance(actions, list)
    assert [(one["action"], one["state"]) for one in actions] == [
        ("pause", "done"),
        ("resume", "refused"),
        ("stop", "done"),
    ]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_step_that_zero_skipped_warns_and_training_goes_on(
    tmp_path: Path, cleanup: list[Training], stage: int
) -> None:
    training = start(tmp_path, STAGE=stage, BAD="8,9", INJECT="hook" if stage == 2 else "forward")
    cleanup.append(training)
    assert training.finish() == 0, training.log.read_text()
    (incident,) = training.incidents()
    assert incident["severity"] == "warning"
    assert cause(incident) == NAN
    assert incident["actions"] == []
    assert training.status()["state"] == "finished"
    assert training.status()["step"] == 40


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_nan_that_lasts_under_zero_is_held_and_resumes_with_finite_weights(
    tmp_path: Path, cleanup: list[Training], stage: int
) -> None:
    training = start(tmp_path, STAGE=stage, BAD="8,60", STEPS=80)
    cleanup.append(training)
    status = training.held()
    hold, ranks = status["hold"], status["ranks"]
    assert isinstance(hold, dict)
    assert isinstance(ranks, list)
    assert [rank["step"] for rank in ranks] == [hold["step"], hold["step"]]
    assert hold["by"] == "rule:SkippedSteps"
    resumed = sentinel("resume", "gpt", "--state", training.state, "--lr-scale", "0.5")
    assert resumed.returncode == 0, resumed.stderr
    assert training.finish() == 0, training.log.read_text()
    (incident,) = training.incidents()
    assert cause(incident) == NAN
    actions = incident["actions"]
    assert isinstance(actions, list)
    assert [(one["action"], one["state"]) for one in actions] == [
        ("pause", "done"),
        ("resume", "done"),
    ]
