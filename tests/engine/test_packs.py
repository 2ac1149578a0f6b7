"""What the shipped packs would do to a run."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.engine.rule import Rule
from sentinel.engine.rulefile import load, resolve_pack
from tests.engine.world import Job, actions

WELL = {"loss": 2.5, "grad_norm": 1.0}


def _pack(name: str) -> Mapping[str, Rule]:
    return {rule.name: rule for rule in load(resolve_pack(name))}


def test_packs_have_all_that_the_default_pack_finds() -> None:
    default = _pack("default")
    for name in ("deepseek-guide", "strict"):
        pack = _pack(name)
        assert pack.keys() >= default.keys()
        assert all(pack[one].expression == default[one].expression for one in default)


def test_the_strict_pack_pauses_for_what_the_default_pack_only_warns_of() -> None:
    for name, expected in (("default", []), ("strict", ["pause"])):
        job = Job(load(resolve_pack(name)), list(WELL))
        for step in range(1, 60):
            job.step(step, WELL)
        job.step(60, {**WELL, "loss": 25.0})
        assert [one.action for one in actions(job.told)] == expected, name


def test_a_hold_by_the_strict_pack_waits_for_a_person() -> None:
    pausing = [rule for rule in _pack("strict").values() if "pause" in rule.actions]
    assert {rule.unattended for rule in pausing} == {"hold"}


def test_of_the_guides_rules_one_pauses_and_the_sustained_ones_do_not() -> None:
    default, guide = _pack("default"), _pack("deepseek-guide")
    new = {name: rule.actions for name, rule in guide.items() if name not in default}
    assert {name for name, asked in new.items() if asked} == {"GuideUpdateNorm"}
    assert new["GuideUpdateNorm"] == ("pause",)
