"""The drills: some whole, with real training on two ranks that is broken on purpose, the others by
what they are made of and by what they would not let pass."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel.cli.drill import FAULTS
from sentinel.cli.drills.chronicle import Chronicle
from sentinel.cli.drills.evidence import Evidence, event_id, judge, known, last_loss
from sentinel.cli.drills.rehearsal import rules_for
from sentinel.cli.drills.scenario import SCENARIOS, Scenario
from sentinel.engine import rulefile
from sentinel.notify.loopback_message import Message
from sentinel.store.shapes import (
    ActionJSON,
    AlertJSON,
    CauseJSON,
    EvidenceJSON,
    IncidentJSON,
    StatusJSON,
)
from tests.daemon.process import environment, sentinel
from tests.hooks.two_ranks import NO_COMPILER

# Between them: an embedded daemon and one of its own, a hold and none, a good end and a bad one.
WHOLE = ("nan", "disagree", "hang", "daemon-kill")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", WHOLE)
def test_a_drill_ends_well_because_everything_has_happened(tmp_path: Path, fault: str) -> None:
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-m", "sentinel", "drill", fault, "--state", str(state), "--json"],
        capture_output=True,
        text=True,
        env=environment(**NO_COMPILER),
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["drill"], report["ok"], report["state"]) == (fault, True, str(state))
    assert all(check["ok"] for check in report["checks"])
    assert "   NO  " not in done.stderr
    assert "Slack received" in done.stderr
    scenario = SCENARIOS[fault]
    moments = [moment["event"] for moment in report["moments"]]
    assert moments[0] == "fault"
    assert [one for one in ("held", "resumed") if one in moments] == (
        ["held", "resumed"] if scenario.paused else []
    )
    assert ("daemon back" in moments) == scenario.own_process
    assert all(moment["after_fault_s"] >= 0 for moment in report["moments"])
    (incident,) = json.loads(sentinel("incidents", "--json", "--state", state).stdout)
    assert incident["cause"]["module"] == scenario.module
    assert incident["cause"]["rank"] == scenario.rank
    assert scenario.rules & {alert["rule"] for alert in incident["alerts"]}
    actions = [(action["action"], action["state"]) for action in incident["actions"]]
    assert actions == ([("pause", "done"), ("resume", "done")] if scenario.paused else [])


def test_without_a_fault_all_are_listed_and_an_unknown_one_is_wrong_use() -> None:
    listed = sentinel("drill")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [*SCENARIOS] == [*FAULTS]
    wrong = sentinel("drill", "nam")
    assert wrong.returncode == 2
    assert "daemon-kill" in wrong.stderr


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=[*SCENARIOS])
def test_a_drill_breaks_what_can_be_broken_and_waits_for_rules_that_there_are(
    scenario: Scenario,
) -> None:
    from sentinel_hooks.reference.faults import parse
    from sentinel_hooks.reference.model import Decoder, Shape

    fault = parse(scenario.fault)
    fault.check(Decoder(Shape(width=16, context=8)), scenario.ranks)
    assert f"step={scenario.at}" in scenario.fault
    assert scenario.rank is None or f"rank={scenario.rank}" in scenario.fault
    assert scenario.at < scenario.steps
    pack = rulefile.load(rulefile.resolve_pack("default"))
    assert scenario.rules <= {rule.name for rule in pack}
    pauses = {rule.name for rule in pack if "pause" in rule.actions}
    assert not scenario.rules & pauses or scenario.paused
    changed = [
        (now.name, now.expression.text)
        for now, before in zip(rules_for(scenario), pack, strict=True)
        if now != before
    ]
    hurried = [("CollectiveStuck", "by_rank(stall) > 15 and by_rank(collective_lag) > 0")]
    assert changed == (hurried if scenario.name == "hang" else [])


# What a drill demands, held against evidence that lacks it.

CAUSE: CauseJSON = {
    "rule": "NonFiniteActivation",
    "signal": "nonfinite_activation",
    "step": 30,
    "rank": 1,
    "host": "node-1",
    "device": "cpu",
    "module": "layers.2.mlp.down",
    "parameter": None,
    "micro_batch": 0,
    "batch": "3f7926d5d736fa87",
    "samples": [],
}
PAUSED: ActionJSON = {
    "action": "pause",
    "state": "done",
    "step": 34,
    "by": "rule:SkippedSteps",
    "at": "",
}
RESUMED: ActionJSON = {**PAUSED, "action": "resume", "by": "user root"}
INCIDENT: IncidentJSON = {
    "id": "2aa5f5e78c",
    "run": "drill",
    "state": "resolved",
    "severity": "critical",
    "opened_step": 30,
    "cause": CAUSE,
    "certainty": "measured on this rank",
    "alerts": [
        {
            "rule": "NonFiniteActivation",
            "state": "resolved",
            "severity": "warning",
            "step": 30,
            "labels": {"rank": "1"},
            "value": 18.0,
            "summary": "",
        }
    ],
    "evidence": [],
    "actions": [PAUSED, RESUMED],
    "head": "",
    "acknowledged": None,
    "silenced": None,
    "inhibited_by": None,
}
RUN: StatusJSON = {
    "run": "drill",
    "state": "finished",
    "step": 75,
    "world_size": 2,
    "ranks": [],
    "hold": None,
}


def _message(event: str, text: str = "on rank 1, module layers.2.mlp.down") -> Message:
    return Message("C", "training", event, text, metadata={"event_payload": {"event_id": event}})


GOOD = Evidence(
    [INCIDENT],
    RUN,
    {"sent": 2},
    [_message("a"), _message("b")],
    CAUSE["batch"] or "",
    status=0,
    steps=75,
    loss=2.5,
)


def _failing(evidence: Evidence, fault: str = "nan") -> list[str]:
    return [check.what for check in judge(SCENARIOS[fault], evidence) if not check.ok]


def _incident(**changes: object) -> list[IncidentJSON]:
    return [{**INCIDENT, **changes}]  # type: ignore[typeddict-item]


def _cause(**changes: object) -> list[IncidentJSON]:
    return _incident(cause={**CAUSE, **changes})


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (replace(GOOD, incidents=_incident(alerts=[])), "it was noticed by NonFiniteActivation"),
        (replace(GOOD, incidents=_cause(rank=0)), "the cause is named: nonfinite_activation"),
        (replace(GOOD, incidents=_cause(module="head")), "the cause is named"),
        (replace(GOOD, incidents=_cause(rule="SkippedStep")), "the cause is named"),
        (replace(GOOD, batch=""), "the batch is named"),
        (replace(GOOD, outbox={"sent": 2, "pending": 1}), "Slack received 2 messages"),
        (replace(GOOD, outbox={"sent": 2, "failed": 1}), "Slack received 2 messages"),
        (replace(GOOD, messages=[_message("a", "on rank 0")]), "Slack received 2 messages"),
        (replace(GOOD, messages=[_message("a"), _message("a")]), "none of them came twice"),
        (replace(GOOD, incidents=_incident(actions=[PAUSED])), "the record has one incident"),
        (replace(GOOD, incidents=_incident(actions=[PAUSED, PAUSED, RESUMED])), "the record has"),
        (replace(GOOD, incidents=[INCIDENT, INCIDENT]), "the record has one incident"),
        (replace(GOOD, steps=74), "training came to its end: step 74 of 75"),
        (replace(GOOD, run={**RUN, "state": "lost"}), "training came to its end"),
        (replace(GOOD, run=None), "training came to its end"),
        (replace(GOOD, loss=math.nan), "its last loss is finite"),
        (replace(GOOD, status=1), "the trainer ended with status 1"),
    ],
)
def test_a_drill_fails_on_each_thing_that_has_not_happened(evidence: Evidence, told: str) -> None:
    assert _failing(GOOD) == []
    (what,) = _failing(evidence)
    assert what.startswith(told)


def test_a_drill_in_which_nothing_was_noticed_fails_without_a_fault_of_its_own() -> None:
    nothing = Evidence([], None, {}, [], "", status=0, steps=0, loss=math.nan)
    for fault in SCENARIOS:
        assert _failing(nothing, fault)


def test_a_drill_of_a_warning_fails_when_a_rule_touched_the_run() -> None:
    slow = _cause(rule="Straggler", signal="exposed_communication_seconds", module=None)
    compared: EvidenceJSON = {"kind": "comparison", "title": "less", "text": "", "rank": 1}
    slow[0]["evidence"] = [compared]
    alert: AlertJSON = {**INCIDENT["alerts"][0], "rule": "Straggler"}
    well = replace(
        GOOD, incidents=[{**slow[0], "alerts": [alert], "actions": []}], run=RUN, steps=84
    )
    assert _failing(well, "slow-rank") == []
    alone = replace(well, incidents=[{**well.incidents[0], "evidence": []}])
    assert _failing(alone, "slow-rank") == ["evidence speaks for it"]
    touched = replace(well, incidents=[{**well.incidents[0], "actions": [PAUSED]}])
    assert _failing(touched, "slow-rank") == ["no rule touched the run"]


def test_a_job_that_ends_well_although_it_was_killed_fails_its_drill() -> None:
    assert "the job has ended, and not well (status 0)" in _failing(GOOD, "hang")


def test_a_drill_of_a_hang_demands_the_stacks_of_both_ranks() -> None:
    stood: EvidenceJSON = {
        "kind": "stack",
        "title": "rank 1 stands in threading.py:327 wait, from faults.py:8 hang",
        "text": "MainThread, which trains:\n  /faults.py:8 Hang.arm.<locals>.hang\n  /t.py:1 step",
        "rank": 1,
    }
    waited: EvidenceJSON = {
        "kind": "stack",
        "title": "rank 0 waits in distributed_c10d.py:3 all_reduce",
        "text": "MainThread, which trains:\n  /torch/distributed/distributed_c10d.py:3 all_reduce",
        "rank": 0,
    }
    both = replace(GOOD, incidents=_incident(evidence=[stood, waited]))
    demands = ("the stack of rank 1 names", "a rank that waits for it stands")
    for found, missing in (
        (both, []),
        (replace(GOOD, incidents=_incident(evidence=[waited])), [0]),
        (replace(GOOD, incidents=_incident(evidence=[stood])), [1]),
        (replace(GOOD, incidents=_incident(evidence=[{**stood, "text": ""}, waited])), [0]),
        (replace(GOOD, incidents=_incident(evidence=[stood, {**waited, "text": ""}])), [1]),
    ):
        told = [what for what in _failing(found, "hang") if what.startswith(demands)]
        assert [what.startswith(demands[1]) for what in told] == missing


def test_the_report_counts_from_the_fault_and_keeps_the_first_of_each() -> None:
    at = [100.0]
    chronicle = Chronicle(now=lambda: at[0])
    at[0] += 10
    chronicle.note("fault", "nan is due", 30)
    at[0] += 0.25
    chronicle.note("noticed", "by NonFiniteActivation", 30)
    at[0] += 1
    chronicle.note("noticed", "by LossSpike", 31)
    chronicle.note("held", "by rule:SkippedSteps", 34)
    assert not chronicle.ok  # nothing was checked
    chronicle.check("it was so", ok=True)
    assert chronicle.ok
    assert chronicle.table() == [
        "                after the fault",
        "fault                     0.0 s  step 30, nan is due",
        "noticed                   0.2 s  step 30, by NonFiniteActivation",
        "held                      1.2 s  step 34, by rule:SkippedSteps",
        "message                       -  never",
        "resumed                       -  never",
        "ended                         -  never",
    ]
    report = chronicle.report("nan", "/state")
    assert (report["ok"], report["took_s"]) == (True, 11.25)
    assert [(one["event"], one["after_fault_s"]) for one in report["moments"]] == [
        ("fault", 0.0),
        ("noticed", 0.25),
        ("held", 1.25),
    ]
    chronicle.check("that was not", ok=False)
    assert not chronicle.ok


def test_evidence_that_is_not_there_is_no_evidence(tmp_path: Path) -> None:
    assert known(tmp_path / "nowhere") == frozenset()
    assert math.isnan(last_loss(tmp_path / "losses.0")[1])
    (tmp_path / "losses.0").write_text("1 0x1.8p+1\n2 0x1.4p+1\n")
    assert last_loss(tmp_path / "losses.0") == (2, 2.5)
    (tmp_path / "losses.0").write_text("1 0x1.8p+1\n2 torn")
    assert last_loss(tmp_path / "losses.0")[0] == 0
    assert event_id(Message("C", "training", "1", "text")) == ""
