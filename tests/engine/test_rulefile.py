from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.annotation import Facts, template
from sentinel.engine.rule import Span
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.errors import RuleError
from tests.engine.world import rule_file

RULE = """\
groups:
  - name: loss
    rules:
      - alert: LossSpike
        expr: loss > 3
"""


def test_a_rule_says_all_that_its_file_says(tmp_path: Path) -> None:
    path = rule_file(
        tmp_path / "rules.yaml",
        """\
        groups:
          - name: loss
            rules:
              - alert: LossSpike
                expr: |
                  loss > 3
                  and lr > 0
                for: 3
                keep_firing_for: 1h30m
                labels: {severity: critical}
                actions: [pause]
                unattended: stop
                hold_for: 1h30m
                annotations:
                  summary: "loss {value:.3g} {{sic}}"
                  advice: look
              - alert: Silent
                expr: by_rank(silence) > 30
                for: 500ms
        """,
    )
    spike, silent = load(path)
    assert (spike.name, spike.group, spike.severity) == ("LossSpike", "loss", "critical")
    assert (spike.actions, spike.unattended, spike.hold_for) == (("pause",), "stop", 5400.0)
    assert (spike.holds, spike.keeps) == (Span(3, "steps"), Span(5400, "seconds"))
    assert spike.summary.fill(Facts(value=2.34567, score=0, step=1)) == "loss 2.35 {sic}"
    assert (spike.file, spike.line) == (str(path), 4)
    assert (silent.severity, silent.actions) == ("warning", ())
    assert (silent.unattended, silent.hold_for) == ("resume", 7200.0)
    assert (silent.holds, silent.keeps) == (Span(0.5, "seconds"), Span(0, "seconds"))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", None, "the file is empty"),
        ("groups: [", 1, "not YAML"),
        ("\x07", 1, "not YAML"),
        ("a: b\n---\nc: d\n", 2, "expected a single document"),
        ("[" * 5000, None, "nested too deeply"),
        ("- 1", 1, "a rule file must be a mapping"),
        ("rules: []", 1, "unknown key 'rules' in a rule file: known are extends"),
        ("group:\n  - 1", 1, "unknown key 'group' in a rule file, did you mean 'groups'?"),
        ("groups: 3", 1, "groups must be a list"),
        ("groups: []", 1, "there are no rules"),
        ("groups:\n  - rules: []", 2, "a group lacks 'name'"),
        ("groups:\n  - name: x\n    rules: {}", 3, "rules must be a list"),
        (RULE + "        epxr: 1\n", 6, "unknown key 'epxr' in a rule, did you mean 'expr'?"),
        (RULE + "        expr: loss > 4\n", 6, "'expr' occurs twice in a rule"),
        (RULE + "        {}: 4\n", 6, "a key must be a text"),
        (RULE.replace("alert: LossSpike", "alert: Loss Spike"), 4, "'Loss Spike' is no name"),
        (RULE.replace("alert: LossSpike", "record: LossSpike"), 4, "unknown key 'record'"),
        (RULE.replace("alert: LossSpike", "alert:"), 4, "the name of an alert must be a text"),
        (RULE + RULE.split("rules:\n")[1], 6, "rule 'LossSpike' is already defined in line 4"),
        (RULE.replace("loss > 3", "los > 3"), 5, "unknown signal 'los', did you mean 'lo"),
        (RULE.replace("loss > 3", "loss >"), 5, "expr: syntax error at the end"),
        (RULE.replace("loss > 3", "[loss]"), 5, "expr must be a text"),
        (RULE + "        for: soon\n", 6, "for: 'soon' is neither a number of steps nor a"),
        (RULE + "        for: -1\n", 6, "for: '-1' is neither"),
        (RULE + "        for: 1.5\n", 6, "for: '1.5' is neither"),
        (RULE + "        for: 5m3\n", 6, "for: '5m3' is neither"),
        (RULE + "        for: 9000000\n", 6, "for: '9000000' is neither"),
        (RULE + "        for: 400d\n", 6, "longer than a year"),
        (RULE + "        keep_firing_for: []\n", 6, "keep_firing_for must be a text"),
        (
            RULE.replace("loss > 3", "silence > 3") + "        for: 3\n",
            6,
            "'silence' goes by the clock: expected a duration such as 3s",
        ),
        (
            RULE + "        labels: {severity: critcal}\n",
            6,
            "unknown severity 'critcal', did you mean 'critical'?: supported are info, warning,",
        ),
        (RULE + "        labels: {team: x}\n", 6, "unknown key 'team' in labels"),
        (RULE + "        labels: warning\n", 6, "labels must be a mapping"),
        (
            RULE + "        actions:\n          - pause\n          - chekpoint\n",
            8,
            "unknown action 'chekpoint', did you mean 'checkpoint'?: supported are checkpoint,",
        ),
        (RULE + "        actions: pause\n", 6, "actions must be a list"),
        (RULE + "        actions: [stop, pause]\n", 6, "a run is paused or stopped, not both"),
        (RULE + "        unattended: sleep\n", 6, "supported are resume, stop, hold"),
        (RULE + "        hold_for: 30\n", 6, "hold_for: '30' is no duration such as 30m or 4h"),
        (RULE + "        hold_for: []\n", 6, "hold_for must be a text"),
        (RULE + "        hold_for: 0s\n", 6, "out of bounds: at least 1 s and at most 30 days"),
        (RULE + "        hold_for: 31d\n", 6, "'unattended: hold' holds for ever"),
        (
            RULE + "        unattended: hold\n        hold_for: 1h\n",
            7,
            "hold_for: with 'unattended: hold' nothing ever ends the hold: leave out hold_for",
        ),
        ("defaults:\n  for: 3\n" + RULE, 2, "unknown key 'for' in defaults: known are unattended,"),
        ("defaults:\n  hold_for: soon\n" + RULE, 2, "hold_for: 'soon' is no duration"),
        ("defaults: stop\n" + RULE, 1, "defaults must be a mapping"),
        (
            RULE + "        annotations:\n          sumary: x\n",
            7,
            "unknown key 'sumary' in annotations, did you mean 'summary'?",
        ),
        (
            RULE + '        annotations:\n          summary: "{valeu}"\n',
            7,
            "summary: unknown field {valeu}, did you mean 'value'?",
        ),
        (
            RULE + '        annotations:\n          advice: "{step:d} {value:d}"\n',
            7,
            "advice: {value:d} cannot be formatted",
        ),
    ],
)
def test_errors_name_file_and_line(
    tmp_path: Path, text: str, line: int | None, reason: str
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(RuleError) as raised:
        load(path)
    assert reason in str(raised.value)
    assert (raised.value.file, raised.value.line) == (str(path), line)
    assert str(raised.value).startswith(f"{path}:{line}:" if line else f"{path}: ")


def test_the_defaults_of_a_file_are_those_of_its_rules_that_say_nothing_else(
    tmp_path: Path,
) -> None:
    path = rule_file(
        tmp_path / "rules.yaml",
        """\
        groups:
          - name: loss
            rules:
              - {alert: A, expr: loss > 3}
              - {alert: B, expr: loss > 3, unattended: hold}
              - {alert: C, expr: loss > 3, hold_for: 90s}
        defaults: {unattended: stop, hold_for: 2d}
        """,
    )
    assert [(rule.unattended, rule.hold_for) for rule in load(path)] == [
        ("stop", 172_800.0),
        ("hold", 172_800.0),
        ("stop", 90.0),
    ]


def test_what_is_no_text_file_is_a_rule_error(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    for data in (b"\xff\xfe\x00", b"groups:\n  - \x80\n", bytes(range(256)), b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(RuleError, match="not YAML"):
            load(path)
    path.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(RuleError, match="larger than 1048576 bytes"):
        load(path)
    with pytest.raises(RuleError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RuleError, match="cannot be read: Is a directory"):
        load(tmp_path)


@given(st.text(alphabet=st.sampled_from("groups:[]{}-'\"&*!|>\n #alert expr \t1"), max_size=60))
def test_no_text_makes_loading_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    with pytest.raises(RuleError):
        load(path)


def test_aliases_cannot_multiply_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(
        "groups:\n  - &g {name: a, rules: [&r {alert: A, expr: loss > 1}, *r]}\n  - *g\n"
    )
    with pytest.raises(RuleError, match="already defined in line 2"):
        load(path)
    path.write_text("groups: &g [*g]\n")
    with pytest.raises(RuleError, match="a group must be a mapping"):
        load(path)


def test_packs_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    names = [rule.name for rule in load(resolve_pack("default"))]
    assert {"NonFiniteUpdate", "SkippedSteps", "LossSpike", "RankSilent"} <= set(names)
    path = rule_file(tmp_path / "mine.yaml", RULE)
    assert load(resolve_pack(str(path)))[0].name == "LossSpike"
    with pytest.raises(RuleError, match=r"no rule pack 'defualt', did you mean 'default'\?"):
        resolve_pack("defualt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "a literal brace is written"),
        ("{value", "a literal brace is written"),
        ("}", "a literal brace is written"),
        ("{}", "unknown field {}"),
        ("{0}", "unknown field {0}"),
        ("{value.real}", "unknown field {value.real}"),
        ("{rank.__class__.__mro__}", "unknown field"),
        ("{labels[rank]}", "unknown field"),
        ("{value:{step}}", "holds a field of its own"),
        ("{value:100000000}", "too wide"),
        ("{value:.999f}", "too wide"),
        ("{value:d}", "cannot be formatted"),
        ("{rank:d}", "cannot be formatted"),
        ("{rank:.3f}", "cannot be formatted"),
        ("{step:s}", "cannot be formatted"),
        ("{value!x}", "cannot be formatted"),
        ("x" * 5000, "exceeds"),
    ],
)
def test_templates_that_could_fail_are_refused(text: str, reason: str) -> None:
    with pytest.raises(RuleError) as raised:
        template(text)
    assert reason in str(raised.value)


_PIECES = st.lists(
    st.sampled_from(
        [
            *("{value}", "{score:.3g}", "{step:,}", "{rank:>4}", "{module!r}", "{{", "}}"),
            *("{layer}", "{host:.5}", "{value:+.2%}", "{step:x}", "{step:c}", "{value:n}"),
            *("{", "x", "{step:.2e}"),
        ]
    ),
    max_size=6,
).map("".join)


@given(
    text=_PIECES,
    value=st.floats(),
    score=st.floats(),
    step=st.integers(0, 1 << 53),
    module=st.text(max_size=5),
)
def test_a_template_that_was_taken_never_fails(
    text: str, value: float, score: float, step: int, module: str
) -> None:
    try:
        taken = template(text)
    except RuleError:
        return
    assert isinstance(taken.fill(Facts(value, score, step, module=module)), str)
    assert isinstance(taken.fill(Facts(math.nan, math.inf, step)), str)


def test_actions_are_carried_out_in_an_order_that_makes_sense(tmp_path: Path) -> None:
    text = RULE + "        actions: [pause, checkpoint, pause]\n"
    (rule,) = load(_write(tmp_path, mine=text))
    assert rule.actions == ("checkpoint", "pause")


def _write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory / "mine.yaml"


BASE = """\
groups:
  - name: g
    rules:
      - {alert: One, expr: loss > 1, for: 3, actions: [pause], unattended: stop}
      - {alert: Two, expr: loss > 2, labels: {severity: info}, annotations: {summary: two}}
"""


def test_a_file_that_extends_another_changes_only_what_it_names(tmp_path: Path) -> None:
    mine = """\
extends: base.yaml
groups:
  - name: mine
    rules:
      - {alert: Two, labels: {severity: critical}}
      - {alert: Three, expr: loss > 3}
"""
    one, two, three = load(_write(tmp_path, base=BASE, mine=mine))
    assert one == load(tmp_path / "base.yaml")[0]
    assert (two.name, two.severity, two.summary.text) == ("Two", "critical", "two")
    assert (two.group, two.file, two.line) == ("g", str(tmp_path / "mine.yaml"), 5)
    assert (three.name, three.group) == ("Three", "mine")


def test_an_extending_file_can_do_without_rules_or_only_that(tmp_path: Path) -> None:
    path = _write(tmp_path, base=BASE, mine="extends: base.yaml\nwithout: [One]\n")
    assert [rule.name for rule in load(path)] == ["Two"]


def test_every_field_of_an_extended_rule_can_be_changed(tmp_path: Path) -> None:
    mine = """\
extends: base.yaml
groups:
  - name: mine
    rules:
      - {alert: One, expr: by_rank(silence) > 9, for: 30s, actions: [], hold_for: 4h}
"""
    one, _ = load(_write(tmp_path, base=BASE, mine=mine))
    assert (one.expression.text, one.holds) == ("by_rank(silence) > 9", Span(30, "seconds"))
    assert (one.actions, one.unattended, one.hold_for) == ((), "stop", 4 * 3600.0)


def test_defaults_of_an_extending_file_are_for_the_rules_that_it_names(tmp_path: Path) -> None:
    mine = """\
extends: base.yaml
defaults: {unattended: hold}
groups: [{name: mine, rules: [{alert: One}]}]
"""
    one, two = load(_write(tmp_path, base=BASE, mine=mine))
    assert (one.unattended, two.unattended) == ("hold", "resume")


@pytest.mark.parametrize(
    ("mine", "line", "reason"),
    [
        ("extends: bass\n", 1, "extends: no rule pack 'bass'"),
        ("extends: mine.yaml\n", 1, "extends: 'mine.yaml' comes to extend itself"),
        ("extends: base.yaml\nwithout: [Oen]\n", 2, "no rule 'Oen' in what is extended, did you"),
        ("without: [One]\n", 1, "a rule file lacks 'groups'"),
        ("extends: base.yaml\nwithout: [One, Two]\n", 1, "there are no rules"),
        (
            "extends: base.yaml\ngroups: [{name: g, rules: [{alert: Twoo}]}]\n",
            2,
            "a rule lacks 'expr', did you mean 'Two'?",
        ),
        (
            "extends: base.yaml\ngroups: [{name: g, rules: [{alert: One, expr: silence > 1}]}]\n",
            2,
            "for: now goes by the clock: say how long",
        ),
        (
            "extends: base.yaml\ngroups: [{name: g, rules: [{alert: One}, {alert: One}]}]\n",
            2,
            "rule 'One' is already defined in line 2",
        ),
    ],
)
def test_what_cannot_be_extended_is_said(tmp_path: Path, mine: str, line: int, reason: str) -> None:
    with pytest.raises(RuleError) as raised:
        load(_write(tmp_path, base=BASE, mine=mine))
    assert reason in str(raised.value)
    assert raised.value.line == line
    assert raised.value.file == str(tmp_path / "mine.yaml")


def test_the_windows_of_a_file_are_bounded_together_but_equal_ones_count_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rules.yaml"
    head = "groups:\n  - name: x\n    rules:\n"
    rules = [f"      - {{alert: A{n}, expr: 'max(loss[10000]) > {n}'}}\n" for n in range(150)]
    path.write_text(head + "".join(rules))
    assert len(load(path)) == 150
    rules = [f"      - {{alert: A{n}, expr: 'max(loss[{9999 - n}]) > 1'}}\n" for n in range(150)]
    path.write_text(head + "".join(rules))
    with pytest.raises(RuleError, match="the windows of all rules hold 1488675 values together"):
        load(path)
