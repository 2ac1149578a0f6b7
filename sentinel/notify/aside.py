"""Calls that block, in threads that nobody waits for longer than agreed, not even at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sentinel.errors import DeliveryError

T = TypeVar("T")

_MOST = 4  # calls that may be stuck at the same time


class Aside:
    """For one library whose calls block. `name` is what errors call the other end."""

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._running = 0

    async def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, or its error. Raises `DeliveryError` when that takes too long.

        The thread then goes on by itself, until what it waits for is over.
        """
        if self._running >= _MOST:
            raise DeliveryError(f"{self._name} has not ended {self._running} earlier requests")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def end(error: BaseException | None, result: Callable[[], T]) -> None:
            self._running -= 1
            if future.done():  # nobody waits any more
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result())

        def run() -> None:
            error: BaseException | None = None
            found: list[T] = []
            try:
                found.append(work())
            except BaseException as raised:  # noqa: BLE001 (it is raised where it is waited for)
                error = raised
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(end, error, found.pop)

        self._running += 1
        threading.Thread(target=run, name=f"{self._name}", daemon=True).start()
        try:
            return await asyncio.wait_for(future, self._timeout)
        except asyncio.TimeoutError:
            raise DeliveryError(
                f"{self._name} did not answer: no answer in time", doubtful=True
            ) from None
