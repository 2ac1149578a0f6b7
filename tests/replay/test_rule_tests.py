"""Tests of rules: the shipped ones pass, wrong ones fail, and bad files are told of by line."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from sentinel.assets import asset_dir
from sentinel.engine.derived import sources
from sentinel.engine.language.expression import readings
from sentinel.engine.rule import Rule
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.errors import RuleError
from sentinel.replay.rule_test.case import Case
from sentinel.replay.rule_test.reading import read_cases
from sentinel.replay.rule_test.verdict import Failure, failures
from sentinel.signals import CATALOG
from tests.engine.world import rule_file

SHIPPED = sorted((asset_dir("rules") / "tests").glob("*.yaml"))

RULES = """\
groups:
  - name: test
    rules:
      - alert: High
        expr: loss > 3
        for: 2
        keep_firing_for: 2
        annotations: {summary: "loss {value:.1f}"}
      - alert: RankHigh
        expr: by_rank(loss) > 3
        labels: {severity: critical}
      - alert: LayerHigh
        expr: layer_grad_norm > 3
      - alert: Gone
        expr: by_rank(lost) > 0 or by_rank(silence) > 20
      - alert: Failed
        expr: by_rank(failed) > 0
      - alert: Hung
        expr: by_rank(stall) > 60 and by_rank(collective_lag) > 0
"""


@cache
def _cases(path: Path) -> list[Case]:
    return read_cases(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_tests_of_rules_pass(path: Path) -> None:
    for case in _cases(path):
        assert failures(case) == [], case.name


def test_every_rule_of_the_shipped_packs_is_seen_to_fire_and_to_keep_silent() -> None:
    packs = [load(resolve_pack(name)) for name in ("default", "deepseek-guide", "strict")]
    rules = {rule.name: rule for pack in packs for rule in pack}.values()
    fires: set[str] = set()
    silent: set[str] = set()
    for case in (case for path in SHIPPED for case in _cases(path)):
        fires |= {moment.rule for moment in case.moments if moment.alerts}
        silent |= {moment.rule for moment in case.moments if not moment.alerts}
        if case.throughout is not None:
            fires |= set(case.throughout.firing)
            could = {rule.name for rule in rules if _asked(rule) <= _measured(case)}
            silent |= could - set(case.throughout.firing)
    assert {rule.name for rule in rules} <= fires
    assert {rule.name for rule in rules} <= silent


def _asked(rule: Rule) -> set[str]:
    """The signals of ranks that a rule reads."""
    return {
        source
        for reading in readings(rule.expression.root)
        for source in sources(reading.signal)
        if CATALOG[source].made_by == "rank"
    }


def _measured(case: Case) -> set[str]:
    return {key.series.signal for key in case.series}


def _judge(tmp_path: Path, test: str) -> list[Failure]:
    """The failures of one test of the rules above; its lines begin with 4 in the file."""
    rule_file(tmp_path / "rules.yaml", RULES)
    indented = "".join(f"    {line}\n" for line in test.strip().splitlines())
    path = tmp_path / "test.yaml"
    path.write_text(f"rule_files: [rules.yaml]\ntests:\n  - name: a test\n{indented}")
    (case,) = read_cases(path)
    return failures(case)


SPIKE = """
input_series:
  - {series: loss, values: "2x9 5x4 2x9"}
