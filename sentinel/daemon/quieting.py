"""What people say about incidents: that they look after one, and what they want no word of.

Each method comes back with one sentence for the person, once it is on the record, and raises
`ControlError` when it cannot be done and `StateError` when it could not be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sentinel import clock
from sentinel.clock import isoformat
from sentinel.daemon.ledger import Ledger
from sentinel.daemon.news import AcknowledgedNews, News
from sentinel.daemon.telling import Teller, in_words
from sentinel.duration import in_words as long
from sentinel.errors import ControlError
from sentinel.matcher import MAX_MATCHERS, Matcher, checked, match_everything
from sentinel.store.shapes import IncidentJSON
from sentinel.store.silences import Silence
from sentinel.store.store import Store

LONGEST = 90 * 86_400.0  # s
MAX_COMMENT = 500  # characters


class Quieting:
    """Acknowledging and silencing."""

    def __init__(
        self, ledger: Ledger, store: Store, teller: Teller, tell: Callable[[News], None]
    ) -> None:
        """`tell` hears what those who look on are to know. Raises `StateError` when the record
        cannot be read."""
        self._ledger = ledger
        self._store = store
        self._teller = teller
        self._tell = tell
        now = clock.steady()
        teller.take_silences(store.silences.active(now))
        teller.recover(store.standing())

    async def acknowledge(self, incident_id: str, by: str) -> str:
        """Note that somebody looks after an incident: it is not repeated."""

        def acknowledge() -> IncidentJSON:
            return self._store.acknowledge(incident_id, by, at)

        at = clock.steady()
        try:
            incident = await self._ledger.call(acknowledge)
        except LookupError:
            raise ControlError(f"there is no incident {incident_id!r}") from None
        found = incident["acknowledged"]
        which = f"incident {incident_id} of run {incident['run']}"
        if found is None:
            raise ControlError(f"{which} is {incident['state']}: nothing is to be acknowledged")
        if found["at"] != isoformat(at) or found["by"] != by:
            return f"{which} was acknowledged by {found['by']} already, {found['at']}"
        self._tell(AcknowledgedNews(incident["run"], incident_id, incident["severity"], by))
        return f"{which} is acknowledged by {by}: it will not be repeated"

    async def silence(
        self, matchers: Sequence[Matcher], seconds: float, by: str, comment: str
    ) -> str:
        """Tell nobody of what matches all of these, for so many seconds from now."""
        silence = await self.add(matchers, seconds, by, comment)
        until = f"silence {silence.id} until {isoformat(silence.until)} ({long(seconds)})"
        if match_everything(matchers):
            return f"{until}: it matches EVERYTHING, nobody is told of any incident"
        return f"{until}: {', '.join(map(str, matchers))}"

    async def add(
        self, matchers: Sequence[Matcher], seconds: float, by: str, comment: str
    ) -> Silence:
        """As `silence`; returns what is on the record."""
        if not 0 < seconds <= LONGEST:
            raise ControlError(f"a silence lasts for up to {LONGEST / 86_400:g} days")
        if not 0 < len(matchers) <= MAX_MATCHERS:
            raise ControlError(f"a silence has 1 to {MAX_MATCHERS} matchers, not {len(matchers)}")
        if len(comment) > MAX_COMMENT:
            raise ControlError(f"a comment has up to {MAX_COMMENT} characters")
        for matcher in matchers:
            checked(matcher)
        at = clock.steady()

        def add() -> Silence:
            made = self._store.silences.add(
                matchers, until=at + seconds, by=by, comment=comment, at=at
            )
            self._changed(at)
            return made

        return await self._ledger.call(add)

    async def end(self, silence_id: int, by: str) -> Silence:
        """End a silence before its time."""

        def end() -> Silence:
            now = clock.steady()
            ended = self._store.silences.end(silence_id, by=by, at=now)
            self._changed(now)
            return ended

        try:
            return await self._ledger.call(end)
        except LookupError:
            raise ControlError(f"no silence {silence_id} is in force") from None

    async def why_quiet(self, incidents: Sequence[IncidentJSON]) -> None:
        """Say of incidents what keeps them quiet now, if anything does."""
        now = clock.steady()
        found = await asyncio.to_thread(self._teller.quiet, now)
        for incident in incidents:
            by = found.get(incident["id"])
            if isinstance(by, str):
                incident["inhibited_by"] = by
            elif by is not None:
                incident["silenced"] = {
                    "id": by.id,
                    "by": by.by,
                    "until": isoformat(by.until),
                    "comment": by.comment,
                }

    def _changed(self, now: float) -> None:
        """There are other silences: what nobody has tried to send yet is withdrawn."""
        self._teller.take_silences(self._store.silences.active(now))
        quiet = self._teller.quiet(now)
        for incident, by in quiet.items():
            self._store.outbox.withdraw(incident, in_words(by))
        self._teller.recover(self._store.standing(quiet))

    async def silences(self, *, ended: bool = False) -> list[Silence]:
        """Those that are in force, or (`ended`) all there ever were; oldest first."""
        silences = self._store.silences
        return await self._ledger.call(
            silences.all if ended else lambda: silences.active(clock.steady())
        )
