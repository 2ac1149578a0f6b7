"""`sentinel run`: it ends as its command ends, says what happened, and never harms it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.cli.launch import _signals_for
from tests.daemon.process import PATIENCE, environment, eventually, sentinel

ROOT = Path(__file__).parents[2]
SENTINEL = (sys.executable, "-m", "sentinel")
JOB = (sys.executable, "-m", "tests.cli.watched")


def run(state: Path, *command: str | Path, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start `sentinel run`; its output can be read when it has ended."""
    return subprocess.Popen(
        [*SENTINEL, "run", "--state", str(state), *options, "--", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err, err
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_it_ends_as_its_command_ends(tmp_path: Path, script: str, status: int) -> None:
    code, _, err = ended(run(tmp_path / "state", "sh", "-c", script))
    assert code == status
    assert "no rank has reported" in err


def test_the_command_has_the_terminal_and_the_environment(tmp_path: Path) -> None:
    state = tmp_path / "state"
    script = 'cat; echo "$SENTINEL_DAEMON|$SENTINEL_RUN|$SENTINEL_STATE"; echo oops >&2'
    process = subprocess.run(
        [*SENTINEL, "run", "--name", "mine", "--state", str(state), "--", "sh", "-c", script],
        input="typed\n",
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert process.stdout == f"typed\nunix://{state}/sentinel.sock|mine|{state}\n"
    assert "oops" in process.stderr


def test_a_command_that_is_not_there_is_status_127(tmp_path: Path) -> None:
    code, _, err = ended(run(tmp_path / "state", "no-such-command-here"))
    assert code == 127
    assert "no-such-command-here: command not found" in err


def test_a_command_that_cannot_be_executed_is_status_126(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text("#!/bin/sh\n")
    code, _, err = ended(run(tmp_path / "state", file))
    assert code == 126
    assert f"{file}: cannot be executed" in err


def test_a_program_beside_this_python_is_found_without_being_on_path(tmp_path: Path) -> None:
    python = Path(sys.executable).name
    process = subprocess.run(
        [*SENTINEL, "run", "--state", str(tmp_path / "state"), "--", python, "-c", "print('here')"],
        capture_output=True,
        text=True,
        env=environment(PATH="/nonexistent"),
        timeout=PATIENCE,
        check=False,
    )
    assert (process.returncode, process.stdout) == (0, "here\n")


def test_a_good_run_is_summed_up(tmp_path: Path) -> None:
    state = tmp_path / "state"
    code, _, err = ended(run(state, *JOB, "steps", "30", "finish", options=("--name", "good")))
    assert code == 0
    assert "good: watching 2 ranks" in err
    assert "good: finished after 30 steps" in err
    assert "no incident" in err
    (entry,) = json.loads(sentinel("status", "--json", "--state", state).stdout)
    assert (entry["run"], entry["state"], entry["step"]) == ("good", "finished", 30)


def test_a_script_that_leaves_without_a_word_but_well_is_no_incident(tmp_path: Path) -> None:
    state = tmp_path / "state"
    code, _, err = ended(run(state, *JOB, "steps", "10", "exit", "0"))
    assert code == 0
    assert "finished after 10 steps" in err
    assert json.loads(sentinel("incidents", "--json", "--state", state).stdout) == []


def test_a_script_that_dies_is_an_incident_that_names_a_rank(tmp_path: Path) -> None:
    state = tmp_path / "state"
    code, _, err = ended(run(state, *JOB, "steps", "10", "exit", "3", options=("--name", "dead")))
    assert code == 3
    assert "dead: lost after 10 steps" in err
    (incident,) = json.loads(sentinel("incidents", "--json", "--state", state).stdout)
    assert incident["cause"]["rule"] == "RankSilent"
    assert incident["cause"]["rank"] in (0, 1)


def test_the_rank_that_was_gone_first_is_the_one_that_is_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert ended(run(state, *JOB, "steps", "10", "die"))[0] == 1
    (incident,) = json.loads(sentinel("incidents", "--json", "--state", state).stdout)
    assert incident["cause"]["rank"] == 1
    assert len(incident["alerts"]) == 1


def test_a_nan_is_told_held_resumed_by_another_process_and_summed_up(tmp_path: Path) -> None:
    state = tmp_path / "state"
    words = ["steps", "2", "save", "steps", "3", "proven", "nan", "steps", "20", "finish"]
    process = run(state, *JOB, *words, options=("--clean-steps", "2"))

    def held() -> bool:
        done = sentinel("status", "--json", "--state", state)
        return done.returncode == 0 and [r["state"] for r in json.loads(done.stdout)] == ["held"]

    eventually(held, "the hold")
    done = sentinel("resume", "--lr-scale", "0.25", "--skip", "3", "--state", state)
    assert done.returncode == 0, done.stderr
    assert "3 batches skipped, learning rate times 0.25" in done.stdout
    code, _, err = ended(process)
    assert code == 0
    for told in (
        "in layers.1.mlp on rank 1 (node-1, cpu) at step 6",
        "critical: NonFiniteUpdate",
        "last good checkpoint: step2, 4 steps back",
        "held after step",
        "--rollback last-good",
        "ranks 0, 1",
        "sentinel resume",
        "resume done after step",
        "1 incident",
    ):
        assert told in err, told


def test_a_stop_ends_the_command_with_status_0(tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = run(state, *JOB, "steps", "5", "nan")
    eventually(
        lambda: '"held"' in sentinel("status", "--json", "--state", state).stdout, "the hold"
    )
    assert sentinel("stop", "--state", state).returncode == 0
    code, _, err = ended(process)
    assert code == 0
    assert "stop done" in err


def test_with_observe_nothing_is_held(tmp_path: Path) -> None:
    script = "import tests.cli.watched as w, tests.daemon.scenes as s, os\n" + (
        "from sentinel import address\nfrom tests.daemon.fake_job import FakeJob\n"
        "job = FakeJob(address.default_address()).connect()\n"
        "for _ in range(40): assert job.train(s.APPLIED_NAN).value == 'go'\n"
        "job.goodbye()\n"
    )
    options = ("--observe",)
    code, _, err = ended(run(tmp_path / "state", sys.executable, "-c", script, options=options))
    assert code == 0
    assert "pause refused: the daemon was started with --observe" in err


def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    process = run(tmp_path / "state", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    code, out, _ = ended(process)
    assert (code, out) == (5, "caught\n")


async def test_what_asks_to_end_before_the_command_is_known_is_kept_for_it() -> None:
    with _signals_for([]) as missed:
        signal.raise_signal(signal.SIGTERM)
        while not missed:
            await asyncio.sleep(0.001)
    assert missed == [signal.SIGTERM]


def test_ctrl_c_waits_for_the_command(tmp_path: Path) -> None:
    script = "trap 'echo saving; sleep 0.2; echo saved; exit 4' INT; echo ready; read x"
    process = subprocess.Popen(
        [*SENTINEL, "run", "--state", str(tmp_path / "state"), "--", "bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    code, out, _ = ended(process)
    assert (code, out) == (4, "saving\nsaved\n")


def test_a_killed_launcher_leaves_its_command_unharmed(tmp_path: Path) -> None:
    file = tmp_path / "progress"
    script = f"for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done; read x; echo end > {file}"
    process = subprocess.Popen(
        [*SENTINEL, "run", "--state", str(tmp_path / "state"), "--", "bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.kill()
    process.wait(PATIENCE)
    assert [process.stdout.readline() for _ in range(5)] == ["2\n", "3\n", "4\n", "5\n", "6\n"]
    process.stdin.write("\n")
    process.stdin.flush()
    eventually(file.exists, "the command's end")


def test_a_reader_of_its_output_that_goes_away_is_no_matter(tmp_path: Path) -> None:
    process = run(tmp_path / "state", *JOB, "steps", "50", "finish", "exit", "0")
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("name", ["", "a/b", "x" * 201, "a\nb"])
def test_a_name_that_cannot_be_one_is_a_usage_error(tmp_path: Path, name: str) -> None:
    code, _, err = ended(run(tmp_path / "state", "true", options=("--name", name)))
    assert code == 2
    assert "--name" in err
    assert not (tmp_path / "state").exists()


def test_a_run_is_named_after_its_script_and_the_time(tmp_path: Path) -> None:
    script = tmp_path / "train gpt.py"
    script.write_text("import os; print(os.environ['SENTINEL_RUN'])")
    code, out, _ = ended(run(tmp_path / "state", sys.executable, script))
    assert code == 0
    assert out.startswith("train-gpt-2")
