"""What a press on a button does: looked at, put on the record, carried out, answered.

An order takes the way that every order takes; acknowledging and silencing take theirs. What a
button was offered for has to be so still, and presses are carried out one after the other, so that
of two people one is told that the other was faster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from sentinel import clock, wire
from sentinel.clock import isoformat
from sentinel.control.record import Action
from sentinel.daemon.offering import Offering
from sentinel.daemon.operator import Operator
from sentinel.daemon.orders import Request
from sentinel.daemon.service import Service
from sentinel.daemon.situation import overtaken, situation, step_of
from sentinel.errors import DeliveryError, SentinelError, StateError
from sentinel.matcher import Matcher
from sentinel.notify.blocks import escape
from sentinel.notify.buttons import HALF, SILENCE_FOR, Situation
from sentinel.notify.notice import Notice
from sentinel.notify.plain import plain
from sentinel.notify.press import Press
from sentinel.notify.receiver import Posted
from sentinel.notify.socket_mode import Work, whisper
from sentinel.store.presses import PressRow, PressState
from sentinel.store.silences import Silence

log = logging.getLogger("sentinel.daemon")

_ANSWER = 1000  # characters
_LOOKS, _BETWEEN = 10, 0.1  # times, s: for a message that is not known
_ORDERS: Mapping[str, Action] = {
    "resume": "resume",
    "resume_half": "resume",
    "rollback": "resume",
    "stop": "stop",
}
_ASKED = {
    "resume": "to be resumed",
    "resume_half": "to be resumed at half the learning rate",
    "rollback": "to be rolled back",
    "stop": "to be stopped",
}


class RefusedError(SentinelError):
    """A press that does nothing, and why."""


class Presses:
    """All presses on the buttons of one daemon.

    `app` and `team` tell Slack's ids of the app and of the workspace that belong to an offering,
    or nothing while they are not known.
    """

    def __init__(
        self,
        service: Service,
        offerings: Sequence[Offering],
        *,
        app: Callable[[Offering], str],
        team: Callable[[Offering], str],
    ) -> None:
        self._service = service
        self._operator = Operator(service)
        self._offerings = {one.receiver.name: one for one in offerings}
        self._app, self._team = app, team
        self._turn = asyncio.Lock()

    async def situation(self, notice: Notice) -> Situation:
        """How the run and the incident of a message stand at this moment."""
        incident, done = notice.incident, set()
        if incident.acknowledged is not None:
            done.add("acknowledge")
        try:
            if await self._silenced(incident.run, incident.cause.rule):
                done.add("silence")
        except StateError as error:
            log.debug("what is silenced is not known: %s", error)
        return situation(self._service.runs.get(incident.run), notice, done)

    async def take(self, press: Press) -> Work:
        """See `socket_mode.Taker`."""
        try:
            found = await self._offering(press)
            self._check(press, found)
            run = self._service.runs.get(press.offer.run)
            row = PressRow(
                id=press.id,
                run=press.offer.run,
                incident=press.offer.incident,
                button=press.kind,
                by=press.by,
                receiver=found.receiver.name,
                channel=press.channel,
                ts=press.ts,
                step=step_of(run) if run else 0,
                at=clock.steady(),
            )
            take = partial(self._service.store.take_press, row)
            if not await self._service.ledger.call(take):
                return _nothing  # delivered again: it was answered, or will be
        except RefusedError as error:
            return partial(whisper, press, str(error))
        except StateError as error:
            why = f"this could not be put on the record, so nothing was done: {error}"
            return partial(whisper, press, _shown(why))
        return partial(self._carry_out, press, found)

    async def _offering(self, press: Press) -> Offering:
        """Whose message it is under. Raises `RefusedError`, `StateError`."""
        whose = partial(self._service.store.outbox.whose, press.channel, press.ts)
        for _ in range(_LOOKS):  # a message may be seen before it is on the record as sent
            name = await self._service.ledger.call(whose)
            if (found := self._offerings.get(name or "")) is not None:
                return found
            await asyncio.sleep(_BETWEEN)
        raise self._turned_away(press, "no message of this daemon's has this button")

    def _check(self, press: Press, found: Offering) -> None:
        """Whether this person may. Raises `RefusedError`, on the record."""
        for here, theirs in ((self._app(found), press.app), (self._team(found), press.team)):
            if here and theirs and here != theirs:
                raise self._turned_away(press, f"it came from {theirs}, where {here} was expected")
        if press.user not in found.users:
            who = ", ".join(f"<@{user}>" for user in found.users)
            self._turned_away(press, "not one of those who may press buttons")
            raise RefusedError(f"Nothing was done: only {who} may press these buttons.")

    def _turned_away(self, press: Press, why: str) -> RefusedError:
        self._service.refusals.note(
            "button",
            press.by,
            f"press {press.kind}",
            why,
            known=f"slack:{press.user}",
            run=press.offer.run,
        )
        return RefusedError(_shown(f"nothing was done: {why}"))

    # The work, once Slack was told that the press was taken.

    async def _carry_out(self, press: Press, found: Offering) -> None:
        state: PressState = "refused"
        tell: Callable[[str], Awaitable[None]] = partial(self._whisper, press)
        in_thread = partial(self._reply, press, found)
        async with self._turn:
            try:
                if press.kind in _ORDERS:
                    answer = await self._order(press)
                elif press.kind == "acknowledge":
                    quieting = self._service.quieting
                    answer = await quieting.acknowledge(press.offer.incident, press.by)
                else:
                    answer, tell = await self._silence(press), in_thread
                state = "done"
            except RefusedError as error:
                answer = f"nothing was done: {error}"
            except SentinelError as error:
                answer, tell = f"nothing was done: {error}", in_thread
            except Exception:
                self._service.counts.faults += 1
                log.exception("a press on %s failed", press.kind)
                answer = "this failed inside the daemon; its log has the reason"
            await self._settle(press.id, state, answer)
        await tell(answer)

    async def _order(self, press: Press) -> str:
        run = self._service.runs.get(press.offer.run)
        if run is not None and run.active:
            recorded = partial(self._service.store.actions, run.name)
            actions = await self._service.ledger.call(recorded)
            if why := overtaken(run, press.offer.stands, actions):
                raise RefusedError(why)
        remedies = wire.Remedies(
            lr_scale=HALF if press.kind == "resume_half" else 1.0,
            rollback=press.offer.tag if press.kind == "rollback" else "",
        )
        asked = Request(_ORDERS[press.kind], press.by, remedies)
        await self._operator.order(press.offer.run, asked)
        return f"run {press.offer.run} was asked {_ASKED[press.kind]}; the thread says what comes"

    async def _silence(self, press: Press) -> str:
        offer = press.offer
        if (before := await self._silenced(offer.run, offer.rule)) is not None:
            raise RefusedError(
                f"this was already silenced by {before.by}, until {isoformat(before.until)}"
            )
        comment = f"by a button under incident {offer.incident}"
        return await self._service.quieting.silence(
            _matchers(offer.run, offer.rule), SILENCE_FOR, press.by, comment
        )

    async def _silenced(self, run: str, rule: str) -> Silence | None:
        """The silence that this button would make, if there is one. Raises `StateError`."""
        matchers = {*_matchers(run, rule)}
        active = await self._service.quieting.silences()
        return next((one for one in active if {*one.matchers} == matchers), None)

    async def _settle(self, press_id: str, state: PressState, answer: str) -> None:
        """Put on the record what came of it; if that fails, the next start says that it is lost."""
        settle = partial(self._service.store.settle_press, press_id, state, answer, clock.steady())
        try:
            await self._service.ledger.call(settle)
        except StateError as error:
            log.error("what came of press %s is not on the record: %s", press_id, error)

    async def _whisper(self, press: Press, answer: str) -> None:
        await whisper(press, _shown(answer))

    async def _reply(self, press: Press, found: Offering, answer: str) -> None:
        """Say it in the thread, to everybody; to the one who pressed where that fails."""
        text = f"<@{press.user}>: {_shown(answer)}"
        try:
            await found.receiver.reply(Posted(press.channel, press.ts), text)
        except DeliveryError as error:
            log.warning("the thread was not told what came of a press: %s", error)
            await whisper(press, text)

    # What the last daemon left behind.

    async def left_behind(self) -> list[PressRow]:
        """Presses that were taken just before the last daemon ended. Ask before any is taken."""
        try:
            return await self._service.ledger.call(self._service.store.unsettled_presses)
        except StateError as error:
            log.error("whether a press was lost is not known: %s", error)
            return []

    async def say_what_was_lost(self, left: Sequence[PressRow]) -> None:
        """Tell of these in their threads."""
        for row in left:
            answer = (
                f"a press on {row.button} by {row.by} was taken just before the daemon ended: it "
                "may not have been carried out. The first message shows how the run stands now."
            )
            await self._settle(row.id, "lost", answer)
            found = self._offerings.get(row.receiver)
            if found is not None:
                try:
                    await found.receiver.reply(Posted(row.channel, row.ts), _shown(answer))
                except DeliveryError as error:
                    log.warning("%s (nobody was told: %s)", answer, error)


def _matchers(run: str, rule: str) -> list[Matcher]:
    return [Matcher("run", run), Matcher("rule", rule)]


async def _nothing() -> None:
    """It is done already."""


def _shown(text: str) -> str:
    """As Slack shows it: with nothing in it that Slack obeys."""
    line = plain(text, _ANSWER)
    return escape(line[:1].upper() + line[1:])
