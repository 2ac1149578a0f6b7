"""How the trainer's processes begin and end."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.reference.conftest import SMALL, Launch, finish

MODULE = ("-m", "sentinel_hooks.reference")


def losses(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_killed_rank_ends_the_run_which_then_resumes_with_the_losses_it_had(
    two_ranks: Launch, tmp_path: Path
) -> None:
    options = (*MODULE, *SMALL, "--stage", "2", "--precision", "bf16", "--accumulation", "2")
    fault = ("--fault", "kill-rank:rank=1,step=6")
    killed = two_ranks(*options, *fault, "--save-every", "3", "--losses", "killed", cwd=tmp_path)
    assert killed.returncode != 0
    assert f"exitcode  : -{signal.SIGKILL.value}" in killed.stdout
    before = [losses(tmp_path / f"killed.{rank}") for rank in (0, 1)]
    assert len(before[1]) == 5
    assert before[0] != before[1], "each rank reads data of its own"

    resumed = two_ranks(*options, "--resume", "step3", "--losses", "resumed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout
    assert "step 6/6" in resumed.stdout
    after = [losses(tmp_path / f"resumed.{rank}") for rank in (0, 1)]
    for was, goes_on in zip(before, after, strict=True):
        assert goes_on[: len(was) - 3] == was[3:]


@pytest.mark.parametrize("ending", ["stop", "fail"])
def test_what_ends_a_step_ends_the_run(ending: str, two_ranks: Launch, tmp_path: Path) -> None:
    job = Path(__file__).with_name("ending_job.py")
    options = [option for option in SMALL if option != "--no-sentinel"]
    ended = two_ranks(str(job), ending, *options, "--losses", "l", cwd=tmp_path)
    assert len(losses(tmp_path / "l.1")) == 2
    if ending == "stop":  # ordered on all ranks
        assert ended.returncode == 0, ended.stdout
        assert ended.stdout.count("left by SystemExit") == 2
    else:  # an error on one rank
        assert ended.returncode != 0
        assert "left by RuntimeError" in ended.stdout
        assert "RuntimeError: rank 1 has had enough" in ended.stdout
        assert "exitcode  : 1 " in ended.stdout


def test_one_plain_process_trains_too_and_takes_faults(alone: Launch, tmp_path: Path) -> None:
    fault = ("--fault", "nan:module=layers.0.attention,step=3")
    plain = ("--stage", "0", "--precision", "fp32")
    ended = alone(*SMALL, *plain, *fault, "--losses", "l", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    values = [line.split()[1] for line in losses(tmp_path / "l.0")]
    assert "nan" not in values[:2]
    assert values[2:] == ["nan"] * 4, "stage 0 in fp32 applies the update, which destroys weights"


@pytest.mark.slow
def test_it_runs_and_is_watched_under_the_deepspeed_launcher(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "sentinel", "run", "--state", "state", "--"]
    command += [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
    command += ["--master_port", port, "--module", "sentinel_hooks.reference"]
    command += [option for option in SMALL if option != "--no-sentinel"]
    ended = finish([*command, "--steps", "2"], tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "step 2/2" in ended.stdout
    assert "watching 2 ranks" in ended.stdout
    assert "finished after 2 steps" in ended.stdout


def test_a_wrong_fault_is_told_with_exit_code_2(alone: Launch, tmp_path: Path) -> None:
    ended = alone(*SMALL, "--fault", "nan:module=layers.9.mlp,step=3", cwd=tmp_path)
    assert ended.returncode == 2
    assert "no module 'layers.9.mlp'" in ended.stdout
    assert "Traceback" not in ended.stdout
