from __future__ import annotations

import base64
import math
import struct
from pathlib import Path

import pytest

from sentinel.errors import ReplayError
from sentinel.replay.event_file import MAX_RECORD
from tests.replay.event_bytes import event, event_file, record, tensor_event
from tests.replay.reading import found, found_in

# Written by tensorboard 2.21: a step with simple values, and one with a tensor as TensorFlow 2 has.
BY_TENSORBOARD = base64.b64decode(
    "SAAAAAAAAAD+kkidCfUa4SmywNpBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2"
    "ZW50X2ZpbGVfd3JpdGVy57erLTgAAAAAAAAAo3l9VwkAACBA/FTZQRAKKisKEQoKdHJhaW4vbG9zcxUAACBAChYKD3Ry"
    "YWluL2dyYWRfbm9ybRUAAMB/XCR1nDQAAAAAAAAAXjMXXAkAAGBA/FTZQRCsAiomCiQKCWV2YWwvbG9zc0IKCAESACoE"
    "AAAQQEoLCgkKB3NjYWxhcnNddC2w"
)


def test_what_tensorboard_itself_has_written_is_read(tmp_path: Path) -> None:
    read = found(tmp_path / "events.out.tfevents.1.a", BY_TENSORBOARD)
    (first, values), second = read.rows
    assert (read.format, first, values["loss"]) == ("tensorboard", 10, 2.5)
    assert math.isnan(values["grad_norm"])
    assert second == (300, {"logged.val_loss": 2.25})


def test_scalars_of_one_step_are_one_row(tmp_path: Path) -> None:
    data = event_file([(1, {"loss": 2.5, "lr": 0.5}), (2, {"loss": 2.25, "lr": 0.25, "x": 1.0})])
    assert found(tmp_path / "a", data).rows == [
        (1, {"loss": 2.5, "lr": 0.5}),
        (2, {"loss": 2.25, "lr": 0.25}),
    ]


def test_the_files_of_a_directory_are_read_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.20.b").write_bytes(event_file([(2, {"Loss/train": 2.25})]))
    (tmp_path / "events.out.tfevents.10.a").write_bytes(event_file([(1, {"Loss/train": 2.5})]))
    (tmp_path / "notes.txt").write_text("step 9: loss 9")
    assert found_in(tmp_path).rows == [(1, {"loss": 2.5}), (2, {"loss": 2.25})]


def test_doubles_are_read_and_other_tensors_passed_over(tmp_path: Path) -> None:
    data = (
        tensor_event(1, "loss", 2, struct.pack("<d", 2.5))
        + tensor_event(1, "lr", 7, b"text")
        + tensor_event(2, "lr", 1, struct.pack("<2f", 1.0, 2.0))
    )
    assert found(tmp_path / "a", data).rows == [(1, {"loss": 2.5})]


def test_an_image_of_any_size_is_passed_over(tmp_path: Path) -> None:
    data = event(1, {"loss": 2.5}) + record(bytes(MAX_RECORD + 1)) + event(2, {"loss": 2.25})
    assert found(tmp_path / "a", data).rows == [(1, {"loss": 2.5}), (2, {"loss": 2.25})]


@pytest.mark.parametrize("left", [1, 12, 20, 40])
def test_an_incomplete_last_record_is_passed_over_with_a_note(tmp_path: Path, left: int) -> None:
    data = event(1, {"loss": 2.5}) + event(2, {"loss": 2.25})[:left]
    read = found(tmp_path / "a", data)
    assert read.rows == [(1, {"loss": 2.5})]
    assert read.notes == [f"{tmp_path}/a: the last record is incomplete, and is passed over"]


def test_a_damaged_record_is_an_error_and_no_end(tmp_path: Path) -> None:
    data = bytearray(event(1, {"loss": 2.5}) + event(2, {"loss": 2.25}) + event(3, {"loss": 2.0}))
    data[len(data) // 3 + 30] ^= 4
    with pytest.raises(ReplayError, match=r"a: record 2: damaged: its data do not fit"):
        found(tmp_path / "a", bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # a key without its value
        b"\x2a\x7f",  # longer than the message
        b"\x0b",  # a group, which nobody writes
        b"\x10" + b"\xff" * 12,  # a number without an end
        b"\x2a\x08\x0a\x06\x0a\x00\x12\x02ab",  # a float of two bytes
    ],
)
def test_what_is_framed_well_and_means_nothing_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ReplayError, match="a: record 1: "):
        found(tmp_path / "a", record(data) + event(1, {"loss": 2.5}))


def test_a_negative_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="record 1: step -1 is not a whole number"):
        found(tmp_path / "a", event((1 << 64) - 1, {"loss": 2.5}))


def test_a_directory_without_event_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="neither recorded runs nor event files"):
        found_in(tmp_path)
