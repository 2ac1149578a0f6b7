"""What ranks say goes on being kept when the file for it turns out to be damaged."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from sentinel import clock
from sentinel.daemon.counts import Counts
from sentinel.daemon.recorder import Recorder
from sentinel.errors import DamagedError
from sentinel.store import Recording
from sentinel.store.database import Examination
from sentinel.store.history_row import ALONE, Form, Part, Row
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, Daemon

PAGE = 4096
FORM = Form((Part(ALONE, ("loss",), np.array([0])),))


def recorded(state_dir: Path) -> list[bytes | None]:
    """What is in the file of the run."""
    recording = Recording.open(state_dir, readonly=True)
    try:
        return [one.body for one in recording.messages("run")]
    finally:
        recording.close()


def damage_in_the_middle(state_dir: Path) -> None:
    """A file that opens, of which a part cannot be read."""
    recording = Recording.open(state_dir)
    recording.append("run", 0, 1.0, os.urandom(400_000))
    recording.flush()
    recording.close()
    content = bytearray((state_dir / "telemetry.db").read_bytes())
    content[-20 * PAGE : -19 * PAGE] = b"\xff" * PAGE
    (state_dir / "telemetry.db").write_bytes(content)


@asynccontextmanager
async def recorder(state_dir: Path) -> AsyncIterator[Recorder]:
    """One that has not begun to look at its file."""
    made = Recorder(state_dir, Counts())
    try:
        yield made
        await made.stop()
    finally:
        made.close()


async def until(so: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = clock.monotonic() + PATIENCE
    while not so():
        assert clock.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_file_damaged_in_the_middle_is_put_aside_while_the_daemon_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage_in_the_middle(tmp_path)
    aside = tmp_path / "telemetry.db.damaged"
    async with recorder(tmp_path) as made:
        made.recording.append("run", 0, 2.0, b"before")
        for step in range(1, 4):
            made.history.append("run", Row(step, float(step), np.array([step], np.float32), FORM))
        await made.flush(everything=True)
        assert not aside.exists()

        made.begin()
        await until(aside.exists)
        made.recording.append("run", 0, 3.0, b"after")
        made.history.append("run", Row(4, 4.0, np.array([4], np.float32), FORM))
        await made.flush(everything=True)
        look = made.past.look("run")
        assert look is not None
        steps, values = look.exact(ALONE, ["loss"], 1, 9, 100)
        assert (steps.tolist(), values[:, 0].tolist()) == ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])
        assert not made.fails
    assert recorded(tmp_path) == [b"after"]
    (said,) = (one.getMessage() for one in caplog.records if one.levelno == logging.ERROR)
    assert "telemetry.db is damaged (malformed: *** in database main ***" in said
    assert f"it is kept as {aside}, and a new one is begun" in said


async def test_what_waits_is_written_anew_when_a_write_finds_the_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage_in_the_middle(tmp_path)
    async with recorder(tmp_path) as made:
        (tmp_path / "telemetry.db").write_bytes(b"\xff" * 30 * PAGE)
        made.recording.append("run", 0, 1.0, b"message")
        await made.flush()
        assert not made.fails
        made.begin()
    assert recorded(tmp_path) == [b"message"]
    assert (tmp_path / "telemetry.db.damaged").read_bytes()[:PAGE] == b"\xff" * PAGE
    assert "a new one is begun" in caplog.text


def test_an_examination_that_is_stopped_finds_nothing(tmp_path: Path) -> None:
    damage_in_the_middle(tmp_path)
    examination = Examination(tmp_path / "telemetry.db")
    with pytest.raises(DamagedError, match="malformed"):
        examination.make()
    examination.stop()
    examination.make()


def test_a_daemon_starts_with_a_file_that_is_no_database_and_says_so(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state")
    daemon.state.mkdir()
    rubbish = b"this is certainly not SQLite" * 1000
    (daemon.state / "telemetry.db").write_bytes(rubbish)
    daemon.start()
    FakeJob(daemon.place).connect().train()
    assert daemon.stop() == 0
    assert recorded(daemon.state)
    assert (daemon.state / "telemetry.db.damaged").read_bytes() == rubbish
    assert "telemetry.db is damaged (file is not a database): it is kept as" in daemon.log()