"""


@pytest.mark.parametrize(
    "expected",
    [
        "exp_firing: {High: 12-17, RankHigh: 11-15}",
        "exp_firing: {High: [12-17], RankHigh: [11-15]}",
        "alert_rule_test: [{alertname: High, eval_step: 11}]",
        "alert_rule_test: [{alertname: High, eval_step: 12, exp_alerts: [{}]}]",
        "alert_rule_test: [{alertname: High, eval_step: 17, exp_alerts: [{}]}]",
        "alert_rule_test: [{alertname: High, eval_time: 18s}]",
        "alert_rule_test: [{alertname: High, eval_step: 12, exp_alerts: "
        '[{exp_annotations: {summary: "loss 5.0"}}]}]',
        "alert_rule_test: [{alertname: RankHigh, eval_step: 12, exp_alerts: "
        "[{exp_labels: {rank: 0, severity: critical}}]}]",
    ],
)
def test_what_fires_as_expected_passes(tmp_path: Path, expected: str) -> None:
    assert _judge(tmp_path, SPIKE + expected) == []


@pytest.mark.parametrize(
    ("expected", "fired"),
    [
        ("exp_firing: {High: 12-18, RankHigh: 11-15}", ["steps 12-17"]),
        ("exp_firing: {High: 12-, RankHigh: 11-15}", ["steps 12-17"]),
        ("exp_firing: {High: 12-17}", ["steps 11-15"]),
        ("exp_firing: {High: [12-13, 15-17], RankHigh: 11-15}", ["steps 12-17"]),
        ("exp_firing: none", ["steps 11-15", "steps 12-17"]),
        ("exp_firing: {High: 12-17, RankHigh: 11-15, Gone: 3}", []),
        ("alert_rule_test: [{alertname: High, eval_step: 12}]", ["{}"]),
        ("alert_rule_test: [{alertname: High, eval_step: 11, exp_alerts: [{}]}]", []),
        ("alert_rule_test: [{alertname: High, eval_step: 12, exp_alerts: [{}, {}]}]", ["{}"]),
        (
            "alert_rule_test: [{alertname: High, eval_step: 12, exp_alerts: "
            '[{exp_annotations: {summary: "loss 6.0"}}]}]',
            ["{} summary: loss 5.0"],
        ),
        (
            "alert_rule_test: [{alertname: RankHigh, eval_step: 12, exp_alerts: "
            '[{exp_labels: {rank: "1"}}]}]',
            ['{rank="0"}'],
        ),
        (
            "alert_rule_test: [{alertname: RankHigh, eval_step: 12, exp_alerts: "
            '[{exp_labels: {rank: "0", severity: warning}}]}]',
            ['{rank="0"}'],
        ),
    ],
)
def test_what_fires_otherwise_fails_and_says_what_did(
    tmp_path: Path, expected: str, fired: list[str]
) -> None:
    found = _judge(tmp_path, SPIKE + expected)
    assert sorted(text for one in found for text in one.fired) == fired
    assert found
    assert {one.line for one in found} == {6}


def test_ranks_and_layers_are_told_apart(tmp_path: Path) -> None:
    test = """
input_series:
  - {series: loss, values: "2x3"}
  - {series: 'loss{rank="2"}', values: "2 5x2"}
  - {series: 'layer_grad_norm{layer="h.1"}', values: "1 4 1 1"}
  - {series: 'layer_grad_norm{layer="h.2"}', values: "1 2.9x2"}
alert_rule_test:
  - {alertname: RankHigh, eval_step: 2, exp_alerts: [{exp_labels: {rank: "2"}}]}
  - {alertname: LayerHigh, eval_step: 2, exp_alerts: [{exp_labels: {layer: h.1}}]}
  - {alertname: LayerHigh, eval_step: 3}
"""
    assert _judge(tmp_path, test) == []


def test_a_norm_of_ranks_shards_is_the_root_of_their_squares(tmp_path: Path) -> None:
    test = """
input_series:
  - {series: 'layer_grad_norm{layer="h.1", rank="0"}', values: "3 2"}
  - {series: 'layer_grad_norm{layer="h.1", rank="1"}', values: "0.1 2"}
exp_firing: {LayerHigh: [1]}
"""
    assert _judge(tmp_path, test) == []  # 2^2 + 2^2 is less than 9


@pytest.mark.parametrize(
    ("how", "rule", "at"),
    [
        ("lost", "Gone", "25s"),
        ("silent", "Gone", "40s"),
        ("failed", "Failed", "12s"),
        ("stuck", "Hung", "2m"),
    ],
)
def test_what_becomes_of_a_rank_can_be_said(tmp_path: Path, how: str, rule: str, at: str) -> None:
    test = f"""
ranks: 2
input_series: [{{series: loss, values: "2x9"}}]
ends: [{{rank: 1, step: 10, how: {how}}}]
alert_rule_test:
  - {{alertname: {rule}, eval_step: 9}}
  - {{alertname: {rule}, eval_time: {at}, exp_alerts: [{{exp_labels: {{rank: "1"}}}}]}}
"""
    assert _judge(tmp_path, test) == []


def test_ranks_that_have_finished_are_not_missed(tmp_path: Path) -> None:
    test = """
input_series: [{series: loss, values: "2x9"}]
ends: [{rank: 0, step: 10, how: finished}]
alert_rule_test: [{alertname: Gone, eval_time: 10m}, {alertname: Failed, eval_time: 10m}]
exp_firing: none
"""
    assert _judge(tmp_path, test) == []


def test_steps_may_take_any_time(tmp_path: Path) -> None:
    test = """
