from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sentinel.errors import ReplayError
from tests.replay.reading import found

HISTORY = [
    {"step": 10, "loss": 2.5, "grad_norm": 1.5, "learning_rate": 1e-4, "epoch": 0.1},
    {"step": 20, "loss": 2.25, "grad_norm": 1.25, "learning_rate": 2e-4, "epoch": 0.2},
    {"step": 20, "eval_loss": 2.4, "eval_runtime": 3.0, "epoch": 0.2},
    {"step": 20, "train_loss": 2.375, "train_runtime": 60.0, "epoch": 0.2},
]
READ = [
    (10, {"loss": 2.5, "grad_norm": 1.5, "lr": 1e-4}),
    (20, {"loss": 2.25, "grad_norm": 1.25, "lr": 2e-4, "logged.val_loss": 2.4}),
]


@pytest.mark.parametrize("indent", [None, 2])
def test_trainer_state_gives_training_and_evaluation_rows(
    tmp_path: Path, indent: int | None
) -> None:
    state: dict[str, object] = {
        "best_metric": None,
        "epoch": 0.2,
        "log_history": HISTORY,
        "stateful_callbacks": {},
    }
    read = found(tmp_path / "trainer_state.json", json.dumps(state, indent=indent))
    assert (read.format, read.rows) == ("json", READ)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_rows_is_read_as_its_lines_would_be(tmp_path: Path, indent: int | None) -> None:
    read = found(tmp_path / "a", json.dumps(HISTORY, indent=indent))
    assert (read.format, read.rows) == ("json", READ)
    lines = found(tmp_path / "b", "\n".join(map(json.dumps, HISTORY)))
    assert (lines.format, lines.rows) == ("jsonl", READ)


def test_a_nan_that_is_no_json_is_read_in_lines_and_documents(tmp_path: Path) -> None:
    state: dict[str, object] = {
        "log_history": [{"step": 1, "loss": math.nan}, {"step": 2, "loss": -math.inf}]
    }
    for data in (json.dumps(state), '{"step": 1, "loss": NaN}\n{"step": 2, "loss": -Infinity}\n'):
        (_, first), (_, second) = found(tmp_path / "a.json", data).rows
        assert math.isnan(first["loss"])
        assert second["loss"] == -math.inf


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ('"NaN"', math.nan),
        ('"nan"', math.nan),
        ('"Infinity"', math.inf),
        ('"inf"', math.inf),
        ('"-Infinity"', -math.inf),
        ('"-inf"', -math.inf),
        ("NaN", math.nan),
        ("Infinity", math.inf),
        ('"2.5"', 2.5),
        ("2", 2.0),
        ("null", None),
        ('""', None),
        ('"N/A"', None),
    ],
)
def test_words_for_numbers_and_for_nothing(tmp_path: Path, word: str, value: float | None) -> None:
    data = f'{{"step": 1, "lr": 0.5, "loss": 1}}\n{{"step": 2, "lr": 0.5, "loss": {word}}}\n'
    read = found(tmp_path / "a.jsonl", data).rows[1][1].get("loss")
    assert read == value or (value is not None and math.isnan(value) and math.isnan(read or 0))


def test_steps_go_backwards_repeat_and_are_floats_as_they_stand(tmp_path: Path) -> None:
    steps = [0, 7.0, 7, "3", "4/5000", 2]
    data = "\n".join(json.dumps({"step": step, "loss": 1.5}) for step in steps)
    assert [step for step, _ in found(tmp_path / "a", data).rows] == [0, 7, 7, 3, 4, 2]


def test_rows_without_anything_known_are_passed_over(tmp_path: Path) -> None:
    data = '{"config": {"lr": 1}}\n\n{"step": 1, "loss": 2.0}\r\n{"step": 2, "accuracy": 0.5}\n'
    assert found(tmp_path / "a", data).rows == [(1, {"loss": 2.0})]


