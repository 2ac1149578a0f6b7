from __future__ import annotations

import math
from pathlib import Path

import pytest

from sentinel.errors import ReplayError
from tests.replay.reading import found

TWO_ROWS = [(1, {"loss": 2.5, "grad_norm": 1.0}), (2, {"loss": 2.25})]


@pytest.mark.parametrize(
    "data",
    [
        "step,loss,grad_norm\n1,2.5,1.0\n2,2.25,\n",
        "step,loss,grad_norm\r\n1,2.5,1.0\r\n2,2.25,\r\n",
        "\ufeffstep,loss,grad_norm\n1,2.5,1.0\n2,2.25,",
        "Step\tTrain Loss\tGrad Norm\n1\t2.5\t1.0\n2\t2.25\t\n",
        "Iteration;loss;Gradient-Norm\n1;2.5;1.0\n2;2.25;null\n",
        '"step","loss","grad_norm"\n"1","2.5","1.0"\n2.0,2.25,N/A\n',
        "# a comment\n\nstep,loss,grad_norm\n# another\n1,2.5,1.0\n\n2,2.25,\n",
        ",step,loss,note,grad_norm\n0,1,2.5,warm up,1.0\n1,2,2.25,,\n",
        "step,loss,grad_norm\n1,2.5,1.0\nstep,loss,grad_norm\n2,2.25,\n",
        "step,loss,grad_norm\n1,2.5,1.0,\n2,2.25,,,,\n",
    ],
)
def test_tables_are_read_whatever_they_are_separated_by(tmp_path: Path, data: str) -> None:
    read = found(tmp_path / "no.suffix", data)
    assert (read.format, read.rows) == ("csv", TWO_ROWS)


def test_bytes_that_are_no_text_do_no_harm_in_comments_and_notes(tmp_path: Path) -> None:
    data = b"# caf\xe9\nstep,loss,note\n1,2.5,na\xefve\n2,nan,\n"
    (_, first), (_, second) = found(tmp_path / "a.csv", data).rows
    assert first == {"loss": 2.5}
    assert math.isnan(second["loss"])


def test_utf_16_is_read_too(tmp_path: Path) -> None:
    assert found(tmp_path / "a", "step,loss\n1,2.5\n".encode("utf-16")).rows == [(1, {"loss": 2.5})]


def test_measurements_with_blank_cells_have_rows_for_what_is_there(tmp_path: Path) -> None:
    data = (
        "accumulated_submission_time,global_step,loss,grad_norm,validation/loss,preemption_count\n"
        "1.5,0,6.9,0.5,,0\n2.5,100,,,6.8,0\n3.5,100,6.7,0.4,,0\n4.5,200,,,,0\n"
    )
    assert found(tmp_path / "measurements.csv", data).rows == [
        (0, {"loss": 6.9, "grad_norm": 0.5}),
        (100, {"loss": 6.7, "grad_norm": 0.4, "logged.val_loss": 6.8}),
    ]


def test_a_chart_exported_from_wandb_is_read_without_its_extremes(tmp_path: Path) -> None:
    data = (
        '"Step","run-a - train/loss","run-a - train/loss__MIN","run-a - train/loss__MAX"\n'
        '"10","2.5","0.1","9.0"\n"20","2.25","0.1","9.0"\n'
    )
    assert found(tmp_path / "a.csv", data).rows == [(10, {"loss": 2.5}), (20, {"loss": 2.25})]


def test_of_several_runs_in_a_chart_the_first_is_read_unless_another_is_named(
    tmp_path: Path,
) -> None:
    data = '"Step","a - loss","b - loss","b - lr"\n"1","","3.0","0.1"\n"2","2.0","4.0","0.1"\n'
    read = found(tmp_path / "a.csv", data)
    assert read.rows == [(2, {"loss": 2.0})]
    assert read.notes == ['2 runs are in this file: "a" is read, and what --column names']
    other = found(tmp_path / "a.csv", data, columns={"loss": "b - loss"})
    assert other.rows == [(1, {"loss": 3.0, "lr": 0.1}), (2, {"loss": 4.0, "lr": 0.1})]