interval: 100ms
input_series: [{series: loss, values: "2x9 5x30"}]
alert_rule_test:
  - {alertname: RankHigh, eval_time: 1000ms}
  - {alertname: RankHigh, eval_time: 1100ms, exp_alerts: [{exp_labels: {rank: 0}}]}
exp_firing: {RankHigh: 11-, High: 12-}
"""
    assert _judge(tmp_path, test) == []


HEAD = (
    "rule_files: [default]\ntests:\n- name: a\n  input_series:\n  - {series: loss, values: 1x9}\n"
)
BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "the file is empty"),
    "no YAML": ("tests: [", ":1"),
    "not a mapping": ("[]", ":1"),
    "misspelt": ("rule_files: [default]\ntest: []\n", "did you mean 'tests'"),
    "no tests": ("rule_files: [default]\ntests: []\n", ":2"),
    "no such pack": ("rule_files: [defualt]\ntests: []\n", "did you mean 'default'"),
    "no rules": ("rule_files: []\ntests: []\n", ":1"),
    "twice": ("rule_files: [default, default]\ntests: []\n", "in two of these files"),
    "expects nothing": (HEAD, ":3"),
    "no such rule": (HEAD + "  exp_firing: {LossSpik: 3}\n", ":6"),
    "no steps": (HEAD + "  exp_firing: {LossSpike: 3-2}\n", "not in order"),
    "no ranges": (HEAD + "  exp_firing: {LossSpike: soon}\n", "42-60"),
    "out of order": (HEAD + "  exp_firing: {LossSpike: [5-9, 9]}\n", "come after"),
    "no word": (HEAD + "  exp_firing: nothing\n", "none"),
    "no time": (HEAD + "  alert_rule_test: [{alertname: LossSpike}]\n", "eval_step"),
    "too late": (
        HEAD + "  alert_rule_test: [{alertname: LossSpike, eval_time: 25h}]\n",
        "no duration up to 24h",
    ),
    "step 0": (HEAD + "  alert_rule_test: [{alertname: LossSpike, eval_step: 0}]\n", ":6"),
    "too long": (HEAD + "  interval: 3h\n  exp_firing: none\n", "24 hours"),
    "no interval": (HEAD + "  interval: 0s\n  exp_firing: none\n", "takes some time"),
    "ranks": (HEAD + "  ranks: 1000\n  exp_firing: none\n", "from 1 to 64"),
    "few ranks": (
        HEAD.replace("loss,", "'loss{rank=\"2\"}',") + "  ranks: 2\n  exp_firing: none\n",
        "of rank 2",
    ),
    "far rank": (HEAD.replace("loss,", "'loss{rank=\"999\"}',"), "at most 64 ranks"),
    "how": (HEAD + "  ends: [{rank: 0, step: 1, how: dead}]\n", "lost"),
    "ends twice": (
        HEAD + "  ends: [{rank: 0, step: 1, how: lost}, {rank: 0, step: 2, how: lost}]\n",
        "ends twice",
    ),
    "values": (HEAD.replace("1x9", "one"), ":5:28: values: 'one' is no value"),
    "later values": (HEAD.replace("1x9", "'1x9 2 one'"), ":5:35: values: 'one' is no value"),
    "no values": (HEAD.replace("1x9", "[1, 2]"), "must be a text"),
    "engine's own": (HEAD.replace("loss,", "silence,"), "ends"),
    "derived": (
        HEAD.replace("loss,", "'layer_update_ratio{layer=\"a\"}',"),
        "give layer_update_norm, layer_weight_norm",
    ),
    "series twice": (HEAD + "  - {series: loss, values: 1}\n", ":6"),
    "huge": (
        HEAD.replace("1x9", "1x19999")
        + "".join(f"  - {{series: 'logged{{name=\"{at}\"}}', values: 1x19999}}\n" for at in "ab")
        + "  ranks: 64\n  exp_firing: none\n",
        "more than 2000000 values",
    ),
    "many": (
        "rule_files: [default]\ntests:\n- name: a\n  input_series:\n"
        + "".join(
            f"  - {{series: 'logged{{name=\"{at}\"}}', values: 1x19999}}\n" for at in range(201)
        ),
        ":205:5: more than 4000000 values in this file",
    ),
    "deep": ("[" * 500, "nested too deeply"),
    "binary": ("\0\1", "not YAML"),
    "itself": ("rule_files: &a [*a]\ntests: []\n", "must be a text"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_told_of_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(RuleError) as raised:
        read_cases(path)
    assert said in str(raised.value)
    assert str(raised.value).startswith(str(path))
