"""Works off the outbox: one message after the other, until it has arrived or cannot.

1. Claim the next row that is due (committed before anything is sent).
2. If an earlier attempt may have arrived, ask the receiver; if it has, that is that.
3. If it comes late, fold into it what came after it, where the receiver is content with the
   present state, and have it say that it is late.
4. Deliver it; mark it sent, due again later, or failed with the reason.
5. After a later message of an incident, bring its first message up to date, if that works.

While attempts fail the receiver is left alone for ever longer, and asked whether it is well before
it is sent anything: its messages then keep their order, and it gets no post whose fate nobody
knows. When it is back, all that waits is due.

Nothing waits for this: who writes to the outbox only calls `wake`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from sentinel.clock import steady
from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify.late import TIME_TO_LIVE, remark
from sentinel.notify.notice import read
from sentinel.notify.receiver import Letter, Place, Posted, Receiver

_log = logging.getLogger(__name__)
_SOON = 1.5  # s; what is due by then is waited for at the end
_LONGEST_SLEEP = 60.0  # s
_CLOCK_SKEW = 7200.0  # s between our clock, which may be set, and a receiver's


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
    def created_at(self) -> float: ...
    @property
    def due_at(self) -> float: ...
    @property
    def claimed_at(self) -> float: ...
    @property
    def head(self) -> Place | None: ...


class Outbox(Protocol):
    """Where messages come from; see sentinel.store.outbox.Outbox. No method raises."""

    def claim(self, receiver: str, now: float) -> Delivery | None: ...
    def next_due(self, receiver: str) -> float | None: ...
    def fold(self, event_id: str, now: float) -> Delivery: ...
    def hasten(self, receiver: str, now: float) -> None: ...
    def expire(self, receiver: str, before: float, error: str) -> int: ...
    def sent(self, event_id: str, channel: str, ts: str) -> None: ...
    def again(self, event_id: str, at: float, error: str, *, doubtful: bool) -> None: ...
    def failed(self, event_id: str, error: str, *, doubtful: bool = False) -> None: ...


@dataclass(frozen=True)
class Backoff:
    """Seconds between attempts: any time up to a bound that doubles from `first` to `longest`.

    A message is given up after `give_up`. A receiver that fails is asked whether it is well after
    `longest_pause` at the latest: that costs it one request. The time is drawn from all of the
    range ("full jitter": M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015),
    so that daemons whose receiver went down together do not come back together.
    """

    first: float = 2.0
    longest: float = 900.0
    longest_pause: float = 60.0
    give_up: float = 86_400.0

    def bound(self, attempts: int) -> float:
        """How long to wait at most after so many attempts."""
        return min(self.longest, self.first * 2.0 ** min(attempts - 1, 60))

    def pause(self, failures: int) -> float:
        """How long to leave a receiver alone at most after so many failures in a row."""
        return min(self.longest_pause, self.bound(failures))


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
        pages: str = "",
        clock: Callable[[], float] = steady,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`pages`: where its readers have the daemon's pages, if anywhere; `chance` draws from
        [0, 1), for the jitter."""
        self.delivered = 0
        self.failed = 0
        self.last_error: str | None = None
        self._outbox = outbox
        self._receiver = receiver
        self._pages = pages
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._began = clock()
        self._failures = 0  # since a message was last delivered
        self._down = False  # whether it was not well when it was last asked
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
            await self.work_off()
            await self._news_within(await self._until_due())

    async def work_off(self) -> None:
        """Deliver what is due now, as far as the receiver lets us."""
        while (
            self._clock() >= self._quiet_until
            and await self._is_well()
            and await self._deliver_next()
        ):
            pass

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

    async def _is_well(self) -> bool:
        """Ask a receiver that has failed, where something waits for it."""
        if not self._failures or await self._until_due() > 0.0:
            return True
        try:
            await self._receiver.check()
        except DeliveryError as error:
            if not error.permanent:  # if it is, each message is to fail with the reason
                await self._stay_away(error)
                return False
        except Exception:  # noqa: BLE001 (a fault in answering is no reason to send it nothing)
            _log.exception("%s cannot say whether it is well", self._receiver.name)
        if self._down:
            self._down = False
            await asyncio.to_thread(self._outbox.hasten, self._receiver.name, self._clock())
        return True

    async def _stay_away(self, error: DeliveryError) -> None:
        """The receiver is down: leave it alone, and give up what has waited for too long."""
        self._down = True
        self._failures += 1
        self.last_error = str(error)
        now = self._clock()
        wait = self._chance() * self._backoff.pause(self._failures)
        self._quiet_until = now + max(wait, error.retry_after or 0.0)
        if now - self._began > self._backoff.give_up:
            before = now - self._backoff.give_up
            self.failed += await asyncio.to_thread(
                self._outbox.expire, self._receiver.name, before, str(error)
            )

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
            letter = self._letter(delivery)
            posted = await self._find(letter, delivery)
            if posted is None:
                letter = await self._brought_up_to_date(letter, delivery)
                posted = await self._receiver.deliver(letter)
        except DeliveryError as error:
            await self._after_error(delivery, error)
        except SentinelError as error:
            await self._give_up(delivery, DeliveryError(str(error)))
        except asyncio.CancelledError:
            self._outbox.again(delivery.event_id, 0.0, "interrupted", doubtful=True)
            raise
        except Exception as error:  # noqa: BLE001 (a receiver's fault must not end all delivery)
            _log.exception("delivering %s failed unexpectedly", delivery.event_id)
            await self._after_error(delivery, DeliveryError(repr(error), doubtful=True))
        else:
            await self._delivered(letter, posted)

    def _letter(self, delivery: Delivery) -> Letter:
        """Raises `SentinelError` when the message cannot be read."""
        notice = read(delivery).with_pages(self._pages)
        return Letter(delivery.event_id, delivery.kind, notice, delivery.head)

    async def _brought_up_to_date(self, letter: Letter, delivery: Delivery) -> Letter:
        """The letter as it is to be sent now: what comes late says so."""
        now = self._clock()
        if now - delivery.due_at <= TIME_TO_LIVE:
            return letter
        news = letter.head is None and letter.kind == "opened"
        opened = delivery.created_at if news else None
        if self._receiver.folds:
            delivery = await asyncio.to_thread(self._outbox.fold, delivery.event_id, now)
            letter = self._letter(delivery)
        return replace(letter, late=remark(letter.notice, opened, now))

    async def _find(self, letter: Letter, delivery: Delivery) -> Posted | None:
        """Where an earlier attempt has arrived, if there was one and it has."""
        if not delivery.doubtful:
            return None
        try:
            since = min(delivery.created_at, self._clock()) - _CLOCK_SKEW
            return await self._receiver.find(letter, since)
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
        self._failures = 0
        await asyncio.to_thread(self._outbox.sent, letter.event_id, posted.channel, posted.ts)
        if letter.head is None:
            return
        try:
            await self._receiver.refresh(_about_head(letter))
        except DeliveryError as error:
            _log.warning("the first message of %s stays as it was: %s", letter.event_id, error)

    async def _after_error(self, delivery: Delivery, error: DeliveryError) -> None:
        now = self._clock()
        self._failures += not error.permanent
        wait, chance = error.retry_after or 0.0, self._chance()
        at = now + max(wait, chance * self._backoff.bound(delivery.attempts))
        tried_since = max(delivery.claimed_at, self._began)
        if error.permanent or at - tried_since > self._backoff.give_up:
            await self._give_up(delivery, error)
            return
        self.last_error = str(error)
        self._quiet_until = now + max(wait, chance * self._backoff.pause(self._failures))
        _log.warning("message %s will be tried again: %s", delivery.event_id, error)
        await asyncio.to_thread(
            self._outbox.again, delivery.event_id, at, str(error), doubtful=error.doubtful
        )

    async def _give_up(self, delivery: Delivery, error: DeliveryError) -> None:
        self.failed += 1
        self.last_error = str(error)
        _log.error("message %s was not delivered: %s", delivery.event_id, error)
        await asyncio.to_thread(
            self._outbox.failed, delivery.event_id, str(error), doubtful=error.doubtful
        )


def _about_head(letter: Letter) -> Letter:
    """The letter as its first message has to show it, which may be about another incident."""
    leader = letter.notice.leader
    if (
        leader is not None
        and letter.head is not None
        and letter.head.incident == leader.incident.id
    ):
        return replace(letter, notice=leader)
    return letter
