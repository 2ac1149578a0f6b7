from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.engine.rulefile import load, resolve_pack
from sentinel.errors import ReplayError
from sentinel.replay.log import FORMATS, moments, open_log, replay_log, run_name
from sentinel.wire import Extension, Frame, Hello
from tests.replay.reading import found, found_in


def _log(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _spiking(at: int, length: int = 120) -> list[dict[str, object]]:
    return [
        {"step": step, "loss": 2.5 + 0.05 * (-1) ** step + (2.0 if step >= at else 0.0), "lr": 0.1}
        for step in range(1, length)
    ]


def test_a_log_gives_the_alerts_that_begin_to_fire(tmp_path: Path) -> None:
    log = open_log(_log(tmp_path / "my.run.jsonl", *_spiking(100)))
    (alert,) = replay_log(log, load(resolve_pack("default")))
    assert (alert.run, alert.rule, alert.step, alert.fired_step) == (
        "my.run",
        "LossSpike",
        100,
        100,
    )


def test_a_nan_in_a_log_is_told_and_no_proof_for_a_pause(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}, *({"step": s, "loss": "NaN"} for s in range(2, 50))]
    log = open_log(_log(tmp_path / "a.jsonl", *lines))
    told = list(replay_log(log, load(resolve_pack("default"))))
    assert [(one.rule, one.step, one.actions) for one in told] == [("NonFiniteLoss", 2, ())]


def test_rows_become_frames_of_one_rank_and_new_series_are_announced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"step": 5, "loss": 1, "lr": null}\n'
        '{"step": 7, "loss": NaN, "grad_norm": "-Infinity", "time": 12.5}\n'
        '{"step": 8, "grad_norm": 1.0, "time": "yesterday"}\n'
        '{"step": 3, "loss": 1.0}'
    )
    moment = list(moments(open_log(path)))
    messages = [one.message for one in moment]
    assert [type(one) for one in messages] == [Hello, Frame, Extension, Frame, Frame, Frame]
    assert [one.now for one in moment[1:]] == [0.0, 12.5, 12.5, 13.5, 14.5]
    assert isinstance(messages[0], Hello)
    assert messages[0].step == 4
    frames = [one for one in messages if isinstance(one, Frame)]
    assert [(one.step, one.sequence) for one in frames] == [(5, 0), (7, 1), (8, 2), (3, 3)]
    assert [(len(one.values), one.missing) for one in frames] == [
        (8, b""),
        (16, b""),
        (16, b"\x01"),
        (16, b"\x02"),
    ]


def test_a_step_takes_a_second_where_no_time_is_told(tmp_path: Path) -> None:
    steps = [{"step": step, "loss": 1.0} for step in (100, 150, 120, 121)]
    path = _log(tmp_path / "a.jsonl", *steps)
    assert [one.now for one in moments(open_log(path))][1:] == [0.0, 50.0, 51.0, 52.0]


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("a.jsonl", "a"),
        ("my.run.csv", "my.run"),
        ("a.csv.gz", "a"),
        ("run", "run"),
        (".hidden", ".hidden"),
        ("-", "stdin"),
    ],
)
def test_a_run_is_called_after_its_file(name: str, run: str) -> None:
    assert run_name(Path(name)) == run


def test_a_file_name_that_is_no_text_still_names_a_run() -> None:
    run_name(Path(os.fsdecode(b"caf\xe9.csv"))).encode()


SAMPLES = {
    "jsonl": '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.25}\n',
    "json": '[\n  {"step": 1, "loss": 2.5},\n  {"step": 2, "loss": 2.25}\n]',
    "csv": "step,loss\n1,2.5\n2,2.25\n",
    "text": "hello\nstep 1: loss 2.5\nstep 2: loss 2.25\n",
}


@pytest.mark.parametrize("format", SAMPLES)
def test_what_was_packed_is_unpacked_whatever_its_name(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(SAMPLES[format].encode()))
    read = found_in(path)
    assert (read.format, read.rows) == (format, [(1, {"loss": 2.5}), (2, {"loss": 2.25})])


def test_a_packed_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    lines = "".join(f'{{"step": {step}, "loss": {step % 7}.5}}\n' for step in range(5000))
    read = found(tmp_path / "a", gzip.compress(lines.encode())[:-500])
    assert read.rows[0] == (0, {"loss": 0.5})
    assert read.notes[0] == f"{tmp_path}/a: the packed file ends early: what was there was read"


