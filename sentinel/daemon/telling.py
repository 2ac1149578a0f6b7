"""Who is told of what, and when: routes, silences and inhibitions at work on the messages.

A message is routed in the transaction that writes it. What is kept quiet, or waits for others of
its group, is owed to nobody then, with the reason; once a second `due` says what has to be told
after all, as things stand by then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from sentinel.clock import isoformat
from sentinel.errors import SentinelError
from sentinel.notify import notice
from sentinel.notify.routing import (
    Source,
    Subject,
    Target,
    group_of,
    hushed,
    sources,
    subject,
    targets_of,
)
from sentinel.notify.settings import NotifySettings
from sentinel.store.attention import Telling
from sentinel.store.notices import Message
from sentinel.store.outbox import Owed
from sentinel.store.silences import Silence
from sentinel.store.standing import MAX_STANDING, Standing

log = logging.getLogger("sentinel.daemon")

_WAITS = "waits for others of its group"
_UNSAID = ("acknowledged", "repeated")  # no news that would have to be made up for


@dataclass
class _Known:
    """An incident that people are, or were, told of."""

    subject: Subject
    targets: list[Target]
    sources: tuple[Source, ...]
    run: str
    opened_at: float
    open: bool = True
    acknowledged: bool = False
    told: dict[str, float] = field(default_factory=dict)  # receiver -> when it was owed word of it
    withheld: bool = False  # there is news that nobody was owed
    leader: str | None = None


class Teller:
    """May be called from any thread."""

    def __init__(self, settings: NotifySettings, names: Sequence[str]) -> None:
        """`names`: the receivers that there are."""
        self._settings = settings
        self._names = frozenset(names)
        self._known: dict[str, _Known] = {}
        self._silences: Sequence[Silence] = ()
        self._goes_on: Callable[[str], bool] = lambda _: True
        self._lock = threading.Lock()

    # For the outbox.

    def route(self, message: Message) -> Sequence[Owed]:
        """See `store.outbox.Route`."""
        with self._lock:
            try:
                one = self._take(message)
            except (SentinelError, msgspec.MsgspecError):
                log.exception("an incident cannot be routed, and is told to everybody")
                return [Owed(name) for name in sorted(self._names)]
            owed = self._owed(one, message)
            for each in owed:
                if each.receiver:
                    one.told[each.receiver] = message.at
                    one.withheld = False
                elif each.note and message.kind not in _UNSAID:
                    one.withheld = True
            return owed

    def _owed(self, one: _Known, message: Message) -> list[Owed]:
        if message.to:
            return [Owed(name) for name in message.to]
        if why := self._why_quiet(one, message.at):
            return [Owed("", note=why)]
        told = sorted(self._names & one.told.keys())
        if message.kind in _UNSAID or not one.open:
            return [Owed(name) for name in told]
        if not told and one.targets[0].group_wait > 0.0:
            return [Owed("", note=_WAITS)]
        return [Owed(name) for name in [*told, *self._fresh(one)]]

    def _take(self, message: Message) -> _Known:
        """Learn how the incident of a message stands. Raises when it cannot be read."""
        said = notice.decode(message.payload)
        alerts = msgspec.convert(message.alerts, tuple[notice.Alert, ...]) or said.alerts
        about = subject(said.incident, alerts)
        found = self._known.get(message.incident)
        rules = self._settings.inhibitions
        known = _Known(
            subject=about,
            targets=targets_of(self._settings.route, about),
            sources=sources(about, rules),
            run=message.run,
            opened_at=found.opened_at if found else message.at,
            open=said.incident.state == "open",
            acknowledged=said.incident.acknowledged is not None,
            told=found.told if found else {},
            withheld=found.withheld if found else False,
            leader=said.leader.incident.id if said.leader else None,
        )
        if found is None:
            self._make_room()
            if not known.open:  # from before this process: then all were told that are to be
                known.told = dict.fromkeys(self._fresh(known), message.at)
        self._known[message.incident] = known
        return known

    def _fresh(self, one: _Known) -> list[str]:
        """Those who are to be told of an incident and have not been."""
        wanted = {name for target in one.targets for name in target.receivers}
        return sorted((wanted & self._names) - one.told.keys())

    def _make_room(self) -> None:
        """Forget an incident when there are too many: one that is over, if there is such."""
        if len(self._known) >= MAX_STANDING:
            over = (incident for incident, one in self._known.items() if not one.open)
            del self._known[next(over, next(iter(self._known)))]

    # What keeps incidents quiet.

    def take_silences(self, silences: Sequence[Silence]) -> None:
        """These are the silences that are in force."""
        with self._lock:
            self._silences = silences

    def quiet(self, now: float) -> dict[str, Silence | str]:
        """What keeps open incidents quiet: a silence, or the id of one that inhibits it."""
        with self._lock:
            found = {
                incident: self._hushed(one, now)
                for incident, one in self._known.items()
                if one.open
            }
        return {incident: by for incident, by in found.items() if by is not None}

    def _hushed(self, one: _Known, now: float) -> Silence | str | None:
        rules = self._settings.inhibitions
        if not self._silences and not rules:
            return None
        inhibitors = {
            incident: other.sources
            for incident, other in self._known.items()
            if other.open and self._goes_on(other.run)
        }
        return hushed(one.subject, self._silences, inhibitors, rules, now)

    def _why_quiet(self, one: _Known, now: float) -> str:
        return in_words(self._hushed(one, now))

    # What is to be told after all.

    def recover(self, standing: Iterable[Standing]) -> None:
        """Learn how incidents stand by the record, at start or when it was changed."""
        with self._lock:
            for entry in standing:
                incident = entry.message.incident
                try:
                    one = self._take(entry.message)
                except (SentinelError, msgspec.MsgspecError):
                    log.exception("incident %s cannot be read", incident)
                    continue
                one.opened_at = entry.opened_at
                one.told = {**entry.told}
                one.withheld = entry.withheld

    def due(
        self, now: float, goes_on: Callable[[str], bool], *, hurry: bool = False
    ) -> list[Telling]:
        """What is to be told now. `hurry`: also what waits for its group, for this is the end.

        `goes_on` says whether a run does: only its incident is told again, and inhibits others.
        """
        with self._lock:
            self._goes_on = goes_on
            late = self._late(now, hurry)
            for telling in late:
                for incident in (telling.incident, *telling.others):
                    self._note(incident, telling.to, now)
                for incident in telling.others:
                    self._known[incident].leader = telling.incident
            news = [one for one in [*self._known.items()] if self._has_news(one[1], now)]
            tellings = [*late, *(self._news(incident, one, now) for incident, one in news)]
            for incident, one in [*self._known.items()]:
                if again := self._again(one, now):
                    self._note(incident, again, now)
                    tellings.append(Telling(incident, "repeated", again, now))
            return tellings

    def _late(self, now: float, hurry: bool) -> list[Telling]:
        """First messages, one for each group."""
        groups: dict[tuple[object, ...], list[tuple[str, _Known]]] = {}
        for incident, one in self._known.items():
            if one.open and one.withheld and self._fresh(one) and not self._hushed(one, now):
                if self._names & one.told.keys():
                    continue
                group = group_of(one.targets[0], one.subject)
                groups.setdefault(group, []).append((incident, one))
        tellings = []
        for members in groups.values():
            members.sort(key=lambda member: member[1].opened_at)
            first = members[0][1]
            if hurry or now >= first.opened_at + first.targets[0].group_wait:
                to = sorted({name for _, one in members for name in self._fresh(one)})
                ids = [incident for incident, _ in members]
                tellings.append(Telling(ids[0], "opened", tuple(to), now, tuple(ids[1:])))
        return tellings

    def _has_news(self, one: _Known, now: float) -> bool:
        return bool(one.withheld and self._names & one.told.keys()) and not self._hushed(one, now)

    def _news(self, incident: str, one: _Known, now: float) -> Telling:
        told = tuple(sorted(self._names & one.told.keys()))
        to = (*told, *self._fresh(one)) if one.open else told
        self._note(incident, to, now)
        return Telling(incident, "updated" if one.open else "resolved", to, now)

    def _again(self, one: _Known, now: float) -> tuple[str, ...]:
        """Those who are to be reminded of an incident."""
        if not one.open or one.acknowledged or one.withheld or not self._goes_on(one.run):
            return ()
        leader = self._known.get(one.leader or "")
        if leader is not None and leader.open and not leader.acknowledged:
            return ()  # its message tells of this one too
        again = []
        for name in self._names & one.told.keys():
            every = [
                target.repeat_interval
                for target in one.targets
                if name in target.receivers and target.repeat_interval > 0.0
            ]
            if every and now >= one.told[name] + min(every):
                again.append(name)
        return tuple(sorted(again)) if again and not self._hushed(one, now) else ()

    def _note(self, incident: str, to: Iterable[str], now: float) -> None:
        if one := self._known.get(incident):
            one.told |= dict.fromkeys(to, now)
            one.withheld = False


def in_words(quiet: Silence | str | None) -> str:
    """Why nobody is told, in words; nothing where nothing keeps it quiet."""
    if quiet is None:
        return ""
    if isinstance(quiet, str):
        return f"inhibited by incident {quiet}"
    return f"silenced by {quiet.by} until {isoformat(quiet.until)} (silence {quiet.id})"
