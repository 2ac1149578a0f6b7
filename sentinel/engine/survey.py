"""What can be seen of a whole run: every signal on every rank, and which rules are blind.

Made only when somebody asks. Ranks of which the same is true are told of together, so that what
comes out is as short for 8,000 ranks as for eight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sentinel.engine.blind import can_be
from sentinel.engine.coverage import (
    MEASURABLE,
    SAYS_NOTHING,
    BlindSpot,
    Gap,
    RuleCoverage,
    RuleState,
    RunCoverage,
    SignalCoverage,
    SignalState,
    Unseen,
    is_applicable,
    ranges,
)
from sentinel.engine.derived import sources
from sentinel.engine.judging import Judging
from sentinel.engine.language.expression import Missing, Node, Reading, children, readings
from sentinel.engine.roster import RankState, Roster
from sentinel.engine.rule import Alerts
from sentinel.signals import CATALOG, Reduction

Gaps = Mapping[str, Gap]
_ELSEWHERE = Gap("missing", SAYS_NOTHING)


@dataclass
class _Kind:
    """Ranks of which the same is true."""

    gaps: Gaps
    every: Mapping[str, int]
    reasons: Mapping[str, str]
    ranks: list[int] = field(default_factory=list)


def survey(run: str, step: int, roster: Roster, judging: Judging) -> RunCoverage:
    """The coverage of a run as it is now."""
    seen, unseen = _part(roster)
    kinds = _kinds(seen)
    sums = _sums(seen, kinds, unseen)
    rules = [
        _rule(alerts, kinds, sums, is_off=name in judging.errors)
        for name, alerts in judging.alerts.items()
    ]
    return RunCoverage(
        run=run,
        step=step,
        ranks=ranges(state.rank for state in seen),
        unseen=tuple(Unseen(ranges(ranks), why) for why, ranks in unseen.items()),
        signals=tuple(line for signal in MEASURABLE for line in _lines(signal, kinds, sums)),
        rules=tuple(rules),
    )


def _part(roster: Roster) -> tuple[list[RankState], dict[str, list[int]]]:
    """The ranks that can be seen, and why others cannot. Of a run that is over: as it was."""
    states = list(roster.ranks.values())
    live = [state for state in states if not state.lost and state.goodbye is None]
    unseen: dict[str, list[int]] = defaultdict(list)
    if live:
        for state in states:
            if state.goodbye is not None:
                unseen[f"left the run: {state.goodbye}"].append(state.rank)
            elif state.lost:
                unseen["lost: its connection ended without a farewell"].append(state.rank)
    if roster.absent:
        absent = [rank for rank in range(roster.world_size) if rank not in roster.ranks]
        unseen["has not connected"] = absent
    return live or states, unseen


def _kinds(seen: Sequence[RankState]) -> list[_Kind]:
    kinds: dict[object, _Kind] = {}
    for state in seen:
        coverage, announced = state.coverage, state.layout.signals
        key = (
            announced,
            frozenset(coverage.missing.items()),
            frozenset(coverage.every.items()),
            frozenset(coverage.reasons.items()),
            frozenset(coverage.stale(announced).items()),
        )
        kind = kinds.get(key)
        if kind is None:
            gaps = coverage.gaps(announced)
            kind = kinds[key] = _Kind(gaps, coverage.every, coverage.reasons)
        kind.ranks.append(state.rank)
    return list(kinds.values())


@dataclass(frozen=True)
class _Sums:
    """Quantities that are summed over shards: `told` by some rank, so that those which say
    nothing of them hold replicas; `broken`, because a rank that should tell its part does not."""

    told: frozenset[str]
    broken: Mapping[str, str]
    ranks: tuple[int, ...]


def _sums(
    seen: Sequence[RankState], kinds: Sequence[_Kind], unseen: Mapping[str, Iterable[int]]
) -> _Sums:
    announced = {state.layout.signals for state in seen}
    summed = [one for one in MEASURABLE if CATALOG[one].reduction is Reduction.ROOT_SUM]
    told = frozenset(one for one in summed if any(one in signals for signals in announced))
    broken: dict[str, str] = {}
    announcers = {state.rank: state.layout.signals for state in seen}
    for signal in told:
        for why, ranks in unseen.items():
            broken[signal] = f"a sum needs every rank; {_named(ranks)}: {why}"
        for kind in kinds:
            gap = kind.gaps.get(signal)
            if gap is not None and signal in announcers[kind.ranks[0]]:
                broken[signal] = f"a sum needs every rank; {_named(kind.ranks)}: {gap.reason}"
    return _Sums(told, broken, tuple(state.rank for state in seen))


def _named(ranks: Iterable[int]) -> str:
    text = ranges(ranks)
    return f"rank {text}" if text.isdigit() else f"ranks {text}"


def _lines(signal: str, kinds: Sequence[_Kind], sums: _Sums) -> Iterable[SignalCoverage]:
    """A signal on all ranks, the same told once."""
    ranks: dict[SignalCoverage, list[int]] = defaultdict(list)
    last: dict[SignalCoverage, int] = {}
    for kind in kinds:
        gap, every = kind.gaps.get(signal), kind.every.get(signal, 1)
        if gap is None:
            state: SignalState = "sampled" if every > 1 else "measured"
            line = SignalCoverage(signal, state, "", every, kind.reasons.get(signal, ""))
        elif signal in sums.told and gap == _ELSEWHERE:
            continue  # another rank answers for what this one holds
        else:
            shown = every if gap.state == "stale" else 0
            applies = is_applicable(gap.reason)
            line = SignalCoverage(signal, gap.state, "", shown, gap.reason, applicable=applies)
            if gap.last_step is not None:
                last[line] = max(gap.last_step, last.get(line, 0))
        ranks[line] += kind.ranks
    for line, on in ranks.items():
        yield SignalCoverage(
            signal,
            line.state,
            ranges(on),
            line.every,
            line.reason,
            last.get(line),
            line.applicable,
        )


def _rule(alerts: Alerts, kinds: Sequence[_Kind], sums: _Sums, *, is_off: bool) -> RuleCoverage:
    root = alerts.rule.expression.root
    read, asked = dict.fromkeys(readings(root)), set(_asked(root))
    spots: dict[tuple[str, str], list[int]] = defaultdict(list)
    is_blind = False
    verdicts: dict[frozenset[Reading], bool] = {}
    for kind in kinds:
        lacking = {one: spot for one in read if (spot := _lacks(one, kind, sums)) is not None}
        names = frozenset(lacking)
        if names not in verdicts:
            verdicts[names] = can_be(root, True, names)
        is_blind = is_blind or not verdicts[names]
        told = (spot for one, spot in lacking.items() if one in asked or not verdicts[names])
        for spot in dict.fromkeys(told):
            spots[spot] += kind.ranks
    blind = tuple(
        BlindSpot(signal, ranges(ranks), reason) for (signal, reason), ranks in spots.items()
    )
    state = _state(alerts, is_off, is_blind)
    applies = state != "blind" or any(is_applicable(spot.reason) for spot in blind)
    return RuleCoverage(alerts.rule.name, state, blind, applies)


def _state(alerts: Alerts, is_off: bool, is_blind: bool) -> RuleState:
    if is_off:
        return "off"
    live = alerts.live.values()
    if any(alert.firing for alert in live):
        return "firing"
    return "pending" if live else "blind" if is_blind else "ok"


def _lacks(reading: Reading, kind: _Kind, sums: _Sums) -> tuple[str, str] | None:
    """The signal that stands in the way of this reading on these ranks, and why it does."""
    for signal in sorted(sources(reading.signal)):
        if CATALOG[signal].made_by == "engine":
            continue
        gap = kind.gaps.get(signal)
        if signal in sums.told:
            if signal in sums.broken and not reading.by_rank:
                return signal, sums.broken[signal]
            gap = gap if reading.by_rank and gap != _ELSEWHERE else None
        if gap is not None:
            return signal, gap.reason
    return None


def _asked(node: Node) -> Iterable[Reading]:
    """What is read below the node, but for what is asked only whether it is missing."""
    if isinstance(node, Missing):
        return
    if isinstance(node, Reading):
        yield node
    for child in children(node):
        yield from _asked(child)
