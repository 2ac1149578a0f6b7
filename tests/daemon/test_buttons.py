"""From a press on a button in Slack to the run, the record and the answer, with a real daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sentinel.control.barrier import Verdict
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.notify.loopback_socket import Clicked, LoopbackSocket, labels_of
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, Daemon, sentinel
from tests.daemon.scenes import broken, in_state, incidents

OFFERS = ("scale_lr", "load_checkpoint")
HELD = ["Resume", "Resume at half the learning rate", "Stop the run"]


class Workspace:
    """A loopback Slack, a daemon that offers buttons in it, and what a test does with both."""

    def __init__(self, slack: LoopbackSlack, socket: LoopbackSocket, daemon: Daemon) -> None:
        self.slack, self.socket, self.daemon = slack, socket, daemon

    @property
    def first(self) -> Message:
        return self.slack.messages[0]

    async def until(self, look: Callable[[], object], what: str) -> None:
        async def wait() -> None:
            while not look():
                await asyncio.sleep(0.01)

        try:
            await asyncio.wait_for(wait(), PATIENCE)
        except asyncio.TimeoutError:
            raise AssertionError(f"{what} has not happened\n{self.daemon.log()}") from None

    async def buttons(self, *labels: str) -> None:
        """Wait until the first message has just these buttons."""
        shown = lambda: labels_of(self.first) if self.slack.messages else None  # noqa: E731
        await self.until(lambda: shown() == [*labels], f"buttons {labels}, not {shown()},")

    async def answer(self, clicked: Clicked) -> str:
        """What the one who pressed was told alone."""
        await self.until(lambda: clicked.answers, "an answer")
        return clicked.answers[0]

    async def journal(self, run: str = "run") -> list[dict[str, Any]]:
        done = await asyncio.to_thread(
            sentinel, "audit", run, "--json", "--state", str(self.daemon.state)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [entry["row"] for entry in json.loads(done.stdout)]


@asynccontextmanager
async def workspace(
    state: Path, users: str = "U0ANN,U0BO", **options: Any
) -> AsyncIterator[Workspace]:
    slack = LoopbackSlack()
    socket = LoopbackSocket(slack, **options)
    async with slack:
        env = {
            "SLACK_BOT_TOKEN": slack.token,
            "SLACK_CHANNEL": "training",
            "SLACK_BASE_URL": slack.url,
            "SLACK_APP_TOKEN": socket.app_token,
            "SLACK_ALLOWED_USERS": users,
        }
        daemon = await asyncio.to_thread(Daemon(state, env=env).start)
        try:
            yield Workspace(slack, socket, daemon)
        finally:
            daemon.kill()


async def test_a_press_on_resume_lets_the_run_go_on_and_names_who_pressed(tmp_path: Path) -> None:
    async with workspace(tmp_path / "state") as at:
        job = await asyncio.to_thread(broken, at.daemon, offers=OFFERS)
        await at.buttons(*HELD)
        clicked = at.socket.press("Resume at half the learning rate")
        assert await asyncio.to_thread(job.await_verdict) is Verdict.GO
        print(await at.answer(clicked), clicked.acknowledged)
        await at.buttons("Stop the run")
        for row in await at.journal():
            print(row)
        print(at.daemon.log())
        for m in at.slack.messages:
            print(m.as_text(), "\n")
        assert 0
