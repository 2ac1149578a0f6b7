"""`sentinel replay`: what is printed where, what its statuses are, what can be counted on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from sentinel.cli import replay as command_module
from sentinel.cli.main import execute
from sentinel.cli.progress import Progress
from sentinel.replay.messages import Moment
from sentinel.replay.past import Past, open_past
from tests.daemon.process import environment
from tests.replay.test_backtest import NAN, log

RULES = """
groups:
- name: g
  rules:
  - alert: High
    expr: loss > {limit}
    actions: [pause]
    annotations:
      summary: "loss {{value:.3g}}"
  - alert: NotFinite
    expr: nonfinite(loss)
    labels: {{severity: critical}}
  - alert: Norm
    expr: grad_norm > 10
"""
FIELDS = {"run", "step", "rule", "severity", "actions", "value"}


@pytest.fixture
def pack(tmp_path: Path) -> str:
    return _pack(tmp_path / "mine.yaml", 5)


def _pack(path: Path, limit: float) -> str:
    path.write_text(RULES.format(limit=limit))
    return str(path)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(log(tmp_path / "gpt.jsonl", [2.0] * 4 + [9.0, 2.0, NAN, 2.0]))


def test_a_line_of_json_for_each_alert_with_the_promised_fields(
    run: str, pack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["replay", run, "--rules", pack, "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["rule"] for line in lines] == ["High", "NotFinite"]
    assert lines[0] == {
        "run": "gpt",
        "step": 50,
        "rule": "High",
        "severity": "warning",
        "actions": ["pause"],
        "value": 9.0,
    }
    assert set(lines[1]) == FIELDS
    assert err == ""


def test_a_table_says_when_how_long_and_what_it_would_have_done(
    run: str, pack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["replay", run, "--rules", pack]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "gpt: 8 rows, steps 10 to 80"
    assert lines[1].split()[:6] == ["step", "50", "row", "5", "for", "1"]
    assert lines[1].endswith("warning, would pause  High       loss 9")
    assert lines[2].split()[:8] == ["step", "70", "row", "7", "for", "1", "row", "critical"]
    assert lines[3:] == [
        "  2 alerts: High 1, NotFinite 1",
        "  would pause at step 50 (row 5, High)",
        "Total of 1 run, 8 rows: 2 alerts (250.00 per 1,000 rows), 1 pause",
        "Blind, since their signals are not there: Norm",
    ]
    assert err == ""


def test_two_packs_are_set_side_by_side(
    run: str, pack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tame = _pack(tmp_path / "tame.yaml", 100)
    assert execute(["replay", run, "--rules", pack, "--compare", tame]) == 0
    out = capsys.readouterr().out.splitlines()
    cells = [line.split() for line in out]
    assert ["High", "1", "0"] in cells
    assert ["NotFinite", "1", "1"] in cells
    assert ["pauses", "1", "0"] in cells
    assert ["only", "here", "1", "0"] in cells
    assert "  in both: 1 (the same rule within 10 rows)" in out
    assert f"  only {pack}:" in out

    assert execute(["replay", run, "--rules", pack, "--compare", tame, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(line) == {*FIELDS, "pack"} for line in lines)
    assert [(line["pack"], line["rule"]) for line in lines] == [
        (pack, "High"),
        (pack, "NotFinite"),
        (tame, "NotFinite"),
    ]


def test_one_bad_file_does_not_keep_the_others_from_being_replayed(
    run: str, pack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"step": 1, "loss": 9}\n{"step": 2, "loss": 2}\n{"step": 3, "loss": [1]}\n')
    files = [str(tmp_path / "none"), str(broken), run]
    assert execute(["replay", *files, "--rules", pack]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()] == ["sentinel", "sentinel"]
    assert f"{tmp_path / 'none'}: " in err
    assert f"{broken}:3: " in err
    assert "gpt: 8 rows" in out
    assert "broken: 1 row," in out  # as far as it could be read
    assert "Total of 2 runs, 9 rows: 3 alerts" in out


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--plot", "p.jpg"], 2, ".png"),
        (["--plot", "p"], 2, ".png"),
        (["--format", "word"], 2, "word"),
        (["--column", "loss"], 2, "SIGNAL=NAME"),
        (["--compare", "default"], 2, "compared with"),
        (["--rules", "nowhere.yaml"], 1, "nowhere.yaml"),
        (["--compare", "nowhere.yaml"], 1, "nowhere.yaml"),
    ],
)
def test_wrong_usage_is_said_before_the_work_begins(
    run: str,
    options: list[str],
    status: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert execute(["replay", run, *options]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err


def test_a_live_pipe_is_told_at_once_and_ctrl_c_ends_it_quietly(tmp_path: Path, pack: str) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel", "replay", pipe, "--rules", pack, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    with pipe.open("w") as writer:
        for step, loss in ((1, 2.0), (2, 9.0), (3, 2.0)):
            writer.write(f'{{"step": {step}, "loss": {loss}}}\n')
        writer.flush()
        assert '"rule":"High"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_ctrl_c_shows_what_was_found_so_far(
    run: str, pack: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Path, *, format: str, columns: Mapping[str, str]) -> Iterator[Past]:
        for past in open_past(file, format=format, columns=columns):
            yield replace(past, moments=_until(past.moments, 7))

    monkeypatch.setattr(command_module, "open_past", interrupted)
    assert execute(["replay", run, run, "--rules", pack]) == 130
    out, err = capsys.readouterr()
    assert "gpt: 6 rows" in out
    assert "would pause at step 50 (row 5, High)" in out
    assert "Total of 1 run, 6 rows: 1 alert" in out
    assert "interrupted" in err


def _until(moments: Iterator[Moment], count: int) -> Iterator[Moment]:
    yield from islice(moments, count)
    raise KeyboardInterrupt


def test_where_nothing_could_be_replayed_there_is_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["replay", str(tmp_path / "none.csv")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sentinel: {tmp_path / 'none.csv'}: ")
    assert err.count("\n") == 1


def test_nobody_who_reads_on_is_no_error_of_ours(run: str, pack: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel", "replay", *[run] * 5, "--rules", pack, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(120) == 1


def test_progress_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, wanted, shown in (
        (Terminal(), True, True),
        (Terminal(), False, False),
        (io.StringIO(), True, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress(wanted=wanted, every=0.0)
        progress.tell("gpt", 0.5, 1200)
        assert ("gpt: 50%, 1,200 rows, " in stream.getvalue()) is shown
        progress.clear()
        assert stream.getvalue().endswith("\r\x1b[K" if shown else "")
