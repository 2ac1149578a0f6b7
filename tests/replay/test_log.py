from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.rulefile import load, resolve_pack
from sentinel.errors import ReplayError
from sentinel.replay.log import moments, replay_log, rows
from sentinel.wire import Frame, Hello


def _log(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _spiking(at: int, length: int = 120) -> list[dict[str, object]]:
    return [
        {"step": step, "loss": 2.5 + 0.05 * (-1) ** step + (2.0 if step >= at else 0.0), "lr": 0.1}
        for step in range(1, length)
    ]


def test_a_log_gives_the_alerts_that_begin_to_fire(tmp_path: Path) -> None:
    path = _log(tmp_path / "my.run.jsonl", *_spiking(100))
    (alert,) = replay_log(path, load(resolve_pack("default")))
    assert (alert.run, alert.rule, alert.step, alert.fired_step) == (
        "my.run",
        "LossSpike",
        100,
        102,
    )


def test_a_nan_in_a_log_is_told_and_no_proof_for_a_pause(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}, *({"step": s, "loss": "NaN"} for s in range(2, 50))]
    told = list(replay_log(_log(tmp_path / "a.jsonl", *lines), load(resolve_pack("default"))))
    assert [(one.rule, one.step, one.actions) for one in told] == [("NonFiniteLoss", 2, ())]


def test_numbers_words_and_gaps_are_read_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"step": 0, "loss": 1, "grad_norm": "Infinity", "lr": null, "other": [1, "x"]}\n'
        "\n"
        '{"step": 7, "loss": NaN, "grad_norm": "-Infinity", "time": 12.5}\r\n'
        '{"step": 7, "time": "yesterday"}\n'
        '{"step": 3, "lr": 1e-4}'
    )
    read = list(rows(path))
    assert [row.step for row in read] == [0, 7, 7, 3]
    assert read[0].values == (1.0, math.inf, None)
    assert math.isnan(read[1].values[0] or 0.0)
    assert read[1].values[1:] == (-math.inf, None)
    assert read[2].values == (None, None, None)
    first, *rest = moments(path)
    assert isinstance(first.message, Hello)
    assert [moment.now for moment in rest] == [0.0, 12.5, 13.5, 14.5]
    frames = [moment.message for moment in rest]
    assert all(isinstance(one, Frame) for one in frames)
    assert [one.missing for one in frames if isinstance(one, Frame)] == [
        b"\x04",
        b"\x04",
        b"\x07",
        b"\x03",
    ]


def test_a_step_takes_a_second_where_no_time_is_told(tmp_path: Path) -> None:
    path = _log(tmp_path / "a.jsonl", {"step": 100}, {"step": 150}, {"step": 120}, {"step": 121})
    assert [moment.now for moment in moments(path)][1:] == [0.0, 50.0, 51.0, 52.0]


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", None, "empty: expected JSON lines"),
        (b"\n \n", None, "empty: expected JSON lines"),
        (b'{"step": 1}\n{"step": 2', 2, "not JSON"),
        (b"loss 3.5\n", 1, "not JSON"),
        (b'{"step": 1}\n\n[1]\n', 3, "expected an object"),
        (b'{"loss": 1}\n', 1, "the row has no step"),
        (b'{"step": null}\n', 1, "the row has no step"),
        (b'{"step": 1.0}\n', 1, "step 1.0 is not a whole number"),
        (b'{"step": "1"}\n', 1, 'step "1" is not a whole number'),
        (b'{"step": true}\n', 1, "step true is not a whole number"),
        (b'{"step": -1}\n', 1, "step -1 is not a whole number"),
        (b'{"step": 9007199254740993}\n', 1, "is not a whole number"),
        (b'{"step": 1, "loss": "nan"}\n', 1, 'loss "nan" is not a number'),
        (b'{"step": 1, "lr": true}\n', 1, "lr true is not a number"),
        (b'{"step": 1, "grad_norm": [1]}\n', 1, "grad_norm [1] is not a number"),
        (b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n", 1, "is too large"),
        (b'{"step": 1' + b"0" * 5000 + b"}\n", 1, "not JSON"),
        (b"\x7fELF\x02\x01\0\0\0", 1, "a binary file, not a log"),
        (b"\x80\x81\n", 1, "not JSON"),
        (b"[" * 100_000, 1, "not JSON"),
        (b'{"step": 1, "x": "' + b"a" * (1 << 20) + b'"}', 1, "a line of more than"),
    ],
)
def test_what_is_no_log_gets_a_clear_error(
    tmp_path: Path, data: bytes, line: int | None, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(ReplayError) as raised:
        list(replay_log(path, []))
    place = f"{path}:{line}: " if line else f"{path}: "
    assert str(raised.value).startswith(place)
    assert reason in str(raised.value)


def test_a_file_that_cannot_be_read_is_a_replay_error(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="cannot be read: No such file"):
        list(replay_log(tmp_path / "none.jsonl", []))
    with pytest.raises(ReplayError, match="cannot be read: Is a directory"):
        list(replay_log(tmp_path, []))


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    with pytest.raises(ReplayError):
        list(rows(path))
