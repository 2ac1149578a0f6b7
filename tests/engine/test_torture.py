"""The shipped pack takes every synthetic trace as it should.

The traces, and what is expected of each, are those of benchmarks/detection.py; here are a few short
ones of each family. `python -m benchmarks.detection --failures` runs many more.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.detectors.sentinel_pack import pack
from benchmarks.detectors.verdict import false_alarms, judge
from benchmarks.traces.curve import Size
from benchmarks.traces.families import CLEAN, FAULTS, trace

SHORT = Size(lowest=200, usual=600, highest=1_500)
SEEDS = range(3)


@pytest.mark.parametrize("family", CLEAN)
def test_a_run_in_which_nothing_is_wrong_raises_nothing(family: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        one = trace(family, seed, SHORT)
        alarms = list(pack(one.write(tmp_path)))
        assert not false_alarms(one, alarms), (one.name, alarms)
        assert not any(alarm.acts for alarm in alarms), (one.name, alarms)


@pytest.mark.parametrize("family", FAULTS)
def test_a_fault_is_found_in_time_by_its_name_and_nothing_else_is(
    family: str, tmp_path: Path
) -> None:
    for seed in SEEDS:
        one = trace(family, seed, SHORT)
        alarms = list(pack(one.write(tmp_path)))
        verdict = judge(one, alarms)
        assert verdict.right, (one.name, one.events, alarms)
        assert verdict.named == verdict.events, (one.name, one.events, alarms)


@pytest.mark.parametrize("family", ["NaN once", "Inf once", "NaN for ever", "gradient norm -1"])
def test_what_is_not_finite_alerts_on_its_own_row(family: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        one = trace(family, seed, SHORT)
        assert judge(one, pack(one.write(tmp_path))).delays == (0,), one.name
