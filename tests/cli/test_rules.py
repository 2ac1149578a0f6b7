"""`sentinel rules`: what its commands print, how they end, and what they say of bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sentinel import wire
from sentinel.assets import asset_dir
from sentinel.cli.main import execute
from sentinel.engine.language.functions import USAGE
from sentinel.signals import CATALOG
from sentinel.store import Recording
from tests.cli.terminal import Terminal
from tests.engine.world import frame, hello, rule_file

Captured = pytest.CaptureFixture[str]

RULES = """\
groups:
  - name: test
    rules:
      - alert: High
        expr: loss > 3
        for: 2
        annotations: {summary: "loss {value}"}
      - alert: RankHigh
        expr: by_rank(loss) > 3
"""
TESTS = """\
rule_files: [rules.yaml]
tests:
  - name: right
    input_series: [{series: loss, values: "2 5x3"}]
    exp_firing: {High: 3-, RankHigh: 2-}
  - name: wrong
    input_series: [{series: loss, values: "2 5x3"}]
    alert_rule_test:
      - {alertname: RankHigh, eval_step: 2, exp_alerts: [{exp_labels: {rank: "1"}}]}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return rule_file(tmp_path / "rules.yaml", RULES)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of a daemon that recorded one run of two ranks."""
    (tmp_path / "state").mkdir()
    recording = Recording.open(tmp_path / "state")
    names = ["loss"]
    for rank in (0, 1):
        recording.append("gpt", rank, 10.0, wire.encode(hello(rank, 2, names, run="gpt"))[4:])
    for step in range(1, 6):
        for rank in (0, 1):
            loss = 5.0 if (rank, step) == (1, 4) else math.inf if step == 5 else 2.0
            body = wire.encode(frame(step, step, names, {"loss": loss}))[4:]
            recording.append("gpt", rank, 10.0 + step, body)
    recording.flush()
    recording.close()
    return tmp_path / "state"


def _run(capsys: Captured, *arguments: str | Path) -> tuple[int, str, str]:
    status = execute([*map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_failing_test_says_what_was_expected_what_fired_and_where(
    rules: Path, capsys: Captured
) -> None:
    path = rules.with_name("test.yaml")
    path.write_text(TESTS)
    status, out, err = _run(capsys, "rules", "test", path)
    assert status == 1
    assert out.splitlines() == [
        f"FAILED {path}:6: wrong",
        f"  {path}:9: RankHigh at step 2",
        '    expected: {rank="1"}',
        '    fired:    {rank="0"}',
        '    seen:     {rank="0"} in steps 2-',
    ]
    assert err == "1 of 2 tests failed\n"
    status, out, _ = _run(capsys, "rules", "test", path, "--json")
    right, wrong = json.loads(out)
    assert (status, right["passed"], wrong["passed"]) == (1, True, False)
    assert {key: right[key] for key in ("file", "line", "test", "failures")} == {
        "file": str(path),
        "line": 3,
        "test": "right",
        "failures": [],
    }
    (failure,) = wrong["failures"]
    assert failure == {
        "line": 9,
        "rule": "RankHigh",
        "step": 2,
        "when": "at step 2",
        "expected": ['{rank="1"}'],
        "fired": ['{rank="0"}'],
        "seen": ['{rank="0"} in steps 2-'],
    }


def test_files_of_tests_that_cannot_be_read_stop_no_others(rules: Path, capsys: Captured) -> None:
    path = rules.with_name("test.yaml")
    path.write_text(TESTS.split("  - name: wrong")[0])
    nowhere = path.with_name("nowhere.yaml")
    status, _, err = _run(capsys, "rules", "test", nowhere, path)
    assert status == 1
    assert err.splitlines() == [
        f"sentinel: {nowhere}: cannot be read: No such file or directory",
        "1 test, all right; 1 file could not be read",
    ]
    assert _run(capsys, "rules", "test", path)[0] == 0
    status, _, err = _run(capsys, "rules", "test", nowhere)
    assert (status, "no test was run; 1 file could not be read" in err) == (1, True)


def test_a_rule_that_says_nothing_is_a_warning(rules: Path, capsys: Captured) -> None:
    status, out, err = _run(capsys, "rules", "check", rules, "default")
    assert (status, err) == (
        0,
        f"sentinel: warning: {rules}:8: RankHigh has no summary: "
        "whoever it wakes is told nothing but its name\n",
    )
    assert out.splitlines()[0] == f"{rules}: 2 rules, all right"


def test_check_tells_programs_where_it_is_wrong(rules: Path, capsys: Captured) -> None:
    rules.write_text(RULES.replace("loss > 3", "los > 3", 1))
    status, out, _ = _run(capsys, "rules", "check", rules, "default", "--json")
    wrong, right = json.loads(out)
    assert status == 1
    assert (wrong["file"], wrong["error"]["line"]) == (str(rules), 5)
    assert wrong["error"]["column"] == 15
    assert "did you mean 'loss'" in wrong["error"]["reason"]
    assert (right["file"], right["error"], right["warnings"]) == ("default", None, [])
    assert right["rules"] > 20


def test_the_rules_of_a_pack_are_listed(rules: Path, capsys: Captured) -> None:
    status, out, _ = _run(capsys, "rules", "list", rules)
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["rule", "severity", "actions", "for", "needs", "expression"],
        ["High", "warning", "-", "2", "steps", "loss", "loss", ">", "3"],
        ["RankHigh", "warning", "-", "-", "loss", "by_rank(loss)", ">", "3"],
    ]
    _, out, _ = _run(capsys, "rules", "list", "--json")
    listed = json.loads(out)
    assert {"NonFiniteUpdate", "RankSilent"} <= {one["rule"] for one in listed}
    for one in listed:
        assert set(one) == {
            *("rule", "group", "severity", "actions", "for", "keep_firing_for", "expr"),
            *("needs", "labels", "summary", "advice", "file", "line"),
        }


def test_what_rules_are_made_of_is_listed(capsys: Captured) -> None:
    _, out, _ = _run(capsys, "rules", "list", "--signals", "--json")
    assert [one["signal"] for one in json.loads(out)] == [*CATALOG]
    _, out, _ = _run(capsys, "rules", "list", "--functions", "--json")
    functions = {one["function"]: one for one in json.loads(out)}
    assert [*functions] == [*USAGE]
    assert functions["robust_z"]["parameters"][0]["name"] == "window"
    _, signals, _ = _run(capsys, "rules", "list", "--signals")
    _, named, _ = _run(capsys, "rules", "list", "--functions")
    assert all(name in signals for name in CATALOG)
    assert all(name in named for name in USAGE)


def test_a_rule_is_explained_from_the_record(state: Path, rules: Path, capsys: Captured) -> None:
    asked = ("rules", "explain", "RankHigh", "--rules", rules, "--state", state, "--step", "4")
    status, out, err = _run(capsys, *asked)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "RankHigh at step 4 of run gpt: its condition holds for 1 of 2",
        "  expr: by_rank(loss) > 3",
        f"  severity warning, {rules}:8",
        "",
        "                     rank 1  rank 0",
        "  by_rank(loss) > 3    true   false",
        "    by_rank(loss)         5       2",
        "",
        "  rank 1: firing since this step",
        "  rank 0: inactive, its condition does not hold",
    ]
    _, out, _ = _run(capsys, *asked, "--label", "rank=0", "--json")
    told = json.loads(out)
    assert set(told) == {
        *("rule", "run", "step", "expr", "count", "holding", "missing"),
        *("alerts", "tree", "blind", "notes"),
    }
    assert (told["rule"], told["run"], told["step"]) == ("RankHigh", "gpt", 4)
    assert [alert["labels"] for alert in told["alerts"]] == [{"rank": "0"}]
    assert told["tree"]["parts"][0]["values"] == [2.0]
    _, out, _ = _run(capsys, *asked[:-1], "5", "--run", "gpt", "--json")
    assert json.loads(out)["tree"]["parts"][0]["values"] == ["Infinity", "Infinity"]


def test_a_rule_is_explained_from_a_log(tmp_path: Path, capsys: Captured) -> None:
    log = tmp_path / "mine.jsonl"
    log.write_text("".join(f'{{"step": {n}, "loss": {2 if n < 9 else "NaN"}}}\n' for n in range(9)))
    asked = ("rules", "explain", "LossSpike", "--log", log, "--step", "5")
    status, out, _ = _run(capsys, *asked)
    assert status == 0
    assert "LossSpike at step 5 of run mine: inactive, its condition could not be judged" in out
    assert "surge(loss, window=256) has not seen enough values yet" in out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["HighLoss", "--step", "4"], 1, "there is no rule 'HighLoss'"),
        (["Hihg", "--step", "4"], 1, "did you mean 'High'"),
        (["High"], 2, "--step"),
        (["High", "--step", "-1"], 2, "-1"),
        (["High", "--step", "99"], 1, "steps from 1 to 5, the nearest is step 5"),
        (["High", "--step", "4", "--run", "gtp"], 1, "did you mean 'gpt'"),
        (["High", "--step", "4", "--run", "gpt", "--log", "x"], 2, "--run and --log"),
        (["High", "--step", "4", "--log", "/nowhere"], 1, "No such file"),
        (["High", "--step", "4", "--label", "rank"], 2, "no label such as rank=3"),
        (["High", "--step", "4", "--label", "rank=1"], 2, "its labels: none"),
        (["RankHigh", "--step", "4", "--label", "rank=7"], 1, "nothing with rank=7"),
        (["High", "--step", "4", "--rules", "defualt"], 1, "did you mean 'default'"),
        (["High", "--step", "4", "--state", "/nowhere"], 1, "/nowhere"),
    ],
)
def test_what_cannot_be_explained_is_said(
    state: Path, rules: Path, capsys: Captured, arguments: list[str], status: int, said: str
) -> None:
    defaults = ["--rules", str(rules), "--state", str(state)]
    done, _, err = _run(capsys, "rules", "explain", *defaults, *arguments)
    assert (done, said in err) == (status, True), err


@pytest.mark.parametrize("command", ["test", "check", "list", "explain"])
def test_help_has_examples(capsys: Captured, command: str) -> None:
    status, out, _ = _run(capsys, "rules", command, "--help")
    assert status == 0
    assert f"sentinel rules {command}" in out.split("Examples:")[1]


def test_how_far_the_tests_have_come_is_told_to_terminals_on_stderr_alone() -> None:
    file = str(asset_dir("rules") / "tests" / "deepseek-guide.yaml")
    with Terminal("rules", "test", file) as terminal:
        terminal.await_text(" tests done, now ")
        assert terminal.end() == 0
    assert terminal.written.rstrip().endswith(b"all right")
    assert terminal.written.count(b"\r\x1b[K") >= 2
