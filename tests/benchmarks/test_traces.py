"""The generator of synthetic traces, and what a detector's alarms on one amount to."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.detectors.alarm import Alarm
from benchmarks.detectors.rows import read
from benchmarks.detectors.verdict import judge
from benchmarks.traces.curve import Size
from benchmarks.traces.families import CLEAN, FAMILIES, FAULTS, trace
from benchmarks.traces.trace import Event, Row, Spared, Trace

SHORT = Size(usual=400, highest=1_000)
ROWS = tuple(Row(step, 2.0, 1.0, None) for step in range(1, 101))
SPIKE = Trace("spike", 0, ROWS, events=(Event(("LossSpike",), 40, 50, 60),))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_depends_on_its_family_seed_and_size_alone(family: str) -> None:
    # By their text, since NaN equals nothing.
    assert repr(trace(family, 1, SHORT)) == repr(trace(family, 1, SHORT))
    assert repr(trace(family, 1, SHORT)) != repr(trace(family, 2, SHORT))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_is_read_back_as_it_was_written(family: str, tmp_path: Path) -> None:
    one = trace(family, 3, SHORT)
    assert repr(tuple(read(one.write(tmp_path)))) == repr(one.rows)


@pytest.mark.parametrize("family", FAULTS)
def test_what_is_to_be_found_lies_in_its_trace_after_enough_healthy_rows(family: str) -> None:
    for seed in range(20):
        one = trace(family, seed, SHORT)
        assert one.events
        for event in one.events:
            assert event.start <= event.by < len(one.rows), (seed, event)
            assert event.by <= event.until, (seed, event)
            assert event.start >= 25 or event.kinds == ("Plateau",), (seed, event)


@pytest.mark.parametrize("family", sorted(set(CLEAN) - {"missing values"}))
def test_a_clean_run_has_no_value_that_is_not_finite(family: str) -> None:
    for seed in range(5):
        for row in trace(family, seed, SHORT).rows:
            assert row.loss is not None
            assert math.isfinite(row.loss)
            assert row.grad_norm is None or math.isfinite(row.grad_norm)


def test_a_fault_is_found_by_an_eligible_alarm_in_time() -> None:
    good = judge(SPIKE, [Alarm(42, "LossSpike")])
    assert (good.found, good.named, good.delays, good.false_alarms, good.right) == (
        1,
        1,
        (2,),
        0,
        1,
    )
    assert (good.clean_rows, good.needless) == (100 - 21, 0)
    other = judge(SPIKE, [Alarm(42, "Anomaly")])
    assert (other.found, other.named, other.right) == (1, 0, 1)
    plateau = judge(SPIKE, [Alarm(42, "Plateau")])
    assert (plateau.found, plateau.false_alarms, plateau.right) == (0, 1, 0)
    late = judge(SPIKE, [Alarm(51, "LossSpike")])
    assert (late.found, late.false_alarms, late.right) == (0, 0, 0)
    early = judge(SPIKE, [Alarm(39, "LossSpike")])
    assert (early.found, early.false_alarms, early.right) == (0, 1, 0)


def test_alarms_at_most_ten_rows_apart_are_one_false_episode() -> None:
    found = [Alarm(45, "LossSpike")]
    false = [Alarm(row, "LossSpike") for row in (5, 15, 26, 80)]
    verdict = judge(SPIKE, found + false)
    assert (verdict.false_alarms, verdict.found, verdict.right) == (3, 1, 0)
    assert verdict.false_rate == pytest.approx(1000 * 3 / 79)


def test_a_pause_is_needless_where_nothing_is_certainly_wrong() -> None:
    assert judge(SPIKE, [Alarm(45, "Divergence", acts=True)]).needless == 0
    outside = judge(SPIKE, [Alarm(45, "LossSpike"), Alarm(90, "Divergence", acts=True)])
    assert (outside.needless, outside.right) == (1, 0)


def test_one_episode_may_follow_a_change_by_design_and_a_second_is_false() -> None:
    shift = Trace("shift", 0, ROWS, spared=(Spared(30, 60),))
    once = judge(shift, [Alarm(31, "LossSpike"), Alarm(35, "LossSpike")])
    assert (once.false_alarms, once.right) == (0, 1)
    twice = judge(shift, [Alarm(31, "LossSpike"), Alarm(55, "LossSpike")])
    assert (twice.false_alarms, twice.right) == (1, 0)
    pausing = judge(shift, [Alarm(31, "Divergence", acts=True)])
    assert (pausing.needless, pausing.right) == (1, 0)


def test_only_what_is_about_plateaus_is_right_in_a_plateau() -> None:
    stuck = Trace("stuck", 0, ROWS, events=(Event(("Plateau",), 0, 99, 99),))
    assert judge(stuck, [Alarm(70, "Plateau")]).right
    spiky = judge(stuck, [Alarm(70, "Plateau"), Alarm(80, "LossSpike")])
    assert (spiky.found, spiky.false_alarms, spiky.clean_rows) == (1, 1, 100)
