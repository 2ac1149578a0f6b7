"""Hangs: for how long ranks have stood together, and which of them wait for another."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.engine.roster import HEARD_WITHIN, RankState, Roster

HANGS = frozenset({"stall", "collective_lag", "collective_hang", "silence"})  # signals of one


def signals(roster: Roster, now: float, awake: float) -> Mapping[str, float | None]:
    """What rules may ask of all ranks together; None: nothing is known of it.

    `collective_hang` is for how many seconds all ranks of a group, but for those that have left,
    have stood in the same collective that none of them has completed. Nothing is said of it while
    one is away without a word, or where nobody knows what is completed. What was before `awake`
    does not count.
    """
    ranks = [one for one in roster.ranks.values() if one.goodbye is None]
    known = any(done is not None for one in ranks for _, done in one.collectives.values())
    if not known or roster.absent or not all(_is_there(one, now) for one in ranks):
        return {"collective_hang": None}
    if all(now - one.moved < HEARD_WITHIN for one in ranks):  # as ever, while all goes well
        return {"collective_hang": 0.0}
    stood = [
        now - max(max(one.moved, awake) for one in stuck) for stuck, _ in _together(roster) if stuck
    ]
    return {"collective_hang": max(stood, default=0.0)}


def waiting(roster: Roster, blamed: int | None, now: float) -> list[int]:
    """Ranks that stand in a collective, lowest first: in one that this rank has not entered.

    Without a rank to blame, in one that all have entered that have not left.
    """
    if blamed is None:
        return sorted({one.rank for stuck, _ in _together(roster) for one in stuck})
    if blamed not in roster.ranks:
        return []
    found: set[int] = set()
    for name, (entered, _) in roster.ranks[blamed].collectives.items():
        others = {
            one.rank: one.collectives[name][0]
            for one in roster.ranks.values()
            if name in one.collectives and _is_there(one, now)
        }
        front = max(others.values(), default=0)
        found |= {rank for rank, number in others.items() if entered < number == front}
    return sorted(found)


def left_early(roster: Roster) -> list[RankState]:
    """Ranks that have left and not entered a collective in which others of their group stand."""
    return [one for _, left in _together(roster) for one in left]


_Stuck = tuple[list[RankState], list[RankState]]


def _together(roster: Roster) -> list[_Stuck]:
    """By group, the ranks that all stand in the same collective, and those that left before it."""
    groups: dict[str, list[RankState]] = {}
    for state in roster.ranks.values():
        for name in state.collectives:
            groups.setdefault(name, []).append(state)
    found: list[_Stuck] = []
    for name, group in groups.items():
        here = [one for one in group if one.goodbye is None]
        numbers = {one.collectives[name] for one in here}
        if len(group) < 2 or len({entered for entered, _ in numbers}) != 1:
            continue
        if all(done is not None and done < entered for entered, done in numbers):
            front = max(entered for entered, _ in numbers)
            left = [
                one for one in group if one.goodbye is not None and one.collectives[name][0] < front
            ]
            found.append((here, left))
    return found


def _is_there(one: RankState, now: float) -> bool:
    return one.connected and one.goodbye is None and now - one.last_seen <= HEARD_WITHIN
