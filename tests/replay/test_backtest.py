"""What a backtest says of a past run: alerts and how long they lasted, what is blind, two packs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from sentinel import wire
from sentinel.engine import event
from sentinel.engine.rule import Rule
from sentinel.errors import ReplayError
from sentinel.replay import backtest
from sentinel.replay.backtest import Backtest, Episode, agreement
from sentinel.replay.envelope import SPANS, Envelope
from sentinel.replay.past import open_past
from sentinel.store import Recording, Store
from sentinel.store.chunk import DAEMON
from tests.engine import world
from tests.engine.world import steps

NAN = math.nan
HIGH = world.rule("loss > 5", "High", keeps=steps(2), actions=("pause",))
HIGHER = world.rule("loss > 7", "High")
NOT_FINITE = world.rule("nonfinite(loss)", "NotFinite", severity="critical")
NORM = world.rule("grad_norm > 10", "Norm")
SILENT = world.rule("by_rank(silence) > 30", "Silent")


def log(path: Path, losses: Sequence[float | None]) -> Path:
    """A log with a step of ten for each loss."""
    rows = [{"step": 10 * at, "loss": loss} for at, loss in enumerate(losses, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def replay(file: Path, packs: dict[str, list[Rule]]) -> Backtest:
    tests = []
    for past in open_past(file, format="auto", columns={}):
        tests.append(Backtest(past, packs))
        for _ in tests[-1].go():
            pass
    (test,) = tests
    return test


def places(episodes: Sequence[Episode]) -> list[tuple[int, int]]:
    return [(one.alert.fired_step, one.row) for one in episodes]


def test_an_alert_has_a_row_a_step_and_an_end(tmp_path: Path) -> None:
    file = log(tmp_path / "a.jsonl", [1.0] * 4 + [9.0, NAN] + [1.0] * 6 + [9.0, 9.0])
    test = replay(file, {"mine": [HIGH, NOT_FINITE, NORM, SILENT]})
    (trial,) = test.trials
    assert (test.run, test.rows, test.first_step, test.last_step) == ("a", 14, 10, 140)
    assert [(one.alert.rule, one.row, one.until) for one in trial.episodes] == [
        ("High", 5, (80, 8)),
        ("NotFinite", 6, (70, 7)),
        ("High", 13, None),
    ]
    assert trial.by_rule == {"High": 2, "NotFinite": 1}
    assert [(row, wish.step, wish.action) for row, wish in trial.wanted] == [
        (5, 50, "pause"),
        (13, 130, "pause"),
    ]
    assert trial.pauses == 2


def test_what_cannot_come_true_is_blind(tmp_path: Path) -> None:
    file = log(tmp_path / "a.jsonl", [1.0] * 3)
    test = replay(file, {"mine": [HIGH, NORM, SILENT]})
    assert test.trials[0].blind == ("Norm", "Silent")


def test_alerts_are_told_while_the_log_is_still_being_read(tmp_path: Path) -> None:
    file = log(tmp_path / "a.jsonl", [1.0, 9.0, 1.0, 1.0])
    (past,) = open_past(file, format="auto", columns={})
    test = Backtest(past, {"mine": [HIGH]})
    told = test.go()
    pack, alert = next(told)
    assert (pack, alert.rule, test.rows) == ("mine", "High", 2)


def test_what_was_found_before_a_log_breaks_off_is_kept(tmp_path: Path) -> None:
    file = log(tmp_path / "a.jsonl", [1.0, 9.0, 1.0])
    with file.open("a") as end:
        end.write('{"step": 40, "loss": [1]}\n')
    (past,) = open_past(file, format="auto", columns={})
    test = Backtest(past, {"mine": [HIGH, NORM]})
    with pytest.raises(ReplayError, match=r"a\.jsonl:4"):
        list(test.go())
    assert (test.rows, test.trials[0].by_rule["High"]) == (2, 1)
    assert test.trials[0].blind == ("Norm",)


def test_two_packs_agree_on_alerts_of_one_rule_that_are_a_few_rows_apart(tmp_path: Path) -> None:
    quiet = [1.0] * 20
    losses = [6.0, *[6.5] * 9, 8.0, *quiet, 6.0, *quiet, 8.0, *quiet, 6.0, *[6.5] * 10, 8.0]
    file = log(tmp_path / "a.jsonl", losses)
    test = replay(file, {"one": [HIGH], "other": [HIGHER, NOT_FINITE]})
    found = agreement(*test.trials)
    assert places(test.trials[0].episodes) == [(10, 1), (320, 32), (530, 53), (740, 74)]
    assert places(test.trials[1].episodes) == [(110, 11), (530, 53), (850, 85)]
    assert found.both == 2  # 10 rows apart, and none; those 11 apart are two findings
    assert [places(side) for side in found.only] == [[(320, 32), (740, 74)], [(850, 85)]]


def test_only_so_many_alerts_are_kept_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtest, "MOST", 3)
    file = log(tmp_path / "a.jsonl", [9.0, 1.0] * 10)
    (trial,) = replay(file, {"mine": [world.rule("loss > 5", "High")]}).trials
    assert (len(trial.episodes), trial.alerts) == (3, 10)


BROKEN = {
    "no message": (0, 1.0, b"\xff\xff", "malformed"),
    "an unknown event": (DAEMON, 1.0, b"\x91\xa6danced", "does not know"),
    "no event": (DAEMON, 1.0, b"", "does not know"),
    "no time": (0, NAN, b"\x91\xa5hello", "no time"),
}


@pytest.mark.parametrize(("rank", "now", "body", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_recording_is_said_with_run_and_message(
    tmp_path: Path, rank: int, now: float, body: bytes, reason: str
) -> None:
    Store.open(tmp_path).close()
    recording = Recording.open(tmp_path)
    recording.append("gpt", 0, 0.0, wire.encode(world.hello(0, 1, ["loss"]))[wire.HEADER :])
    recording.append("gpt", rank, now, body)
    recording.flush()
    recording.close()
    with pytest.raises(ReplayError, match=f"run gpt, message 2: .*{reason}"):
        replay(tmp_path, {"mine": [HIGH]})


def test_a_recording_whose_beginning_is_gone_is_read_as_if_ranks_had_just_come(
    tmp_path: Path,
) -> None:
    Store.open(tmp_path).close()
    recording = Recording.open(tmp_path, limit=2000)
    began = event.encode(event.Began(7))
    recording.append("gpt", DAEMON, 0.0, began)
    for rank in (0, 1):
        hello = wire.encode(world.hello(rank, 2, ["loss"]))[wire.HEADER :]
        recording.append("gpt", rank, 0.0, hello)
    recording.append("gpt", 1, 1.0, None)
    recording.flush()
    for second in range(2000):
        frame = world.frame(second + 1, second + 1, ["loss"], {"loss": second / 7})
        recording.append("gpt", 0, float(second), wire.encode(frame)[wire.HEADER :])
        recording.append("gpt", DAEMON, second + 0.5, event.encode(event.Ticked()))
        if second % 10 == 0:
            recording.flush()
    recording.flush()
    first, second_, *rest = recording.messages("gpt")
    assert (first.rank, first.body, second_.rank) == (DAEMON, began, 0)
    assert first.now == second_.now == rest[0].now > 1000.0
    recording.close()
    test = replay(tmp_path, {"mine": [SILENT]})
    assert test.trials[0].episodes == []  # rank 1 had left, and nobody is silent


def test_the_extremes_of_a_long_series_survive_in_little_memory() -> None:
    series = Envelope()
    for step in range(60_000):
        value = {12_345: -50.0, 44_444: 70.0, 50_000: math.inf}.get(step, math.sin(step))
        series.add(step, value)
    points = list(series.points())
    assert len(points) <= 4 * SPANS + 2
    assert (12_345, -50.0) in points
    assert (44_444, 70.0) in points
    assert [step for step, _ in points] == sorted(step for step, _ in points)
    assert (series.lowest, series.highest, series.odd) == (-50.0, 70.0, [50_000])


def test_a_short_series_is_drawn_as_it_is() -> None:
    series = Envelope()
    for step, value in ((1, 2.0), (2, 3.0), (1, 4.0)):  # and a rewind
        series.add(step, value)
    assert list(series.points()) == [(1, 2.0), (2, 3.0), (1, 4.0)]
