from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from sentinel.errors import ReplayError
from sentinel.replay.log import open_log
from sentinel.wire import Series
from tests.replay.reading import found


def _lines(*rows: Mapping[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("Loss", "loss"),
        ("loss/train", "loss"),
        ("Train/Loss", "loss"),
        ("training loss", "loss"),
        ("train.lm-loss", "loss"),
        ("GRAD_NORM", "grad_norm"),
        ("train/global_grad_norm", "grad_norm"),
        ("learning_rate", "lr"),
        ("lr-AdamW", "lr"),
        ("loss_scale", "loss_scale"),
        ("overflow", "overflow"),
        ("tokens/s", "tokens_per_second"),
        ("tok_per_sec", "tokens_per_second"),
        ("step_time", "step_seconds"),
        ("val_loss", "logged.val_loss"),
        ("eval/loss", "logged.val_loss"),
        ("Loss/Validation", "logged.val_loss"),
        ("device_memory_used_bytes", "device_memory_used_bytes"),
    ],
)
def test_known_names_are_read_as_their_signal(tmp_path: Path, name: str, signal: str) -> None:
    assert found(tmp_path / "a", _lines({"step": 1, name: 0.5})).rows == [(1, {signal: 0.5})]


@pytest.mark.parametrize(
    "name",
    [
        "test_loss",
        "critic_loss",
        "policy_loss",
        "tokens",
        "steps_total_loss_x",
        "lm loss vs samples",
    ],
)
def test_names_of_other_things_are_not(tmp_path: Path, name: str) -> None:
    assert found(tmp_path / "a", _lines({"step": 1, "lr": 0.5, name: 9})).rows == [(1, {"lr": 0.5})]


def test_milliseconds_become_seconds(tmp_path: Path) -> None:
    read = found(tmp_path / "a", _lines({"step": 1, "step_time_ms": 500}))
    assert read.rows == [(1, {"step_seconds": 0.5})]


def test_of_several_losses_the_best_named_is_read_and_no_mixture(tmp_path: Path) -> None:
    data = _lines(
        {"step": 1, "loss": None, "train_loss": 9.0},
        {"step": 2, "loss": 2.5, "train_loss": 9.0},
        {"step": 3, "train_loss": 9.0},
        {"step": 4, "train_loss": 9.0, "loss": 2.25},
    )
    assert found(tmp_path / "a", data).rows == [
        (1, {"loss": 9.0}),
        (2, {"loss": 2.5}),
        (4, {"loss": 2.25}),
    ]


def test_series_are_added_as_columns_first_have_values(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(
        _lines({"step": 1, "loss": 2.5}, {"step": 2, "lr": 0.5}, {"step": 3, "loss": 2})
    )
    log = open_log(path)
    assert [row.values for row in log] == [(2.5,), (None, 0.5), (2.0, None)]
    assert log.series == (Series("loss"), Series("lr"))


def test_rows_of_one_step_are_one_unless_both_have_a_value(tmp_path: Path) -> None:
    data = _lines(
        {"step": 1, "loss": 2.5},
        {"step": 1, "lr": 0.5},
        {"step": 1, "loss": 2.25},
        {"val_loss": 3.0},
        {"loss": 2.0},
        {"step": 9, "loss": 1.75},
    )
    assert found(tmp_path / "a", data).rows == [
        (1, {"loss": 2.5, "lr": 0.5}),
        (1, {"loss": 2.25, "logged.val_loss": 3.0}),
        (2, {"loss": 2.0}),
        (9, {"loss": 1.75}),
    ]


def test_any_column_can_be_chosen_for_any_signal(tmp_path: Path) -> None:
    data = _lines({"it": 1, "n": 5, "loss": 9.0, "mine": 2.5, "acc": 0.75, "h3": 1.5, "t": 12.5})
    chosen = {
        "loss": "mine",
        "logged.accuracy": "acc",
        "layer_grad_norm.h.3": "h3",
        "step": "n",
        "time": "t",
    }
    read = found(tmp_path / "a", data, columns=chosen)
    assert read.rows == [(5, {"loss": 2.5, "logged.accuracy": 0.75, "layer_grad_norm.h.3": 1.5})]
    (row,) = open_log(tmp_path / "a", columns=chosen)
    assert row.time == 12.5


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"los": "x"}, "no such signal, did you mean 'loss'?"),
        ({"silence": "x"}, "no such signal"),
        ({"layer_grad_norm": "x"}, "its series have a layer: say layer_grad_norm.LAYER"),
        ({"loss.x": "x"}, "'loss' has no labels"),
        ({"logged." + "x" * 600: "x"}, "a label of more than 512 characters"),
        ({"loss": "x"}, 'no column "x" for loss: there are "step", "loss"'),
        ({"step": "n"}, 'no column "n" for step'),
    ],
)
def test_a_choice_that_cannot_be_is_an_error(
    tmp_path: Path, columns: dict[str, str], reason: str
) -> None:
    with pytest.raises(ReplayError) as raised:
        found(tmp_path / "a", _lines({"step": 1, "loss": 2.5}), columns=columns)
    assert reason in str(raised.value)


