"""Works off the outbox: one message after the other, until it has arrived or cannot.

1. Claim the next row that is due (committed before anything is sent).
2. If an earlier attempt may have arrived, ask the receiver; if it has, that is that.
3. Otherwise deliver it; mark it sent, due again later, or failed with the reason.
4. After a later message of an incident, bring its first message up to date, if that works.

Nothing waits for this: who writes to the outbox only calls `wake`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sentinel.clock import steady
from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify.notice import read
from sentinel.notify.receiver import Letter, Place, Posted, Receiver

_log = logging.getLogger(__name__)
_SOON = 1.5  # s; what is due by then is waited for at the end
_LONGEST_SLEEP = 60.0  # s


class Delivery(Protocol):
    """A claimed row of the outbox; see sentinel.store.outbox.Delivery."""

    @property
    def event_id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def payload(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def doubtful(self) -> bool: ...
    @property
    def claimed_at(self) -> float: ...
    @property
    def head(self) -> Place | None: ...


class Outbox(Protocol):
    """Where messages come from; see sentinel.store.outbox.Outbox. No method raises."""

    def claim(self, receiver: str, now: float) -> Delivery | None: ...
    def next_due(self, receiver: str) -> float | None: ...
    def sent(self, event_id: str, channel: str, ts: str) -> None: ...
    def again(self, event_id: str, at: float, error: str, *, doubtful: bool) -> None: ...
    def failed(self, event_id: str, error: str) -> None: ...


@dataclass(frozen=True)
class Backoff:
    """Seconds between attempts, doubling from `first` to `longest`, until `give_up` has passed."""

    first: float = 2.0
    longest: float = 900.0
    give_up: float = 86_400.0

    def delay(self, attempts: int) -> float:
        """How long to wait after so many attempts."""
        return min(self.longest, self.first * 2.0 ** min(attempts - 1, 60))


class Dispatcher:
    """Delivers what the outbox owes to one receiver. `run` it as a task; end it by cancelling.

    `delivered` and `failed` count messages, `last_error` says why the last attempt came to
    nothing (None after one that succeeded).
    """

    def __init__(
        self,
        outbox: Outbox,
        receiver: Receiver,
        *,
        clock: Callable[[], float] = steady,
        backoff: Backoff | None = None,
    ) -> None:
        self.delivered = 0
        self.failed = 0
        self.last_error: str | None = None
        self._outbox = outbox
        self._receiver = receiver
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()  # held while a message is on its way
        self._quiet_until = 0.0  # the receiver asked to be left alone until then

    def wake(self) -> None:
        """There is something new. May be called from any thread."""
        if self._loop is None:
            self._news.set()
            return
        with suppress(RuntimeError):  # the loop has been closed: nobody is listening
            self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        """Deliver for ever. A claim that is interrupted by cancelling is left as doubtful."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            while self._clock() >= self._quiet_until and await self._deliver_next():
                pass
            await self._news_within(await self._until_due())

    async def drained(self, timeout: float) -> bool:
        """Wait, `timeout` seconds at most, while something is due; True if nothing waits then."""
        try:
            return await asyncio.wait_for(self._nothing_due(), timeout)
        except asyncio.TimeoutError:
            return False

    async def _nothing_due(self) -> bool:
        while True:
            async with self._turn:
                due = await asyncio.to_thread(self._outbox.next_due, self._receiver.name)
            if due is None or max(due, self._quiet_until) > self._clock() + _SOON:
                return due is None
            self.wake()
            await asyncio.sleep(0.02)

    async def _news_within(self, timeout: float) -> None:
        """Wait for news. (asyncio.wait_for loses a cancelling that comes together with them.)"""
        assert self._loop is not None
        alarm = self._loop.call_later(timeout, self._news.set)
        try:
            await self._news.wait()
        finally:
            alarm.cancel()

    async def _until_due(self) -> float:
        due = await asyncio.to_thread(self._outbox.next_due, self._receiver.name)
        if due is None:
            return _LONGEST_SLEEP
        return min(_LONGEST_SLEEP, max(0.0, max(due, self._quiet_until) - self._clock()))

    async def _deliver_next(self) -> bool:
        """Claim and deliver one message; False when none is due."""
        async with self._turn:
            delivery = await asyncio.to_thread(
                self._outbox.claim, self._receiver.name, self._clock()
            )
            if delivery is None:
                return False
            await self._deliver(delivery)
            return True

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            letter = Letter(delivery.event_id, delivery.kind, read(delivery), delivery.head)
        except SentinelError as error:
            await self._give_up(delivery, str(error))
            return
        try:
            posted = await self._find(letter, delivery) or await self._receiver.deliver(letter)
        except DeliveryError as error:
            await self._after_error(delivery, error)
        except asyncio.CancelledError:
            self._outbox.again(delivery.event_id, 0.0, "interrupted", doubtful=True)
            raise
        except Exception as error:  # noqa: BLE001 (a receiver's fault must not end all delivery)
            _log.exception("delivering %s failed unexpectedly", delivery.event_id)
            await self._after_error(delivery, DeliveryError(repr(error), doubtful=True))
        else:
            await self._delivered(letter, posted)

    async def _find(self, letter: Letter, delivery: Delivery) -> Posted | None:
        """Where an earlier attempt has arrived, if there was one and it has."""
        if not delivery.doubtful:
            return None
        try:
            return await self._receiver.find(letter, delivery.claimed_at)
        except DeliveryError as error:
            if not error.permanent:
                raise DeliveryError(
                    str(error), doubtful=True, retry_after=error.retry_after
                ) from error
            _log.warning(
                "cannot tell whether %s has arrived, sending it again: %s", letter.event_id, error
            )
            return None

    async def _delivered(self, letter: Letter, posted: Posted) -> None:
        self.delivered += 1
        self.last_error = None
        await asyncio.to_thread(self._outbox.sent, letter.event_id, posted.channel, posted.ts)
        if letter.head is None:
            return
        try:
            await self._receiver.refresh(letter)
        except DeliveryError as error:
            _log.warning("the first message of %s stays as it was: %s", letter.event_id, error)

    async def _after_error(self, delivery: Delivery, error: DeliveryError) -> None:
        self.last_error = str(error)
        now = self._clock()
        if error.retry_after:
            self._quiet_until = now + error.retry_after
        at = now + max(self._backoff.delay(delivery.attempts), error.retry_after or 0.0)
        if error.permanent or at - delivery.claimed_at > self._backoff.give_up:
            await self._give_up(delivery, str(error))
            return
        _log.warning("message %s will be tried again: %s", delivery.event_id, error)
        await asyncio.to_thread(
            self._outbox.again, delivery.event_id, at, str(error), doubtful=error.doubtful
        )

    async def _give_up(self, delivery: Delivery, reason: str) -> None:
        self.failed += 1
        self.last_error = reason
        _log.error("message %s was not delivered: %s", delivery.event_id, reason)
        await asyncio.to_thread(self._outbox.failed, delivery.event_id, reason)
