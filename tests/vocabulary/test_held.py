"""Durations, and what is said of a hold: what it costs, how it ends, what may end the job first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.duration import in_words, seconds_of
from sentinel.held import HoldTerms

SINCE = 1_780_000_000.0  # 2026-05-28T20:26:40Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("500ms", 0.5), ("0s", 0)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "h", "1.5h", "-5m", "5 m", "5m3", "1h 30m", "٣s", "5M"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert seconds_of(text) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (75, "1 min 15 s"), (1800, "30 min"), (7200, "2 h"), (5400.2, "1 h 30 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@given(st.integers(0, 10_000_000))
def test_words_say_all_but_what_is_below_a_minute_in_hours(seconds: int) -> None:
    said = seconds_of(in_words(seconds).replace(" ", "").replace("min", "m"))
    assert said is not None
    assert seconds - said == (seconds % 60 if seconds >= 3600 else 0)


def test_a_hold_says_what_it_costs_and_how_it_ends() -> None:
    terms = HoldTerms("stop", 7200.0, 8, "GPU", SINCE + 86_400.0, 600.0)

    assert terms.facts(SINCE, SINCE + 1800.0) == (
        ("Held since", "2026-05-28T20:26:40.000Z, for 30 min"),
        ("Cost so far", "4.00 GPU-hours (8 GPUs)"),
        ("If nobody answers", "the run is stopped at 2026-05-28T22:26:40.000Z, in 1 h 30 min"),
        ("Job ends", "by its scheduler at 2026-05-29T20:26:40.000Z, in 23 h 30 min"),
        (
            "Group timeouts",
            "10 min; no harm: nobody is inside a collective while held, so none runs",
        ),
    )
    assert terms.warning(SINCE) == ""


def test_what_is_not_known_is_not_said() -> None:
    assert HoldTerms("hold").facts(SINCE, SINCE + 3600.0) == (
        ("Held since", "2026-05-28T20:26:40.000Z, for 1 h"),
        ("Cost so far", "1.00 rank-hours (1 rank)"),
        ("If nobody answers", "it stays held"),
    )


@pytest.mark.parametrize(
    ("unattended", "deadline", "warning"),
    [
        ("resume", 7201.0, ""),
        ("resume", 0.0, ""),
        ("hold", 0.0, ""),
        ("resume", 5400.0, "30 min before it would go on by itself: answer before that."),
        ("stop", 5400.0, "30 min before it would be stopped by itself: answer before that."),
        ("hold", 86_400.0, "has no end of its own, but the scheduler ends the job at 2026-05-29T2"),
    ],
)
def test_a_hold_that_would_outlive_the_job_warns(
    unattended: str, deadline: float, warning: str
) -> None:
    said = HoldTerms(unattended, deadline=deadline and SINCE + deadline).warning(SINCE)
    assert warning in said
    assert bool(warning) == bool(said)
