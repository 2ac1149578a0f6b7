"""Where the processes stand that a hang is about: who is asked for it, and what they answer.

1. An incident has a hang for its cause, or takes one in: the rank that is blamed is asked, and
   the lowest of those that wait for it; where nobody is to blame, the two lowest that wait.
2. When all have answered, or time is up, what is known becomes evidence, all at once: people are
   told of it once. A hang that an incident with another cause has taken in follows from that:
   its stacks are kept, and no news.
3. An answer that comes later still is evidence too.

Who has been asked once is asked again only when another rank is blamed.
"""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.engine.hang import HANGS, left_early, waiting
from sentinel.engine.incident import Incidents
from sentinel.engine.language.expression import RANK_AXIS
from sentinel.engine.open_incident import OpenIncident
from sentinel.engine.roster import RankState, Roster
from sentinel.engine.transition import AlertChanged, Evidence, IncidentChanged, Transition
from sentinel.wire import Stack, StackRequest

ANSWER_WITHIN = 10.0  # s
MAX_EARLY = 4  # ranks that have left and are named
TIMES = 2  # that a rank is asked in one incident
SPEAKS = (1, 3)  # the version of the protocol from which on a rank can answer
NO_ANSWER = (
    "does not answer: stopped, swapped out, or in native code that holds the interpreter's lock?"
)
GONE = "left before it could say where it stood"
_Subject = tuple[int | None]  # the rank that is blamed, if one is


class Inquiry:
    """The inquiry into the hang that the open incident of a run is about, if it is about one."""

    def __init__(self, roster: Roster, incidents: Incidents) -> None:
        self._roster = roster
        self._incidents = incidents
        self._forget("")

    def _forget(self, incident: str) -> None:
        self._incident = incident
        self._subject: _Subject | None = None  # whom the incident blames for a hang
        self._is_cause = False  # and that is what it is about
        self._begun: _Subject | None = None  # for which ranks have been asked
        self._times: dict[int, int] = {}
        self._since = 0.0
        self._open: list[int] = []  # asked, and not answered
        self._late: set[int] = set()  # those of them who are waited for no longer
        self._found: dict[int, Evidence] = {}  # what is not told yet
        self._questions: list[tuple[int, StackRequest]] = []

    def note(self, told: Sequence[Transition]) -> None:
        """The engine has told this."""
        for change in told:
            if isinstance(change, IncidentChanged):
                if change.change == "resolved" or change.id != self._incident:
                    self._forget("" if change.change == "resolved" else change.id)
                if change.change != "resolved" and change.cause.signal in HANGS:
                    self._subject, self._is_cause = (change.cause.rank,), True
            elif isinstance(change, AlertChanged):
                self._alerted(change)

    def _alerted(self, alert: AlertChanged) -> None:
        """Of several hangs that are not the cause, the first counts."""
        if alert.state == "firing" and alert.signal in HANGS and self._subject is None:
            rank = alert.labels.get(RANK_AXIS)
            self._subject = (None if rank is None else int(rank),)

    def adopt(self, incident: OpenIncident) -> None:
        """Go on with an incident that an earlier daemon opened; whom that has heard, it knows."""
        self._forget(incident.id)
        if incident.cause.signal in HANGS:
            self._subject, self._is_cause = (incident.cause.rank,), True
        for alert in incident.alerts:
            self._alerted(alert)
        if any(one.kind == "stack" for one in incident.evidence):
            self._begun = self._subject

    def questions(self) -> list[tuple[int, StackRequest]]:
        """Whom to ask what now; each is told once."""
        asked, self._questions = self._questions, []
        return asked

    def tick(self, now: float) -> list[Transition]:
        """Time has passed."""
        if self._subject is not None and self._begun != self._subject:
            self._ask(self._subject, now)
        if self._open and now - self._since >= ANSWER_WITHIN:
            self._give_up()
        return self._tell(now) if self._found and not self._open else []

    def answered(self, rank: int, stack: Stack, now: float) -> list[Transition]:
        """A rank says where it stands; what nobody has asked for is passed over."""
        if stack.incident != self._incident or rank not in {*self._open, *self._late}:
            return []
        assert self._begun is not None
        verb = "stands" if rank == self._begun[0] else "waits"
        title = f"rank {rank} {verb} in {_plain(stack.place)}"
        evidence = Evidence("stack", title, _plain(stack.text), rank)
        if rank in self._late:
            self._late.discard(rank)
            return self._incidents.found([evidence], now, silent=not self._is_cause)
        self._open.remove(rank)
        self._found[rank] = evidence
        return [] if self._open else self._tell(now)

    def _ask(self, subject: _Subject, now: float) -> None:
        """Ask, as soon as it is known whom."""
        (blamed,) = subject
        state = None if blamed is None else self._roster.ranks.get(blamed)
        if blamed is not None and (state is None or not state.connected):
            return  # it is gone: there is nobody to ask, and nothing to wait for
        others = waiting(self._roster, blamed, now)
        first = others[:2] if blamed is None else [blamed, *others[:1]]
        if not others and not (state is not None and _is_silent(state, now)):
            return  # right after a start, nothing is known of collectives yet
        self._begun, self._since = subject, now
        self._late.update(self._open)
        able = [rank for rank in first if self._roster.ranks[rank].version >= SPEAKS]
        self._open = [rank for rank in able if self._times.get(rank, 0) < TIMES]
        for rank in self._open:
            self._late.discard(rank)
            self._times[rank] = self._times.get(rank, 0) + 1
            self._questions.append((rank, StackRequest(self._incident)))

    def _give_up(self) -> None:
        """Wait no longer, and say so."""
        for rank in self._open:
            state = self._roster.ranks.get(rank)
            why = NO_ANSWER if state is not None and state.connected else GONE
            self._found[rank] = Evidence("stack", f"rank {rank} {why}", rank=rank)
        self._late.update(self._open)
        self._open = []

    def _tell(self, now: float) -> list[Transition]:
        """The blamed rank first."""
        assert self._begun is not None
        blamed = self._begun[0]
        ranks = sorted(self._found, key=lambda rank: (rank != blamed, rank))
        evidence, self._found = [self._found[rank] for rank in ranks], {}
        early = left_early(self._roster) if blamed is None else []
        found = [*map(_early, early[:MAX_EARLY]), *evidence]
        return self._incidents.found(found, now, silent=not self._is_cause)


def _early(left: RankState) -> Evidence:
    title = f"rank {left.rank} has left ({left.goodbye}) before the collective the others stand in"
    return Evidence("comparison", title, rank=left.rank)


def _is_silent(state: RankState, now: float) -> bool:
    return now - state.last_seen > ANSWER_WITHIN


def _plain(text: str) -> str:
    """Printable characters, in lines."""
    lines = text.split("\n")
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
