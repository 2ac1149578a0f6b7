"""What packs of rules make of a past run: which alerts, when, for how long; what is not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sentinel.engine.rule import Rule
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import ActionWanted, AlertChanged, Transition
from sentinel.replay.messages import Moment, Replay
from sentinel.replay.past import Past
from sentinel.wire import Frame

MOST = 100_000  # alerts of one run and pack that are kept; all are counted
TOGETHER = 10  # rows within which two packs' alerts of one rule are the same finding

_Identity = tuple[str, tuple[tuple[str, str], ...]]
Look = Callable[[RunEngine], None]


@dataclass
class Episode:
    """One alert from where it began to fire, after `row` rows, to where it resolved.

    `until` is the step and the row at which it did, or None if it still fired at the end.
    `seconds` is how long that took.
    """

    alert: AlertChanged
    row: int
    until: tuple[int, int] | None = None
    seconds: float = 0.0


@dataclass
class Trial:
    """One pack on one run.

    `wanted` are the actions that it would have asked for, with the row. `blind` names the rules
    that could not come true, whatever happened: what they ask for is not there.
    """

    pack: str
    episodes: list[Episode] = field(default_factory=list)  # the first MOST of them
    by_rule: Counter[str] = field(default_factory=Counter)  # how often each began to fire
    wanted: list[tuple[int, ActionWanted]] = field(default_factory=list)  # likewise
    asked: Counter[str] = field(default_factory=Counter)  # how often for which action
    blind: tuple[str, ...] = ()

    @property
    def alerts(self) -> int:
        """How many alerts began to fire."""
        return self.by_rule.total()

    @property
    def pauses(self) -> int:
        """How often a pause would have been asked for."""
        return self.asked["pause"]


class Backtest:
    """All packs on one run, which is read once. `trials` has what came of each.

    `rows` are steps of one rank: of the one that told of most.
    """

    def __init__(self, past: Past, packs: Mapping[str, Sequence[Rule]]) -> None:
        self.run = past.run
        self.has_clock = past.clock
        self.rows = 0
        self.first_step: int | None = None
        self.last_step = 0
        self.world_size = 0
        self.trials = [Trial(pack) for pack in packs]
        self.progress = past.progress
        self.notes = past.notes
        self._past = past
        self._rules = list(packs.values())
        self._rows_of: dict[int, int] = {}
        self._firing: list[dict[_Identity, Episode]] = [{} for _ in packs]

    def go(self, look: Look | None = None) -> Iterator[tuple[str, AlertChanged]]:
        """Replay it: the alerts that begin to fire, as they do, each with its pack.

        `look` is called with the first pack's engine after every moment. Raises `ReplayError`.
        """
        past = self._past
        replays = [Replay(past.run, rules, clock=past.clock) for rules in self._rules]
        try:
            for moment in past.moments:
                self._count(moment)
                for trial, firing, replay in zip(self.trials, self._firing, replays, strict=True):
                    told = replay.take(moment)
                    if told:
                        yield from self._note(trial, firing, told)
                if look is not None:
                    look(replays[0].engine)
        finally:
            self.world_size = replays[0].engine.world_size
            for trial, replay, rules in zip(self.trials, replays, self._rules, strict=True):
                trial.blind = self._blind(replay.engine, rules)

    @property
    def found(self) -> bool:
        """Whether any alert has fired."""
        return any(trial.by_rule for trial in self.trials)

    def _count(self, moment: Moment) -> None:
        frame = moment.message
        if isinstance(frame, Frame) and not frame.partial:
            rows = self._rows_of[moment.rank] = self._rows_of.get(moment.rank, 0) + 1
            self.rows = max(self.rows, rows)
            self.last_step = frame.step
            if self.first_step is None:
                self.first_step = frame.step

    def _note(
        self, trial: Trial, firing: dict[_Identity, Episode], told: Sequence[Transition]
    ) -> Iterator[tuple[str, AlertChanged]]:
        for one in told:
            if isinstance(one, ActionWanted):
                trial.asked[one.action] += 1
                if len(trial.wanted) < MOST:
                    trial.wanted.append((self.rows, one))
            elif isinstance(one, AlertChanged):
                identity = (one.rule, tuple(one.labels.items()))
                if one.state == "firing":
                    episode = firing[identity] = Episode(one, self.rows)
                    trial.by_rule[one.rule] += 1
                    if len(trial.episodes) < MOST:
                        trial.episodes.append(episode)
                    yield trial.pack, one
                elif over := firing.pop(identity, None):
                    over.until = (self.last_step, self.rows)
                    over.seconds = one.at - over.alert.at

    def _blind(self, engine: RunEngine, rules: Sequence[Rule]) -> tuple[str, ...]:
        blind = {one.rule for one in engine.coverage().rules if one.state == "blind"}
        if not self.has_clock:
            blind |= {rule.name for rule in rules if rule.expression.when == "tick"}
        return tuple(rule.name for rule in rules if rule.name in blind)


@dataclass(frozen=True)
class Agreement:
    """What two packs found: the same (`both`), or only the one or the other of them."""

    both: int
    only: tuple[tuple[Episode, ...], tuple[Episode, ...]]


def agreement(one: Trial, other: Trial) -> Agreement:
    """Match alerts of one rule, in their order, that began to fire within `TOGETHER` rows."""
    both, only = 0, ([], [])  # type: tuple[int, tuple[list[Episode], list[Episode]]]
    for rule in {**one.by_rule, **other.by_rule}:
        left = [episode for episode in one.episodes if episode.alert.rule == rule]
        right = [episode for episode in other.episodes if episode.alert.rule == rule]
        while left and right:
            apart = right[0].row - left[0].row
            if abs(apart) <= TOGETHER:
                both += 1
                del left[0], right[0]
            else:
                side = 0 if apart > 0 else 1
                only[side].append((left, right)[side].pop(0))
        only[0].extend(left)
        only[1].extend(right)
    first, second = (tuple(sorted(side, key=lambda episode: episode.row)) for side in only)
    return Agreement(both, (first, second))
