"""A loopback Slack, and a daemon that offers buttons in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sentinel.control.barrier import Verdict
from sentinel.daemon.buttons import Buttons
from sentinel.daemon.offering import Offering
from sentinel.daemon.service import Service, Settings
from sentinel.daemon.web import Web
from sentinel.engine import rulefile
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.notify.loopback_socket import Clicked, LoopbackSocket, labels_of
from sentinel.notify.slack import SlackReceiver
from sentinel.store.store import Store
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, Daemon
from tests.daemon.scenes import broken, incidents

OFFERS = ("scale_lr", "load_checkpoint")
ORDERS = ("Resume", "Resume at half the learning rate", "Stop the run")
QUIETING = ("Acknowledge", "Silence for 1 h")
Row = dict[str, Any]


class Workspace:
    """A loopback Slack and a daemon that offers buttons in it."""

    def __init__(self, slack: LoopbackSlack, socket: LoopbackSocket, daemon: Daemon) -> None:
        self.slack, self.socket, self.daemon = slack, socket, daemon
        self._jobs: list[FakeJob] = []

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
            shown = [message.as_text() for message in self.slack.messages]
            raise AssertionError(f"{what} has not happened: {shown}") from None

    async def buttons(self, *labels: str) -> None:
        """Wait until the first message has just these buttons, and Slack has it for good."""
        await self.until(
            lambda: self.slack.messages and labels_of(self.first) == [*labels], f"{labels}"
        )

    async def held(self, **options: Any) -> FakeJob:
        """A job that is held, with the buttons for that."""
        job = await self.job(broken, offers=OFFERS, **options)
        await self.buttons(*ORDERS, *QUIETING)
        return job

    async def job(self, made: Callable[..., FakeJob], **options: Any) -> FakeJob:
        """A job that is gone when the daemon ends, which would wait for it."""
        self._jobs.append(await asyncio.to_thread(partial(made, self.daemon, **options)))
        return self._jobs[-1]

    def vanish(self) -> None:
        """All jobs are gone."""
        for job in self._jobs:
            job.vanish()

    async def goes_on(self, job: FakeJob) -> None:
        assert await asyncio.to_thread(job.await_verdict) is Verdict.GO
        await self.buttons("Stop the run", *QUIETING)

    async def answer(self, clicked: Clicked) -> str:
        """What the one who pressed was told alone."""
        await self.until(lambda: clicked.answers, "an answer")
        assert clicked.acknowledged is not None
        assert clicked.acknowledged < 3.0
        (answer,) = clicked.answers
        return answer

    async def told_to_slack(self, clicked: Clicked) -> None:
        """Wait until the daemon has acknowledged a press."""
        await self.until(lambda: clicked.acknowledged is not None, "a word to Slack")

    async def said(self, text: str) -> str:
        """What was said in the thread, with this in it."""

        def said() -> list[str]:
            return [one.text for one in self.slack.messages[1:] if text in one.text]

        await self.until(said, text)
        (found,) = said()
        return found

    def journal(self) -> list[Row]:
        """The rows of the run's journal, which is unbroken."""
        store = Store.open(self.daemon.state, readonly=True)
        try:
            links, broken = store.verify("run")
        finally:
            store.close()
        assert broken is None
        return [json.loads(str(link.content)) for link in links]

    async def orders(self) -> list[tuple[str, str, str]]:
        """What people asked for and what came of it, as it is on the record."""
        actions = (await asyncio.to_thread(incidents, self.daemon))[0]["actions"]
        return [(one["action"], one["state"], one["by"]) for one in actions[1:]]


@asynccontextmanager
async def in_slack(
    state: Path, **options: Any
) -> AsyncIterator[tuple[LoopbackSlack, LoopbackSocket]]:
    slack = LoopbackSlack()
    socket = LoopbackSocket(slack, **options)
    async with slack:
        yield slack, socket


def settings(state: Path, slack: LoopbackSlack, token: str, users: Sequence[str]) -> Settings:
    receiver = SlackReceiver(slack.token, "training", state_dir=state, base_url=slack.url)
    return Settings(
        state,
        rulefile.load(rulefile.resolve_pack("default")),
        receivers=[receiver],
        clean_steps=3,
        buttons=[Offering(receiver, token, tuple(users), slack.url)],
    )


@asynccontextmanager
async def serving(chosen: Settings) -> AsyncIterator[Buttons]:
    service = Service(chosen)
    buttons = Buttons(service, chosen.buttons)
    await service.open()
    web = Web(service, None)
    await web.open()
    await buttons.open()
    try:
        yield buttons
    finally:
        await buttons.close()
        await web.close()
        await service.close()


@asynccontextmanager
async def workspace(
    state: Path, *, users: Sequence[str] = ("U0ANN", "U0BO"), **options: Any
) -> AsyncIterator[Workspace]:
    async with in_slack(state, **options) as (slack, socket):
        at = Workspace(slack, socket, Daemon(state))
        chosen = settings(state, slack, socket.app_token, users)
        async with serving(chosen) as buttons:
            await at.until(lambda: socket.connections and buttons._teams, "a connection")
            try:
                yield at
            finally:
                at.vanish()
