"""Hangs: for how long ranks have stood together, and which of them wait for another."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.engine.roster import HEARD_WITHIN, RankState, Roster

HANGS = frozenset({"stall", "collective_lag", "collective_hang", "silence"})  # signals of one


def signals(roster: Roster, now: float, awake: float) -> Mapping[str, float | None]:
    """What rules may ask of all ranks together; None: nothing is known of it.

    `collective_hang` is for how many seconds all ranks of a group, at least two, have stood in the
    same collective that none of them has completed. Nothing is said of it while a rank is away, or
    where no rank knows what is completed. What was before `awake` does not count.
    """
    ranks = roster.ranks.values()
    known = any(done is not None for one in ranks for _, done in one.collectives.values())
    if not known or roster.absent or not all(_is_there(one, now) for one in ranks):
        return {"collective_hang": None}
    if all(now - one.moved < HEARD_WITHIN for one in ranks):  # as ever, while all goes well
        return {"collective_hang": 0.0}
    stood = [_stood(group, now, awake) for group in _groups(roster).values()]
    return {"collective_hang": max(stood, default=0.0)}


def waiting(roster: Roster, blamed: int | None, now: float) -> list[int]:
    """Ranks that stand in a collective, lowest first: in one that this rank has not entered.

    Without a rank to blame, in one that they have all entered.
    """
    behind = roster.ranks[blamed].collectives if blamed in roster.ranks else {}
    found: set[int] = set()
    for name, group in _groups(roster).items():
        front = max(entered for _, entered, _ in group)
        if blamed is None:
            stand = all(entered == front and _pending(done, front) for _, entered, done in group)
        else:
            stand = name in behind and behind[name][0] < front
        if stand and len(group) > 1:
            there = [one for one, entered, _ in group if entered == front and _is_there(one, now)]
            found.update(one.rank for one in there)
    return sorted(found)


_Group = list[tuple[RankState, int, int | None]]  # its ranks: last entered, last completed


def _groups(roster: Roster) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for state in roster.ranks.values():
        for name, (entered, done) in state.collectives.items():
            groups.setdefault(name, []).append((state, entered, done))
    return groups


def _stood(group: _Group, now: float, awake: float) -> float:
    front = group[0][1]
    if len(group) < 2 or any(e != front or not _pending(d, front) for _, e, d in group):
        return 0.0
    return now - max(max(one.moved, awake) for one, _, _ in group)


def _pending(done: int | None, entered: int) -> bool:
    return done is not None and done < entered


def _is_there(one: RankState, now: float) -> bool:
    return one.connected and one.goodbye is None and now - one.last_seen <= HEARD_WITHIN
