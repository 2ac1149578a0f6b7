"""What the engine knows of what is measured where, and which rules cannot see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.blind import can_be
from sentinel.engine.coverage import (
    NOT_APPLICABLE,
    SAYS_NOTHING,
    BlindSpot,
    RuleCoverage,
    SignalCoverage,
    ranges,
)
from sentinel.engine.derived import sources
from sentinel.engine.evaluation import scalar
from sentinel.engine.language.expression import (
    Both,
    Comparison,
    Condition,
    Constant,
    Either,
    Missing,
    NonFinite,
    Not,
    Reading,
)
from sentinel.engine.rule import Rule
from sentinel.wire import Coverage, Extension, Goodbye, Series
from tests.engine import world
from tests.engine.world import Job, steps

NAMES = ("loss", "grad_norm", "layer_grad_norm/a")


def _job(
    rules: Sequence[Rule] = (),
    names: Sequence[str] | Mapping[int, Sequence[str]] = NAMES,
    *,
    world_size: int = 2,
    missing: Mapping[int, dict[str, str]] | None = None,
    every: dict[str, int] | None = None,
) -> Job:
    job = Job(rules, names, world_size, greet=False)
    for rank in range(world_size):
        own = names[rank] if isinstance(names, Mapping) else names
        hello = world.hello(rank, world_size, own)
        said = msgspec.structs.replace(
            hello, missing=(missing or {}).get(rank, {}), every=every or {}
        )
        job.engine.feed(rank, said, job.now)
    return job


def _lines(job: Job, signal: str) -> list[SignalCoverage]:
    return [line for line in job.engine.coverage().signals if line.signal == signal]


def _rule(job: Job) -> RuleCoverage:
    (rule,) = job.engine.coverage().rules
    return rule


def _train(
    job: Job, first: int, last: int, measured: world.Measured, own: Mapping[int, world.Measured]
) -> None:
    """Steps of two seconds each."""
    for step in range(first, last + 1):
        job.now += 2.0
        job.step(step, measured, own)


def test_ranks_of_which_the_same_is_true_are_told_of_together() -> None:
    job = _job(
        world_size=6,
        missing={rank: {"lr": "no scheduler"} for rank in (0, 1, 4)},
        every={"grad_norm": 20},
    )
    assert _lines(job, "lr") == [
        SignalCoverage("lr", "missing", "0-1,4", 0, "no scheduler"),
        SignalCoverage("lr", "missing", "2-3,5", 0, SAYS_NOTHING),
    ]
    assert _lines(job, "loss") == [SignalCoverage("loss", "measured", "0-5")]
    assert _lines(job, "grad_norm") == [SignalCoverage("grad_norm", "sampled", "0-5", 20)]


def test_what_a_rank_says_later_counts() -> None:
    job = _job()
    job.engine.feed(0, Coverage(5, "grad_norm", "its probe failed"), job.now)
    job.engine.feed(1, Coverage(5, "grad_norm", "over the budget", 8), job.now)
    job.engine.feed(1, Extension((Series("logged", "accuracy"),)), job.now)
    assert _lines(job, "grad_norm") == [
        SignalCoverage("grad_norm", "missing", "0", 0, "its probe failed"),
        SignalCoverage("grad_norm", "sampled", "1", 8, "over the budget"),
    ]
    assert [line.state for line in _lines(job, "logged")] == ["missing", "measured"]


def test_a_signal_that_was_announced_and_comes_no_more_is_stale() -> None:
    job = _job()
    _train(job, 1, 20, {"loss": 1.0, "grad_norm": 1.0}, {})
    assert _lines(job, "grad_norm") == [SignalCoverage("grad_norm", "measured", "0-1")]
    _train(job, 21, 30, {"loss": 1.0}, {0: {"grad_norm": 1.0}})
    assert _lines(job, "grad_norm") == [SignalCoverage("grad_norm", "measured", "0-1")]
    _train(job, 31, 31, {"loss": 1.0}, {0: {"grad_norm": 1.0}})
    measured, stale = _lines(job, "grad_norm")
    assert measured == SignalCoverage("grad_norm", "measured", "0")
    assert (stale.state, stale.ranks, stale.last_step) == ("stale", "1", 20)
    never = _lines(job, "layer_grad_norm")
    assert [(line.state, line.ranks, line.last_step) for line in never] == [("stale", "0-1", None)]
    _train(job, 32, 32, {"loss": 1.0, "grad_norm": 1.0}, {})
    assert _lines(job, "grad_norm") == [SignalCoverage("grad_norm", "measured", "0-1")]


def test_a_sampled_signal_is_stale_after_three_of_its_intervals() -> None:
    job = _job(every={"grad_norm": 20})
    states = {}
    for step in range(1, 82):
        due = {"grad_norm": 1.0} if step == 20 else {}
        _train(job, step, step, {"loss": 1.0, **due}, {})
        states[step] = [line.state for line in _lines(job, "grad_norm")]
    assert states.pop(81) == ["stale"]
    assert set(map(tuple, states.values())) == {("sampled",)}


def test_steps_that_fly_by_make_nothing_stale() -> None:
    job = _job()
    for step in range(1, 40):  # a tenth of a second each
        job.step(step, {"loss": 1.0})
    assert _lines(job, "grad_norm") == [SignalCoverage("grad_norm", "measured", "0-1")]


def test_what_happens_now_and_then_is_never_stale() -> None:
    job = _job(names=("loss", "checkpoint_seconds"))
    _train(job, 1, 40, {"loss": 1.0}, {})
    assert [line.state for line in _lines(job, "checkpoint_seconds")] == ["measured"]


def test_going_back_to_an_earlier_step_makes_nothing_stale_and_hides_nothing() -> None:
    job = _job()
    _train(job, 1, 40, {"loss": 1.0, "grad_norm": 1.0}, {})
    _train(job, 11, 21, {"loss": 1.0}, {})
    assert [line.state for line in _lines(job, "grad_norm")] == ["measured"]
    _train(job, 22, 22, {"loss": 1.0}, {})
    assert [line.state for line in _lines(job, "grad_norm")] == ["stale"]


def test_frames_with_ever_new_patterns_of_what_is_missing_keep_the_last_steps() -> None:
    names = [f"layer_grad_norm/{layer}" for layer in range(8)]
    job = _job(names=["grad_norm", *names], world_size=1)
    _train(job, 1, 1, {"grad_norm": 1.0}, {})
    for step in range(2, 300):
        measured = {name: 1.0 for bit, name in enumerate(names) if step >> bit & 1}
        _train(job, step, step, measured, {})
    (line,) = _lines(job, "grad_norm")
    assert (line.state, line.last_step) == ("stale", 1)
    assert [line.state for line in _lines(job, "layer_grad_norm")] == ["measured"]


def test_a_rule_over_a_missing_signal_is_blind_and_says_where() -> None:
    why = {rank: {"lr": "no scheduler"} for rank in range(6)}
    job = _job([world.rule("lr > 1")], world_size=6, missing=why)
    spot = BlindSpot("lr", "0-5", "no scheduler")
    assert _rule(job) == RuleCoverage("Rule", "blind", (spot,))
    some = {rank: {"loss": "broken"} for rank in (3, 4)}
    job = _job(
        [world.rule("nonfinite(by_rank(loss))")],
        {rank: ("lr",) if rank in some else ("loss", "lr") for rank in range(6)},
        world_size=6,
        missing=some,
    )
    assert _rule(job) == RuleCoverage("Rule", "blind", (BlindSpot("loss", "3-4", "broken"),))


@pytest.mark.parametrize(
    ("reason", "applicable"),
    [
        *((f"{begin}, as ranks say", False) for begin in NOT_APPLICABLE),
        ("its probe failed", True),
    ],
)
def test_what_there_cannot_be_in_a_run_is_told_from_what_is_lacking(
    reason: str, applicable: bool
) -> None:
    why = {rank: {"lr": reason} for rank in range(6)}
    job = _job([world.rule("lr > 1")], world_size=6, missing=why)
    assert _rule(job).applicable is applicable
    assert [line.applicable for line in _lines(job, "lr")] == [applicable]
    assert all(line.applicable for line in _lines(job, "loss"))


def test_reasons_that_mean_not_applicable_are_those_that_ranks_give() -> None:
    hooks = Path(__file__).parents[2] / "hooks" / "sentinel_hooks"
    source = "\n".join(path.read_text() for path in hooks.rglob("*.py"))
    assert [begin for begin in NOT_APPLICABLE if f'"{begin}' not in source] == []


@pytest.mark.parametrize(
    ("expression", "state"),
    [
        ("missing(lr)", "ok"),
        ("missing(lr) and loss > 1", "ok"),
        ("not missing(lr) and loss > 1", "blind"),
        ("loss > 1 and lr > 1", "blind"),
        ("loss > 1 or lr > 1", "ok"),
        ("not (loss > 1 or lr > 1)", "blind"),
        ("robust_z(lr, window=20) > 5", "blind"),
        ("loss / mean(lr[20]) > 5", "blind"),
        ("by_rank(silence) > 30", "ok"),
        ("layer_update_ratio > 1", "blind"),
    ],
)
def test_a_rule_is_blind_only_if_it_cannot_come_true(expression: str, state: str) -> None:
    assert _rule(_job([world.rule(expression)])).state == state


def test_a_rule_that_sees_in_part_says_what_it_lacks() -> None:
    rule = _rule(_job([world.rule("loss > 1 or lr > 1")]))
    assert (rule.state, [spot.signal for spot in rule.blind]) == ("ok", ["lr"])
    assert _rule(_job([world.rule("missing(lr)")])).blind == ()


def test_a_rule_that_fires_or_is_off_is_not_called_blind() -> None:
    job = _job([world.rule("loss > 1 or lr > 1", holds=steps(2))])
    job.step(1, {"loss": 2.0})
    assert _rule(job).state == "pending"
    job.step(2, {"loss": 2.0})
    assert _rule(job).state == "firing"
    job = _job([world.rule("loss > max(lr[10000])")], names=("loss", "lr"))
    job.engine._judging.errors["Rule"] = 1
    assert _rule(job).state == "off"


def test_ranks_that_hold_replicas_are_not_missing_from_a_sum() -> None:
    names = {0: ("loss", "layer_grad_norm/a"), 1: ("loss",), 2: ("loss",)}
    job = _job([world.rule("layer_grad_norm > 1")], names, world_size=3)
    assert _lines(job, "layer_grad_norm") == [SignalCoverage("layer_grad_norm", "measured", "0")]
    assert _rule(job) == RuleCoverage("Rule", "ok")


def test_a_sum_that_lacks_one_rank_blinds_its_rules_everywhere() -> None:
    job = _job([world.rule("layer_grad_norm > 1")], world_size=3)
    assert _rule(job).state == "ok"
    job.engine.feed(1, Coverage(1, "layer_grad_norm", "its probe failed"), job.now)
    (spot,) = _rule(job).blind
    assert (spot.ranks, _rule(job).state) == ("0-2", "blind")
    assert "rank 1" in spot.reason
    assert "its probe failed" in spot.reason


def test_ranks_that_are_not_there_are_told_of_once() -> None:
    job = Job([world.rule("layer_grad_norm > 1")], NAMES, 8, greet=False)
    for rank in (0, 1, 2, 3, 7):
        job.hello(rank)
    coverage = job.engine.coverage()
    assert [(one.ranks, one.reason) for one in coverage.unseen] == [("4-6", "has not connected")]
    assert coverage.ranks == "0-3,7"
    (spot,) = coverage.rules[0].blind
    assert "ranks 4-6" in spot.reason
    for rank in (0, 1):
        job.engine.feed(rank, Goodbye("detached"), job.now)
    job.engine.disconnected(2, job.now)
    job.tick(11)
    unseen = {one.ranks: one.reason for one in job.engine.coverage().unseen}
    assert unseen["0-1"] == "left the run: detached"
    assert "lost" in unseen["2"]


def test_the_coverage_of_a_run_that_is_over_is_what_it_was() -> None:
    job = _job([world.rule("lr > 1")], missing={0: {"lr": "none"}, 1: {"lr": "none"}})
    _train(job, 1, 3, {"loss": 1.0}, {})
    before = job.engine.coverage()
    for rank in (0, 1):
        job.engine.feed(rank, Goodbye("finished"), job.now)
    job.engine.ended(job.now)
    assert job.engine.coverage() == before


def test_a_new_process_of_a_rank_starts_with_what_it_says() -> None:
    job = _job()
    job.engine.feed(1, Coverage(5, "grad_norm", "its probe failed"), job.now)
    job.hello(1, incarnation="b")
    assert _lines(job, "grad_norm") == [SignalCoverage("grad_norm", "measured", "0-1")]


@pytest.mark.parametrize(("holds", "fires"), [(2, 80), (3, None)])
def test_for_counts_only_the_steps_at_which_a_sampled_signal_was_measured(
    holds: int, fires: int | None
) -> None:
    """Measured each 20 steps, at 20 of them below the limit; a gap breaks nothing."""
    for expression, name in (
        ("grad_norm > 1", "grad_norm"),
        ("by_rank(grad_norm) > 1", "grad_norm"),
        ("layer_grad_norm > 1", "layer_grad_norm/a"),
    ):
        rule = world.rule(expression, holds=steps(holds), keeps=steps(1))
        job = _job([rule], every={name.split("/")[0]: 20})
        values = {20: 4.0, 40: 0.5, 60: 4.0, 80: 4.0}
        told: list[tuple[str, str, int]] = []
        for step in range(1, 100):
            due = {name: values[step]} if step in values else {}
            told += [
                (one.rule, one.state, one.fired_step)
                for one in world.alerts(job.step(step, {"loss": 1.0, **due}))
            ]
        times = 2 if "by_rank" in expression else 1
        assert told == ([("Rule", "firing", fires)] * times if fires else [])


def test_a_firing_alert_over_a_sampled_signal_resolves_by_measured_steps_alone() -> None:
    job = _job([world.rule("grad_norm > 1", keeps=steps(1))], every={"grad_norm": 10})
    values = {10: 4.0, 20: 0.5, 30: 0.5}
    seen: list[tuple[str, int]] = []
    for step in range(1, 40):
        due = {"grad_norm": values[step]} if step in values else {}
        seen += [(one.state, step) for one in world.alerts(job.step(step, {"loss": 1.0, **due}))]
    assert seen == [("firing", 10), ("resolved", 30)]


_SIGNALS = ("loss", "lr", "grad_norm")
_READINGS = st.sampled_from([Reading(signal, by_rank=True) for signal in _SIGNALS])
_LEAVES = st.one_of(
    st.builds(Comparison, st.sampled_from(["<", ">="]), _READINGS, st.just(Constant(0.0))),
    st.builds(NonFinite, _READINGS),
    st.builds(Missing, _READINGS),
)
_CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    _LEAVES,
    lambda of: st.one_of(st.builds(Not, of), st.builds(Both, of, of), st.builds(Either, of, of)),
    max_leaves=6,
)
_ROWS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(_SIGNALS, st.sampled_from([-1.0, 0.0, 1.0, float("nan")]))
)


@given(condition=_CONDITIONS, row=_ROWS, lacking=st.sets(st.sampled_from(_SIGNALS)))
def test_what_is_called_blind_never_comes_true(
    condition: Condition, row: dict[str, float], lacking: set[str]
) -> None:
    readings = frozenset(Reading(signal, by_rank=True) for signal in lacking)
    measured = {signal: value for signal, value in row.items() if signal not in lacking}
    holds = scalar.condition(condition)(measured)
    if holds is not None:
        assert can_be(condition, holds, readings)


def test_derived_signals_are_as_blind_as_what_they_are_made_of() -> None:
    assert sources("layer_update_ratio") == {"layer_update_norm", "layer_weight_norm"}
    assert sources("collective_bytes_per_second") == {"collective_seconds", "collective_bytes"}
    assert sources("loss") == {"loss"}


@given(st.sets(st.integers(0, 40)))
def test_ranges_name_every_rank_once(ranks: set[int]) -> None:
    found: list[int] = []
    for part in filter(None, ranges(ranks).split(",")):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    assert found == sorted(ranks)
