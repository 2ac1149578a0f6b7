"""Where the ranks of a node meet, and the file that they read there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sentinel_hooks.hardware import place
from sentinel_hooks.hardware.report import Gpu, Reader, Report, XidEvent, write

FULL = Report(
    5.0, (Gpu(0, "GPU-a", "0:1:0", at=1.0, values={"gpu_lost": 0.0}, events=(XidEvent(79, 2.0),)),)
)


def test_a_reader_never_sees_half_a_report(tmp_path: Path) -> None:
    path = tmp_path / "gpu.report"
    done = threading.Event()

    def keep_writing() -> None:
        number = 0
        while not done.is_set():
            number += 1
            write(path, Report(5.0, FULL.gpus * (1 + number % 8)))

    write(path, FULL)
    writer = threading.Thread(target=keep_writing)
    writer.start()
    reader = Reader(path)
    seen = [reader.read() for _ in range(2000)]
    done.set()
    writer.join()
    assert None not in seen
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rubbish", [b"", b"\xc1", b"\x94", b"\x93\x01\x02\x03", b"\xff" * 3000000])
def test_what_is_no_report_is_no_report_and_the_next_one_is_read(
    tmp_path: Path, rubbish: bytes
) -> None:
    path = tmp_path / "gpu.report"
    reader = Reader(path)
    assert reader.read() is None
    write(path, FULL)
    assert reader.read() == FULL
    path.write_bytes(rubbish)
    assert reader.read() is None
    write(path, FULL)
    assert reader.read() == FULL


def test_ranks_of_a_job_meet_in_one_file_and_other_jobs_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"XDG_RUNTIME_DIR": str(tmp_path), "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    one = place.report_path({**base, "RANK": "0", "LOCAL_RANK": "0"})
    assert one == place.report_path({**base, "RANK": "1", "LOCAL_RANK": "1"})
    assert one != place.report_path({**base, "MASTER_PORT": "29501"})
    assert one.parent == tmp_path / "sentinel"
    assert one.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    elsewhere = place.report_path({"XDG_RUNTIME_DIR": "/nonexistent"})
    assert elsewhere.parent == tmp_path / f"sentinel-{os.getuid()}"


def test_a_folder_that_others_can_reach_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"sentinel-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="only this user"):
        place.report_path({})
    folder.rmdir()
    (tmp_path / "other").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "other")
    with pytest.raises(PermissionError, match="only this user"):
        place.report_path({})


def test_a_lock_is_taken_once_and_again_after_its_file_was_removed(tmp_path: Path) -> None:
    one, other = place.Lock(tmp_path / "lock"), place.Lock(tmp_path / "lock")
    assert one.take()
    assert one.take()
    assert not other.take()
    one.release()
    assert other.take()
    assert not one.take()
    other.release()
    assert list(tmp_path.iterdir()) == []
