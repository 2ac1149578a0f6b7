"""Times that are compared never go back; times that are shown are in UTC."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel import clock

# A far day, so that no zone's and no leap second's rule decides; milliseconds are exact there.
MOMENTS = st.integers(0, 4_102_444_800_000).map(lambda milliseconds: milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_769_851_800.25, "2026-01-31T09:30:00.250Z"),
        (1_709_164_799.999, "2024-02-28T23:59:59.999Z"),
    ],
)
def test_a_moment_is_shown_in_utc_with_milliseconds(seconds: float, expected: str) -> None:
    assert clock.isoformat(seconds) == expected


@given(MOMENTS)
def test_what_is_shown_reads_back_as_the_same_moment(seconds: float) -> None:
    shown = datetime.fromisoformat(clock.isoformat(seconds).replace("Z", "+00:00"))
    assert shown.timestamp() == pytest.approx(seconds, abs=0.001)


@given(MOMENTS, MOMENTS)
def test_what_is_shown_sorts_like_time(one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    assert clock.isoformat(earlier) <= clock.isoformat(later)


def test_steady_time_never_goes_back_and_stays_at_the_wall_clock() -> None:
    moments = [clock.steady() for _ in range(1000)]
    assert moments == sorted(moments)
    assert clock.steady() == pytest.approx(clock.wall(), abs=60.0)


def test_steady_time_ticks_with_the_monotonic_clock() -> None:
    before = clock.steady() - clock.monotonic()
    assert clock.steady() - clock.monotonic() == pytest.approx(before, abs=0.1)


def test_the_zone_of_the_machine_does_not_change_what_is_shown() -> None:
    program = "import json; from sentinel import clock; print(json.dumps(clock.isoformat(0.5)))"
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env={"TZ": "Asia/Kolkata"},
        capture_output=True,
        check=True,
        timeout=240,
    ).stdout
    assert json.loads(shown) == "1970-01-01T00:00:00.500Z"
