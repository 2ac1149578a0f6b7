"""Buttons as a whole: offered under messages, heard over Socket Mode, one connection an app."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from sentinel.daemon.offering import Offering
from sentinel.daemon.presses import Presses
from sentinel.daemon.service import Service
from sentinel.errors import DeliveryError
from sentinel.notify.buttons import Json, actions_block
from sentinel.notify.notice import Notice
from sentinel.notify.socket_mode import SocketMode

_ASK_AGAIN = 60.0  # s until a workspace that did not say which it is is asked again


class Buttons:
    """The buttons of one daemon: none without `offerings`. `await open()`, then `await close()`."""

    def __init__(self, service: Service, offerings: Sequence[Offering]) -> None:
        """Messages have buttons from here on; make it before the service sends any."""
        self._offerings = offerings
        self._teams: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.presses = Presses(
            service,
            offerings,
            app=lambda one: self._sockets[one.app_token].app,
            team=lambda one: self._teams.get(one.receiver.name, ""),
        )
        self._sockets = {
            one.app_token: SocketMode(one.app_token, self.presses, base_url=one.base_url)
            for one in offerings
        }
        for one in offerings:
            one.receiver.buttons = partial(self._below, one)

    async def open(self) -> None:
        """Begin to hear presses; returns at once."""
        if not self._offerings:
            return
        left = await self.presses.left_behind()
        self._tasks.append(asyncio.create_task(self.presses.say_what_was_lost(left)))
        self._tasks += [asyncio.create_task(self._know_team(one)) for one in self._offerings]
        for socket in self._sockets.values():
            await socket.open()

    async def close(self) -> None:
        """Hear no more presses; those under way have a moment."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for socket in self._sockets.values():
            await socket.close()

    async def _below(self, offered: Offering, notice: Notice) -> Json | None:
        """The buttons below a message now, or None where they would not be heard."""
        if not self._sockets[offered.app_token].usable:
            return None
        return actions_block(await self.presses.situation(notice))

    async def _know_team(self, offered: Offering) -> None:
        while True:
            try:
                self._teams[offered.receiver.name] = await offered.receiver.team()
                return
            except DeliveryError:
                await asyncio.sleep(_ASK_AGAIN)