def test_host_memory_in_per_cent_becomes_bytes_and_a_limit_that_stays(tmp_path: Path) -> None:
    data = _lines(
        {"_step": 1, "system.memory_percent": 75.0, "system.proc.memory.availableMB": 1024.0},
        {"_step": 2, "system.memory_percent": 87.5, "system.proc.memory.availableMB": 500.0},
    )
    gib = float(1 << 30)
    assert found(tmp_path / "a", data).rows == [
        (1, {"host_memory_used_bytes": 3 * gib, "host_memory_limit_bytes": 4 * gib}),
        (2, {"host_memory_used_bytes": 3.5 * gib, "host_memory_limit_bytes": 4 * gib}),
    ]


def test_per_cent_alone_is_of_a_hundred(tmp_path: Path) -> None:
    data = _lines({"memory_percent": 50.0}, {"memory_percent": 99.0})
    assert [row for _, row in found(tmp_path / "a", data).rows] == [
        {"host_memory_used_bytes": 50.0, "host_memory_limit_bytes": 100.0},
        {"host_memory_used_bytes": 99.0, "host_memory_limit_bytes": 100.0},
    ]


def test_device_memory_in_per_cent_becomes_bytes_of_that_device(tmp_path: Path) -> None:
    data = _lines(
        {
            "gpu.0.memoryAllocated": 25.0,
            "gpu.1.memoryAllocated": 50.0,
            "gpu.1.memoryAllocatedBytes": 9.0,
            "gpu.0.memoryAllocatedBytes": 2.0,
            "gpu.0.temp": 61,
        }
    )
    assert found(tmp_path / "a", data).rows == [
        (
            1,
            {
                "device_memory_used_bytes": 2.0,
                "device_memory_limit_bytes": 8.0,
                "gpu_temperature_celsius": 61.0,
            },
        )
    ]


def test_bytes_that_the_log_has_are_not_made_from_per_cent(tmp_path: Path) -> None:
    row = {"step": 1, "host_memory_used_bytes": 7, "memory_percent": 50.0}
    assert found(tmp_path / "a", _lines(row)).rows == [(1, {"host_memory_used_bytes": 7.0})]


@pytest.mark.parametrize("told", [[0.5, 0.25, 1.0], [0.5, None, 1.0], [0.5, "0.25", 1], [1, 2, 3]])
def test_values_that_are_taken_at_once_are_those_taken_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[object]
) -> None:
    names = ("lr", "loss", "grad_norm")
    text = _lines(
        *({"step": step, **dict(zip(names, told, strict=True))} for step in range(1, 4)),
        {"grad_norm": 2.5, "step": 4, "loss": 1.5, "lr": 0.5},
        {"loss": 1.5, "step": 5},
    )
    at_once = found(tmp_path / "a", text).rows
    monkeypatch.setattr("sentinel.replay.columns._picking", lambda layout, width: None)
    assert repr(found(tmp_path / "a", text).rows) == repr(at_once)
    assert len(at_once) == 5
