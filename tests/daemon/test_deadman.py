"""The dead man's switch of a real daemon: it pings while it works and sees, and not otherwise."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sentinel import clock
from sentinel.daemon import vital_signs
from sentinel.daemon.place import own_address
from sentinel.daemon.service import Service, Settings
from sentinel.daemon.vital_signs import VitalSigns
from sentinel.notify.deadman import DeadMan, Ping
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, Daemon, eventually
from tests.notify.loopback_ping import SECRET, LoopbackPing


@pytest.fixture
def pings() -> Iterator[LoopbackPing]:
    with LoopbackPing() as server:
        yield server


def test_a_daemon_pings_until_it_is_stopped_or_cannot_write_and_never_tells_where(
    pings: LoopbackPing, tmp_path: Path
) -> None:
    env = {"SENTINEL_PING_URL": pings.url, "SENTINEL_PING_EVERY": "1s"}
    daemon = Daemon(tmp_path / "state", env=env).start()
    assert daemon.process is not None
    pid = daemon.process.pid
    try:
        job = FakeJob(daemon.place).connect()
        job.train()
        eventually(lambda: pings.events[:2] == ["start", ""], "the first pings")

        daemon.process.send_signal(signal.SIGSTOP)
        eventually(lambda: _is_stopped(pid), "being stopped")
        said = len(pings.pings)
        with pytest.raises(AssertionError):
            eventually(lambda: len(pings.pings) > said + 1, within=1.5)  # one may be on its way
        daemon.process.send_signal(signal.SIGCONT)
        eventually(lambda: len(pings.pings) > said + 1, "pings from a daemon that goes on")
        assert set(pings.events[1:]) == {""}

        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        eventually(lambda: "fail" in pings.events, "a failure")
        assert "cannot be written" in pings.pings[pings.events.index("fail")][1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        eventually(lambda: pings.events[-1] == "", "pings when it can be written again")
        job.goodbye()
    finally:
        daemon.kill()
    assert SECRET not in daemon.log()
    files = (path for path in daemon.state.rglob("*") if path.is_file())
    assert all(SECRET.encode() not in path.read_bytes() for path in files)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, condition)


async def test_a_lost_run_fails_once_and_one_that_ended_well_does_not(
    pings: LoopbackPing, tmp_path: Path
) -> None:
    service = Service(Settings(tmp_path / "state", rules=()))
    await service.open()
    looked = 0
    signs = VitalSigns(service)

    async def look() -> Sequence[str]:
        nonlocal looked
        looked += 1
        return await signs.look()

    task = asyncio.create_task(DeadMan(Ping(pings.url, 1.0), look).run())
    try:
        place = tmp_path / "state"
        well = await asyncio.to_thread(lambda: FakeJob(own_address(place), run="well").connect())
        ill = await asyncio.to_thread(
            lambda: FakeJob(own_address(place), run="ill", pid=1).connect()
        )
        well.goodbye()
        await until(lambda: service.runs["well"].state == "finished")
        ended = len(pings.pings)
        await until(lambda: len(pings.pings) > ended)
        assert set(pings.events[1:]) == {""}

        ill.vanish()
        await until(lambda: not service.runs["ill"].connected)
        service.launcher_ended(well=False)
        await until(lambda: pings.events[-1] == "fail")
        assert pings.pings[-1][1] == "run ill is lost"
        before = looked
        await until(lambda: looked >= before + 2)
        assert pings.events[-1] == "fail"
        assert pings.events.count("fail") == 1

        again = await asyncio.to_thread(
            lambda: FakeJob(own_address(place), run="ill", pid=9).connect()
        )
        await until(lambda: pings.events[-1] == "")
        again.goodbye()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await service.close()


async def test_what_is_wrong_is_seen_and_said_in_words_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(Settings(tmp_path / "state", rules=()))
    await service.open()
    signs = VitalSigns(service)
    try:
        assert await signs.look() == []
        service.ledger.failing = True
        assert await signs.look() == ["the record cannot be written"]
        job = await asyncio.to_thread(FakeJob(own_address(tmp_path / "state")).connect)
        await until(lambda: not service.ledger.failing)  # the run has been written
        assert await signs.look() == []
        service.counts.faults += 2
        ranks = service.runs["run"].ranks.values()
        for rank in ranks:
            rank.last_seen = clock.steady() - vital_signs.SILENT - 1.0
        failed, silent = await signs.look()
        assert "has failed" in failed
        assert silent == "run run is not heard of, though its connections are open"
        for rank in ranks:
            rank.last_seen, rank.moved = clock.steady(), clock.steady() - vital_signs.STILL - 1.0
        assert await signs.look() == ["run run is heard of, but does not come further"]
        job.goodbye()
        await until(lambda: service.runs["run"].state == "finished")
        assert await signs.look() == []

        monkeypatch.setattr(vital_signs, "ANSWER", 0.05)
        monkeypatch.setattr(vital_signs, "TICK", 0.05)
        free = asyncio.Event()
        loop = asyncio.get_running_loop()
        stuck = asyncio.create_task(
            service.ledger.call(
                lambda: asyncio.run_coroutine_threadsafe(free.wait(), loop).result()
            )
        )
        service._clock.cancel()
        for _ in range(2):
            assert await signs.look() == [
                "the daemon's clock stands still",
                "the record does not answer",
            ]
        free.set()
        await stuck
        monkeypatch.setattr(vital_signs, "ANSWER", PATIENCE)
        assert await signs.look() == ["the daemon's clock stands still"]
    finally:
        await service.close()
