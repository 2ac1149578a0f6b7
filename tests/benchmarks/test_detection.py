"""`python -m benchmarks.detection` on one synthetic trace and one labelled log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.detection", "--jobs", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _row(table: str, name: str) -> list[str]:
    """The cells of the line that begins with this name."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_trace_and_a_log_are_judged_and_every_alarm_is_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    losses = [2.0] * 40 + ["NaN"] + [2.0] * 40
    rows = (json.dumps({"step": 5 * at, "loss": loss}) + "\n" for at, loss in enumerate(losses))
    (tmp_path / "data" / "mine_a.jsonl").write_text("".join(rows))
    event = {"type": "nonfinite", "confidence": "certain", "start_index": 40, "end_index": 40}
    labels = {"mine_a": {"suite": "training", "anomalies": [event]}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    alarms = tmp_path / "alarms"

    where = ("--logs", str(tmp_path), "--alarms", str(alarms))
    result = _run("--quick", "--seeds", "1", "--only", "Inf once", *where)
    assert result.returncode == 0, result.stderr
    synthetic, labelled = result.stdout.split("# What is found in labelled logs")
    assert _row(synthetic, "Sentinel")[0] == "1 of 1"
    assert _row(synthetic, "Inf once")[0] == "1/1, 0"
    assert _row(labelled, "Sentinel") == ["1.00", "1.00", "1.00", "0.00", "0", "0"]
    assert _row(labelled, "OLMo 2 spike score")[0] == "0.00"
    assert _row(labelled, "mine (1 run)")[0] == "1.00"
    [alarm] = map(json.loads, (alarms / "Sentinel.jsonl").read_text().splitlines())
    assert (alarm["run"], alarm["step"], alarm["rule"]) == ("mine_a", 200, "NonFiniteLoss")


def test_what_cannot_be_measured_or_written_is_said_at_once() -> None:
    missing = _run("--logs", "/nowhere")
    assert missing.returncode == 2
    assert "/nowhere has no labels.json" in missing.stderr
    part = _run("--only", "NaN", "--write")
    assert part.returncode == 2
    assert "--write wants all families" in part.stderr
    unknown = _run("--only", "Nan")
    assert unknown.returncode == 2
    assert "no family has 'Nan' in its name" in unknown.stderr