def test_epochs_are_steps_only_where_they_differ(tmp_path: Path) -> None:
    keras = found(tmp_path / "a", "epoch,loss,val_loss\n5,2.0,2.1\n10,1.9,2.0\n")
    assert [step for step, _ in keras.rows] == [5, 10]
    batches = found(tmp_path / "a", "epoch,loss\n0,2.0\n0,1.9\n0,1.8\n1,1.7\n")
    assert [step for step, _ in batches.rows] == [0, 1, 2, 3]
    parts = found(tmp_path / "a", "epoch,loss\n0.1,2.0\n0.2,1.9\n")
    assert [step for step, _ in parts.rows] == [1, 2]
    assert parts.notes == ["not every row has a step: those without are counted on"]


def test_steps_that_begin_anew_in_each_epoch_are_counted_on(tmp_path: Path) -> None:
    data = "epoch,iter,loss\n0,0,2.5\n0,10,2.4\n1,0,2.3\n1,10,2.2\n2,5,2.1\n1,5,2.0\n"
    read = found(tmp_path / "a", data)
    assert [step for step, _ in read.rows] == [0, 10, 11, 21, 22, 22]
    assert read.notes == ["steps begin anew in each epoch: they are counted on"]
    one_a_epoch = found(tmp_path / "a", "epoch,iter,loss\n1,100,2.5\n2,100,2.4\n3,100,2.3\n")
    assert [step for step, _ in one_a_epoch.rows] == [100, 101, 102]


def test_rows_are_counted_where_there_is_no_step(tmp_path: Path) -> None:
    read = found(tmp_path / "a", "loss\n2.5\n2.25\n")
    assert read.rows == [(1, {"loss": 2.5}), (2, {"loss": 2.25})]


def test_a_name_that_reads_like_a_number_and_names_twice_do_no_harm(tmp_path: Path) -> None:
    read = found(tmp_path / "a", "step,NaN,loss,loss,inf\n1,9,2.5,7.0,9\n")
    assert read.rows == [(1, {"loss": 2.5})]


def test_thousands_of_columns_are_passed_over(tmp_path: Path) -> None:
    names = ",".join(f"metric_{number}" for number in range(9000))
    cells = ",".join("0.5" for _ in range(9000))
    read = found(tmp_path / "a", f"{names},step,loss\n{cells},1,2.5\n")
    assert read.rows == [(1, {"loss": 2.5})]


@pytest.mark.parametrize("tail", ["3", "3,2.", "3,2.1,1.0,\x00", '3,"2.', "3,2.1e"])
def test_an_incomplete_last_row_is_passed_over_with_a_note(tmp_path: Path, tail: str) -> None:
    read = found(tmp_path / "a.csv", f"step,loss,lr\n1,2.5,0.1\n{tail}")
    assert read.rows == [(1, {"loss": 2.5, "lr": 0.1})]
    assert read.notes == [f"{tmp_path}/a.csv:3: an incomplete last line is passed over"]


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        ("step,loss\n1,2.5\n2\n3,2.5\n", ":3", "1 cells where the header has 2"),
        ("step,loss\n1,2.5\n2,2.5,9\n", ":3", "3 cells where the header has 2"),
        ("step,loss\n1,high\n", ":2", '"loss": "high" is not a number'),
        ("step,loss\n1.5,2.0\n", ":2", 'step "1.5" is not a whole number'),
        ("step,loss\n-1,2.0\n", ":2", 'step "-1" is not a whole number'),
        ("step,loss\n1e300,2.0\n", ":2", "is not a whole number from 0 to 2^53"),
        ("# one\nstep,loss\n# two\n\n1;2\n", ":5", "1 cells where the header has 2"),
        ('step,loss,x\n1,2,"' + "a" * 200_000 + "\n", ":2", "no table: field larger"),
        ("step,loss\n1," + "2" * (1 << 20) + "\n", ":2", "a line of more than"),
        (",".join("loss" for _ in range(20_000)) + "\n", ":1", "more than 16384 columns"),
        ("Wall time,Step,Value\n1.5,1,2.5\n", "", "--column loss=NAME"),
        ("alpha,beta\n1,2\n", "", 'there are "alpha", "beta"'),
        ("step,loss\n", "", "no values of a known name"),
        ("step,loss\n1,\n2,\n", "", "no values of a known name"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, data: str, place: str, reason: str
) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(ReplayError) as raised:
        found(path, data)
    assert str(raised.value).startswith(f"{path}{place}: ")
    assert reason in str(raised.value)
