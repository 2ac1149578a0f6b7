"""The score of a detector on labelled logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.detectors.alarm import Alarm
from benchmarks.labelled.interval import bootstrap, wilson
from benchmarks.labelled.labels import LabelledRun, load
from benchmarks.labelled.score import Score, score

Event = tuple[str, int, int, str]  # type, first row, last row, confidence


def _run(folder: Path, events: Sequence[Event], *, rows: int = 200) -> LabelledRun:
    """A run whose rows are 10 steps apart."""
    (folder / "data").mkdir()
    lines = (json.dumps({"step": 10 * row, "loss": 2.0}) + "\n" for row in range(rows))
    (folder / "data" / "a_run.jsonl").write_text("".join(lines))
    names = ("type", "start_index", "end_index", "confidence")
    anomalies = [dict(zip(names, event, strict=True)) for event in events]
    labels = {"a_run": {"suite": "training", "anomalies": anomalies}}
    (folder / "labels.json").write_text(json.dumps(labels))
    [run] = load(folder)
    return run


def _alarms(rule: str, *rows: int, acts: bool = False) -> list[Alarm]:
    return [Alarm(row, rule, acts) for row in rows]


def test_events_close_together_are_one_incident_with_the_delay_of_its_first_alarm(
    tmp_path: Path,
) -> None:
    events = [
        ("grad_explosion", 50, 52, "certain"),
        ("loss_spike", 55, 60, "certain"),
        ("loss_spike", 64, 64, "certain"),
    ]
    run = _run(tmp_path, events)
    assert run.source == "a"
    result = score(run, _alarms("LossSpike", 57, 58))
    assert (result.incidents, result.found, result.delays) == (2, 1, (7,))
    assert (result.recall, result.precision, result.false_alarms) == (0.5, 1.0, 0)
    assert result.clean_rows == 200 - (74 - 48 + 1)
    assert score(run, _alarms("LossSpike", 48)).delays == (0,)


def test_windows_reach_from_two_rows_before_to_ten_after(tmp_path: Path) -> None:
    run = _run(tmp_path, [("loss_spike", 50, 50, "certain")])
    assert [score(run, _alarms("Spike", row)).found for row in (47, 48, 60, 61)] == [0, 1, 1, 0]
    assert [score(run, _alarms("Spike", row)).false_alarms for row in (47, 60, 61)] == [1, 0, 1]


def test_likely_events_count_neither_for_nor_against(tmp_path: Path) -> None:
    run = _run(tmp_path, [("loss_spike", 50, 60, "likely")])
    result = score(run, _alarms("LossSpike", 55))
    assert result == Score(clean_rows=200 - 23)
    assert (result.recall, result.precision, result.f1, result.delay) == (None, None, None, None)


def test_a_plateau_is_an_incident_of_its_own_that_only_its_like_can_find(tmp_path: Path) -> None:
    events = [("plateau", 100, 190, "certain"), ("loss_spike", 150, 150, "certain")]
    run = _run(tmp_path, events)
    spikes = score(run, _alarms("LossSpike", 120, 150))
    assert (spikes.incidents, spikes.found) == (2, 1)
    assert (spikes.true_alarms, spikes.false_alarms) == (1, 1)  # row 120 is no spike
    both = score(run, [*_alarms("LossSpike", 150), *_alarms("Plateau", 140)])
    assert (both.found, both.delays, both.false_alarms) == (2, (0, 40), 0)
    assert score(run, _alarms("Plateau", 20)).false_alarms == 1


def test_zero_loss_is_found_by_rules_about_plateaus_and_zeros(tmp_path: Path) -> None:
    run = _run(tmp_path, [("zero_loss", 50, 90, "certain")])
    found = [score(run, _alarms(rule, 60)).found for rule in ("ZeroLoss", "Plateau", "LossSpike")]
    assert found == [1, 1, 0]


def test_false_alarms_of_both_sorts_are_counted_in_episodes(tmp_path: Path) -> None:
    run = _run(tmp_path, [("loss_spike", 50, 50, "certain")])
    alarms = [*_alarms("LossSpike", 50, 100, 110, 121), *_alarms("Plateau", 105)]
    result = score(run, alarms)
    assert (result.true_alarms, result.false_alarms) == (1, 3)
    assert result.precision == 0.25
    assert result.f1 == pytest.approx(2 * 0.25 / 1.25)
    assert result.false_rate == pytest.approx(1000 * 3 / (200 - 13))


def test_a_pause_is_needless_in_a_run_without_a_certain_event(tmp_path: Path) -> None:
    run = _run(tmp_path, [("loss_spike", 50, 60, "likely")])
    assert score(run, _alarms("Divergence", 55, 56, 100, acts=True)).needless == 2
    (tmp_path / "other").mkdir()
    certain = _run(tmp_path / "other", [("loss_spike", 50, 60, "certain")])
    assert score(certain, _alarms("Divergence", 100, acts=True)).needless == 0


def test_an_alarm_counts_on_the_last_row_of_its_step(tmp_path: Path) -> None:
    run = _run(tmp_path, [("loss_spike", 50, 50, "certain")])
    steps = [*run.steps[:40], *[run.steps[40]] * 20, *run.steps[60:]]
    again = LabelledRun(run.name, run.suite, run.path, steps, run.events)
    assert score(again, _alarms("LossSpike", 45)).delays == (9,)


def test_scores_of_runs_add_up() -> None:
    total = Score(2, 1, (3,), 1, 0, 100, 0) + Score(1, 1, (5,), 2, 1, 50, 1)
    assert total == Score(3, 2, (3, 5), 3, 1, 150, 1)
    assert (total.delay, total.precision) == (5, 0.75)


def test_an_interval_of_a_share_is_wilsons() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_an_interval_over_runs_covers_the_figure_and_needs_two_runs() -> None:
    runs = [Score(incidents=4, found=found) for found in (0, 1, 2, 3, 4)]
    interval = bootstrap(runs, lambda one: one.recall)
    assert interval is not None
    assert 0 <= interval[0] < 0.5 < interval[1] <= 1
    assert interval == bootstrap(runs, lambda one: one.recall)
    assert bootstrap(runs[:1], lambda one: one.recall) is None
    assert bootstrap([Score(), Score()], lambda one: one.recall) is None
