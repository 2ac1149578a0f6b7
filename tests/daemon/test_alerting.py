"""That people are told: through Slack, also when the disk takes nothing any more."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable
from pathlib import Path

from sentinel.control.barrier import Verdict
from sentinel.notify.loopback_slack import Fault, LoopbackSlack
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, Daemon, eventually, sentinel
from tests.daemon.scenes import APPLIED_NAN, broken, in_state, incidents


def with_slack(slack: LoopbackSlack, state: Path) -> Daemon:
    env = {
        "SLACK_BOT_TOKEN": slack.token,
        "SLACK_CHANNEL": "training",
        "SLACK_BASE_URL": slack.url,
    }
    return Daemon(state, env=env)


async def posted(slack: LoopbackSlack, look: Callable[[list[str]], bool]) -> None:
    """Wait until the messages that Slack has are as wanted."""

    async def wait() -> None:
        while not look([message.as_text() for message in slack.messages]):
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), PATIENCE)


async def charted(slack: LoopbackSlack) -> None:
    """Wait for a chart in the thread of the first message."""

    async def wait() -> None:
        while not any(message.files for message in slack.messages):
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), PATIENCE)
    (file,) = next(message.files for message in slack.messages if message.files)
    assert file.data.startswith(b"\x89PNG")
    assert "held at step" in file.alt_text


async def test_slack_hears_of_the_culprit_the_hold_and_the_resume(tmp_path: Path) -> None:
    async with LoopbackSlack() as slack:
        daemon = await asyncio.to_thread(with_slack(slack, tmp_path / "state").start)
        try:
            job = await asyncio.to_thread(broken, daemon)
            terms = "rank-hours (2 ranks)"
            await posted(slack, lambda texts: any(terms in text for text in texts))
            held = next(m.as_text() for m in slack.messages if terms in m.as_text())
            assert "held at step" in held
            assert "If nobody answers: the run is stopped at" in held
            head = held.splitlines()[-1].rpartition(", record ")[2]
            first = slack.messages[0].as_text()
            assert "layers.1.mlp" in first
            assert "rank 1" in first
            assert all(m.thread_ts == slack.messages[0].ts for m in slack.messages[1:])
            daemon.request("POST", "/api/v1/runs/run/resume", {"lr_scale": 0.5})
            assert await asyncio.to_thread(job.await_verdict) is Verdict.GO
            await posted(slack, lambda texts: "learning rate times 0.5" in texts[-1])
            await charted(slack)
            audit = ["audit", "run", "--head", head, "--state", str(daemon.state)]
            done = await asyncio.to_thread(sentinel, *audit)
            assert (done.returncode, done.stdout.startswith("run: 4 rows, unbroken")) == (0, True)
        finally:
            daemon.kill()


async def test_an_alert_outlives_a_kill_9_and_is_told_by_the_next_daemon(tmp_path: Path) -> None:
    async with LoopbackSlack() as slack:
        slack.fail_next(*[Fault("http_500")] * 50)
        daemon = await asyncio.to_thread(with_slack(slack, tmp_path / "state").start)
        job = await asyncio.to_thread(broken, daemon)
        daemon.kill()
        assert slack.messages == []
        slack._faults.clear()
        await asyncio.to_thread(daemon.start)
        try:
            await posted(slack, lambda texts: any("layers.1.mlp" in text for text in texts))
            ids = [str(message.metadata) for message in slack.messages]
            assert len(ids) == len(set(ids)), "told twice"
        finally:
            daemon.kill()
            job.vanish()


async def test_with_a_full_disk_it_alerts_and_never_acts(tmp_path: Path) -> None:
    async with LoopbackSlack() as slack:
        daemon = await asyncio.to_thread(with_slack(slack, tmp_path / "state").start)
        assert daemon.process is not None
        pid = daemon.process.pid
        try:
            job = await asyncio.to_thread(lambda: FakeJob(daemon.place).connect())
            for _ in range(5):
                await asyncio.to_thread(job.train)
            unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
            for _ in range(15):
                assert await asyncio.to_thread(job.train, APPLIED_NAN) is Verdict.GO
            await posted(slack, lambda texts: any("layers.1.mlp" in text for text in texts))
            metrics = await asyncio.to_thread(daemon.metrics)
            assert metrics["sentinel_daemon_record_failures_total"] > 0
            code, answer = await asyncio.to_thread(
                daemon.request, "POST", "/api/v1/runs/run/pause", {}
            )
            assert code == 503
            assert "nothing was done" in json.loads(answer)["error"]
            for _ in range(5):
                assert await asyncio.to_thread(job.train) is Verdict.GO
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
            await asyncio.to_thread(
                eventually, lambda: [i["state"] for i in incidents(daemon)] == ["open"]
            )
            (incident,) = incidents(daemon)
            assert [a["state"] for a in incident["actions"]] == ["refused"]
            await asyncio.to_thread(daemon.request, "POST", "/api/v1/runs/run/pause", {})
            await asyncio.to_thread(job.train_until_stand)
            await asyncio.to_thread(in_state, daemon, job, "held")
        finally:
            daemon.kill()