def test_damage_in_a_packed_file_is_an_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(SAMPLES["csv"].encode() * 100))
    data[-6] ^= 0xFF
    with pytest.raises(ReplayError, match=r"/a: damaged gzip data: CRC"):
        found(tmp_path / "a", bytes(data))


@pytest.mark.parametrize("format", SAMPLES)
def test_the_format_can_be_named(tmp_path: Path, format: str) -> None:
    assert found(tmp_path / "a", SAMPLES[format], format=format).format == format


def test_a_format_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="no such format: 'cvs', did you mean 'csv'"):
        open_log(tmp_path / "a", format="cvs")


def _through_pipe(tmp_path: Path, write: Callable[[int], None]) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def writer() -> None:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            write(descriptor)
        except BrokenPipeError:
            pass
        finally:
            os.close(descriptor)

    threading.Thread(target=writer, daemon=True).start()
    return path


@pytest.mark.parametrize("format", SAMPLES)
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, format: str) -> None:
    def write(descriptor: int) -> None:
        for byte in SAMPLES[format].encode():
            os.write(descriptor, bytes([byte]))

    read = found_in(_through_pipe(tmp_path, write))
    assert (read.format, read.rows) == (format, [(1, {"loss": 2.5}), (2, {"loss": 2.25})])


def test_rows_of_a_pipe_come_before_it_ends(tmp_path: Path) -> None:
    seen = threading.Event()

    def write(descriptor: int) -> None:
        for step in range(3):
            os.write(descriptor, b'{"step": %d, "loss": 2.5}\n' % step)
        assert seen.wait(60)
        os.write(descriptor, b'{"step": 3, "loss": 2.5}\n')

    log = open_log(_through_pipe(tmp_path, write))
    rows = iter(log)
    assert [next(rows).step, next(rows).step] == [0, 1]
    assert log.progress() is None
    seen.set()
    assert [row.step for row in rows] == [2, 3]


def test_standard_input_is_a_log_too() -> None:
    code = (
        "from pathlib import Path; from sentinel.replay.log import open_log;"
        "log = open_log(Path('-')); print(log.run, [row.step for row in log], log.progress())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        input=SAMPLES["csv"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "stdin [1, 2] None\n"


def test_progress_is_the_share_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n" + "".join(f"{step},2.5\n" for step in range(100_000)))
    log = open_log(path)
    shares = [log.progress() or 0.0 for _ in log]
    assert shares == sorted(shares)
    assert 0.0 < shares[0] < 0.5 < shares[75_000]
    assert log.progress() == 1.0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty: expected a log"),
        (b"\n \n\n", "empty: expected a log"),
        (b"\xef\xbb\xbf", "empty: expected a log"),
        (b"\x7fELF\x02\x01\0\0\0\x01", "a binary file, not a log"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1", "a binary file, not a log"),
        (bytes(5000) + b"x", "a binary file, not a log"),
        (bytes(5000), "a binary file, not a log"),
        (b"\x80\x81\n", "no values of a known name"),
        (b"hello\nworld\n", "no values of a known name"),
        (b"1,2.5\n2,2.25\n", "no values of a known name"),
        (b"\x1f\x8b", "empty: expected a log"),
    ],
)
def test_what_is_no_log_gets_a_clear_error(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(ReplayError) as raised:
        found(path, data)
    assert str(raised.value).startswith(f"{path}: ")
    assert reason in str(raised.value)


def test_a_file_that_cannot_be_read_is_a_replay_error(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"none\.jsonl: cannot be read: No such file"):
        open_log(tmp_path / "none.jsonl")
    with pytest.raises(ReplayError, match="cannot be read"):
        open_log(Path("/proc/self/mem"), format="csv")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_empty_file_is_an_error_in_every_format(tmp_path: Path, format: str) -> None:
    with pytest.raises(ReplayError, match="/a"):
        found(tmp_path / "a", b"", format=format)


def test_tensorboard_by_name_on_what_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="record 1: damaged"):
        found(tmp_path / "a", SAMPLES["csv"] * 3, format="tensorboard")