def test_wandb_history_is_read_by_the_steps_of_the_script(tmp_path: Path) -> None:
    rows = [
        {
            "_step": 0,
            "_timestamp": 1.7e9,
            "_runtime": 1.0,
            "train/loss": 3.0,
            "train/global_step": 50,
        },
        {"_step": 1, "_timestamp": 1.7e9 + 5, "train/loss": 2.9, "train/global_step": 100},
        {"_step": 2, "_timestamp": 1.7e9 + 6, "eval/loss": 2.95, "train/global_step": 100},
    ]
    read = found(tmp_path / "history.jsonl", "\n".join(map(json.dumps, rows)))
    assert read.rows == [(50, {"loss": 3.0}), (100, {"loss": 2.9, "logged.val_loss": 2.95})]
    only = found(tmp_path / "b", '{"_step": 4, "loss": 1.0}\n{"_step": 5, "loss": 1.0}')
    assert [step for step, _ in only.rows] == [4, 5]


def test_an_incomplete_last_line_is_passed_over_with_a_note(tmp_path: Path) -> None:
    read = found(tmp_path / "a.jsonl", '{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read.rows == [(1, {"loss": 2.0})]
    assert read.notes == [f"{tmp_path}/a.jsonl:2: an incomplete last line is passed over"]


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        ('{"step": 1, "loss": 1}\n{"step": 2\n{"step": 3, "loss": 1}\n', ":2", "not JSON"),
        ('{"step": 1, "loss": 1}\n{"step": 2\n', ":2", "not JSON"),
        ('{"step": 1, "loss": 1}\n\n[1]\n', ":3", "expected an object"),
        ('{"step": -1, "loss": 1}\n', ":1", "step -1 is not a whole number from 0 to 2^53"),
        ('{"step": 1.5, "loss": 1}\n', ":1", "step 1.5 is not a whole number"),
        ('{"step": true, "loss": 1}\n', ":1", "step true is not a whole number"),
        ('{"step": "NaN", "loss": 1}\n', ":1", 'step "NaN" is not a whole number'),
        ('{"step": 9007199254740993, "loss": 1}\n', ":1", "is not a whole number"),
        ('{"step": 1e400, "loss": 1}\n', ":1", "is not a whole number"),
        ('{"step": 1, "loss": "high"}\n', ":1", '"loss": "high" is not a number'),
        ('{"step": 1, "lr": true}\n', ":1", '"lr": true is not a number'),
        ('{"step": 1, "grad_norm": [1]}\n', ":1", '"grad_norm": [1] is not a number'),
        ('{"step": 1, "loss": 1' + "0" * 400 + "}\n", ":1", "is too large"),
        ('{"step": 1' + "0" * 5000 + "}\n", ":1", "not JSON"),
        ('{"a": ' * 100_000 + "\n", ":1", "nested too deep"),
        ('{"step": 1, "x": "' + "a" * (1 << 20) + '"}\n', ":1", "a line of more than"),
        ("[" * 100_000, "", "nested too deep"),
        ('[{"step": 1, "loss": 2}, {"step": 2', ":1", "not JSON"),
        ('[\n{"step": 1, "loss": 2},\n{"step": x}]', ":3", "not JSON"),
        ('[{"step": 1, "loss": 2}, {"step": 2, "loss": "x"}]', "", "row 2"),
        ('[{"step": 1, "loss": 2}, 3]', "", "row 2: expected an object"),
        ("[]", "", "no values of a known name"),
        ('{"log_history": []}', "", "no values of a known name"),
        ('{\n"history": [1]\n}', "", "expected an array of rows, or an object"),
        ('{"step": 1, "accuracy": 2}\n', "", 'there are "step", "accuracy"'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, data: str, place: str, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(ReplayError) as raised:
        found(path, data)
    assert str(raised.value).startswith(f"{path}{place}: ")
    assert reason in str(raised.value)
