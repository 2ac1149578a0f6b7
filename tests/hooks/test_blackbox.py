"""The black box of a rank outlives it, and never harms it."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from sentinel.blackbox import Header, read
from sentinel.wire import Frame, Series
from sentinel_hooks.blackbox import BlackBoxFile, clear_old, folder, random_states

HEADER = Header("my run/1", 3, 8, "0123456789abcdef", "host", 1, 0.0)
SERIES = (Series("loss"),)


def frame(step: int, values: int = 1) -> Frame:
    return Frame(step, step, float(step), bytes(8 * values))


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BlackBoxFile]:
    made = BlackBoxFile(tmp_path, HEADER, SERIES)
    yield made
    made.close()


def test_a_process_killed_while_writing_leaves_its_last_steps(tmp_path: Path) -> None:
    for pause in (0.0, 0.003, 0.007):  # the instant of the kill is the test's input
        place = tmp_path / str(pause)
        place.mkdir()
        job = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("writing_job.py")), str(place)],
            stdout=subprocess.PIPE,
        )
        assert job.stdout is not None
        job.stdout.readline()
        time.sleep(pause)
        job.kill()
        job.wait()
        job.stdout.close()
        (path,) = place.iterdir()
        found = read(path.read_bytes())
        steps = [one.frame.step for one in found.records]
        assert len(steps) + found.torn == 64
        assert found.torn <= 1
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        assert steps[-1] >= 99
        assert [one.batches for one in found.records] == [(f"{step:x}",) for step in steps]


def test_the_file_is_this_users_alone_and_named_after_run_and_rank(box: BlackBoxFile) -> None:
    assert box.path.name == "my_run_1.rank3.01234567.blackbox"
    assert stat.S_IMODE(box.path.stat().st_mode) == 0o600


def test_series_found_later_are_in_the_table(box: BlackBoxFile) -> None:
    more = (*SERIES, *(Series("logged", f"metric {i}") for i in range(300)))
    box.write(frame(1), SERIES, ())
    box.write(frame(2, len(more)), more, ())
    found = read(b"".join(part.data for part in box.parts("incident")))
    assert found.series == more
    assert [len(one.frame.values) for one in found.records] == [8, 8 * len(more)]


def test_a_file_that_is_cut_short_or_removed_does_no_harm(box: BlackBoxFile) -> None:
    os.truncate(box.path, 0)
    box.write(frame(1), SERIES, ())
    box.path.unlink()
    box.write(frame(2), SERIES, ())


def test_a_disk_without_room_is_said_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
from tests.hooks.test_blackbox import HEADER, SERIES, BlackBoxFile
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    BlackBoxFile(Path({str(tmp_path)!r}), HEADER, SERIES)
except OSError as error:
    print(error.errno is not None)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "True\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_random_generators_can_be_put_back_where_they_stood() -> None:
    states = random_states()
    expected = (torch.rand(3), random.random())
    torch.set_rng_state(torch.frombuffer(bytearray(states["torch"]), dtype=torch.uint8))
    version, words, gauss = msgspec.msgpack.decode(states["python"])
    unpacked = tuple(int.from_bytes(words[at : at + 4], "little") for at in range(0, 2500, 4))
    random.setstate((version, unpacked, gauss))
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    assert set(random_states(all_of_them=False)) == {"torch"}


def test_black_boxes_of_the_dead_are_kept_for_a_week(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("a.blackbox", "b.blackbox", "c.txt"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, time.time() - 8 * 86400))
    clear_old(tmp_path)
    assert sorted(tmp_path.iterdir()) == [new, other]
    clear_old(tmp_path / "nowhere")


def test_the_folder_is_the_one_that_is_named_or_this_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_BLACKBOX", str(tmp_path / "deep" / "down"))
    assert folder() == tmp_path / "deep" / "down"
    assert folder().is_dir()
    monkeypatch.delenv("SENTINEL_BLACKBOX")
    own = folder()
    assert own.name == f"sentinel-{os.getuid()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
