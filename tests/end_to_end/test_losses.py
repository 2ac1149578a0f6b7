"""Watching changes no bit of the losses, whatever becomes of the daemon."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import incidents, status
from tests.end_to_end.forked import Script, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def cleanup() -> Iterator[list[Script | Daemon]]:
    started: list[Script | Daemon] = []
    yield started
    for one in started:
        one.kill()


@pytest.mark.parametrize("stage", [0, 3])
def test_losses_are_bit_equal_whatever_becomes_of_the_daemon(
    tmp_path: Path, cleanup: list[Script | Daemon], stage: int
) -> None:
    def train(name: str, **env: object) -> Script:
        log = tmp_path / f"{name}.log"
        script = start(log, STAGE=stage, OUT=tmp_path / name, SENTINEL_RUN=name, **env)
        cleanup.append(script)
        return script

    def finish(script: Script) -> list[list[str]]:
        script.finish()
        text = script.log.read_text()
        assert "Traceback" not in text, text
        files = [script.log.with_suffix(f".{rank}") for rank in (0, 1)]
        return [json.loads(file.read_text()) for file in files]

    def daemon(name: str) -> Daemon:
        begun = Daemon(tmp_path / f"daemon-{name}").start()
        cleanup.append(begun)
        return begun

    alone = finish(train("alone", ATTACH=0))
    well = daemon("well")
    assert finish(train("watched", SENTINEL_DAEMON=well.place)) == alone
    eventually(lambda: status(well, "watched")["step"] == 40)
    assert incidents(well, "watched") == []
    assert finish(train("nobody", SENTINEL_DAEMON=tmp_path / "nobody.sock")) == alone
    for name, blow in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
        struck = daemon(name)
        pace = tmp_path / f"{name}.pace"
        script = train(name, SENTINEL_DAEMON=struck.place, PACE=pace)
        eventually(lambda at=pace: at.exists() and int(at.read_text() or 0) >= 5, within=240)  # type: ignore[misc]
        assert struck.process is not None
        struck.process.send_signal(blow)
        assert finish(script) == alone
