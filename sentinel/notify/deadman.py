"""A dead man's switch: a URL elsewhere hears at regular times that the daemon works and sees.

Whoever is behind the URL tells people when the pings stop, as healthchecks.io does, whose
conventions these are:

1. `URL/start` when the daemon begins.
2. `URL` every so often, while nothing is wrong.
3. `URL/fail` once for whatever is newly wrong, with the reasons as plain text; then nothing until
   all is well again.

A daemon that is stopped, stuck or gone says nothing by itself. The URL is a secret.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from sentinel import clock
from sentinel.duration import seconds_of
from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify import request

_log = logging.getLogger(__name__)

_NAME = "the dead man's URL"
_EVERY = 60.0  # s
_MAX_REASONS = 20
_MAX_TEXT = 4000  # bytes

Look = Callable[[], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class Ping:
    """Where to ping, and every how many seconds. Raises `SentinelError` for no usable URL."""

    url: str = field(repr=False)
    every: float = _EVERY

    def __post_init__(self) -> None:
        request.checked(self.url, _NAME)
        if not 1.0 <= self.every <= 86_400.0:
            raise SentinelError("the dead man's pings come every 1 s to 1 day")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ping | None:
        """What `$SENTINEL_PING_URL` and `$SENTINEL_PING_EVERY` (as 30s or 5m) say; None: nothing.

        Raises `SentinelError`.
        """
        url = environment.get("SENTINEL_PING_URL", "").strip()
        if not url:
            return None
        text = environment.get("SENTINEL_PING_EVERY", "").strip()
        every = seconds_of(text) if text else _EVERY
        if every is None:
            raise SentinelError(f"$SENTINEL_PING_EVERY is {text!r}: expected 30s, 5m or the like")
        return cls(url, every)

    def to(self, event: str) -> str:
        """The URL for `start` or `fail`, or without one for all being well."""
        parts = urlsplit(self.url)
        path = f"{parts.path.rstrip('/')}/{event}" if event else parts.path
        return urlunsplit(parts._replace(path=path))


class DeadMan:
    """`run` it as a task; end it by cancelling. `look` says what is wrong, in stable words."""

    def __init__(self, ping: Ping, look: Look, *, timeout: float = request.TIMEOUT) -> None:
        self._ping = ping
        self._timeout = timeout  # s for one ping
        self._look = look
        self._wrong: Sequence[str] = ()  # by the last look
        self._told: Sequence[str] = ()  # of that, what has been told
        self._heard = True  # whether the last ping was

    async def run(self) -> None:
        """For ever. Raises nothing."""
        await self._say("start")
        while True:
            begun = clock.monotonic()
            await self._once()
            await asyncio.sleep(max(0.0, begun + self._ping.every - clock.monotonic()))

    async def _once(self) -> None:
        try:
            wrong = await self._look()
        except Exception:  # noqa: BLE001 (to be silent is what is left, and said)
            wrong = ["the daemon cannot look at itself"]
            if not set(wrong) <= set(self._wrong):
                _log.exception("the daemon cannot look at itself")
        if not set(wrong) <= set(self._wrong):
            _log.error("the dead man's pings stop: %s", "; ".join(wrong[:_MAX_REASONS]))
        self._wrong = wrong
        if not wrong:
            self._told = ()
            await self._say("")
        elif not set(wrong) <= set(self._told):
            text = "\n".join(wrong[:_MAX_REASONS])
            self._told = wrong if await self._say("fail", text) else self._told

    async def _say(self, event: str, text: str = "") -> bool:
        """Whether it was heard."""
        try:
            answer = await request.ask(
                _NAME,
                "POST" if text else "GET",
                self._ping.to(event),
                body=text.encode("utf-8", "replace")[:_MAX_TEXT] if text else None,
                headers={"Content-Type": "text/plain; charset=utf-8"} if text else {},
                timeout=self._timeout,
            )
            if not 200 <= answer.status < 300:
                raise request.refusal(_NAME, answer.status, answer.headers)
        except DeliveryError as error:
            if self._heard:  # said once, not every minute
                _log.warning("a ping was not heard: %s", error)
            self._heard = False
            return False
        self._heard = True
        return True
