"""Who is told of an incident: its route, and what keeps it quiet. All of it is pure.

As in Alertmanager it is alerts that conditions are held against: an incident goes where any of its
alerts goes, and is kept quiet while every one of them is silenced or inhibited.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sentinel.matcher import Labels, all_match
from sentinel.notify.notice import Alert, Incident
from sentinel.notify.settings import Inhibition, Route

Values = tuple[str, ...]  # of the labels in an inhibition's `equal`


@dataclass(frozen=True)
class Subject:
    """An incident, as routes see it: its own labels, and those of each alert that fires.

    Its own are `run`, `severity`, `rule` and, where they are known, `signal`, `rank`, `host`,
    `device`, `module` and `parameter` of its cause. An alert has `run`, its own `rule` and
    `severity`, the labels of what it is about, and of the cause what belongs to its rank.
    """

    id: str
    labels: Labels
    alerts: tuple[Labels, ...]


@dataclass(frozen=True)
class Target:
    """A route that an alert has ended up in; `path` says which one it is in the file."""

    path: tuple[int, ...]
    receivers: tuple[str, ...]
    group_by: tuple[str, ...]
    group_wait: float
    repeat_interval: float


@dataclass(frozen=True)
class Source:
    """What an incident inhibits by one of the rules: the values that its targets must have too.

    `both` are of alerts that are themselves targets of the rule, which do not inhibit such.
    """

    values: frozenset[Values] = frozenset()
    both: frozenset[Values] = frozenset()


class Quiet(Protocol):
    """A silence; see sentinel.store.silences.Silence."""

    @property
    def until(self) -> float: ...
    def silences(self, labels: Labels, now: float) -> bool: ...


AQuiet = TypeVar("AQuiet", bound=Quiet)


def subject(incident: Incident, alerts: Collection[Alert]) -> Subject:
    """An incident with all of its alerts; when none fires any more, it is as with all of them."""
    cause = incident.cause
    where = {
        "signal": cause.signal,
        "rank": "" if cause.rank is None else str(cause.rank),
        "host": cause.host,
        "device": cause.device,
        "module": cause.module,
        "parameter": cause.parameter,
    }
    of_cause = {name: value for name, value in where.items() if value}
    of_rank = {name: value for name, value in of_cause.items() if name in ("host", "device")}
    own = {**of_cause, "run": incident.run, "severity": incident.severity, "rule": cause.rule}
    found: list[Labels] = []
    for alert in [one for one in alerts if one.state == "firing"] or alerts:
        base: dict[str, str] = {}
        if (alert.rule, alert.step) == (cause.rule, cause.step):
            base = of_cause
        elif alert.labels.get("rank", "") == of_cause.get("rank"):
            base = of_rank
        named = {"run": incident.run, "severity": alert.severity, "rule": alert.rule}
        found.append({**base, **alert.labels, **named})
    return Subject(incident.id, own, tuple(found) or (own,))


def targets(route: Route, labels: Labels, path: tuple[int, ...] = ()) -> list[Target]:
    """The routes in which an alert with these labels ends up: at least `route` itself."""
    found: list[Target] = []
    for number, child in enumerate(route.routes):
        if all_match(child.matchers, labels):
            found += targets(child, labels, (*path, number))
            if not child.continues:
                break
    this = Target(path, route.receivers, route.group_by, route.group_wait, route.repeat_interval)
    return found or [this]


def targets_of(route: Route, one: Subject) -> list[Target]:
    """The routes of all alerts of an incident, each once, in the order of the file."""
    found = {target.path: target for alert in one.alerts for target in targets(route, alert)}
    return [found[path] for path in sorted(found)]


def group_of(target: Target, one: Subject) -> tuple[object, ...]:
    """What incidents have in common that share a first message."""
    return (target.path, *(one.labels.get(name, "") for name in target.group_by))


def sources(one: Subject, rules: Sequence[Inhibition]) -> tuple[Source, ...]:
    """What an open incident inhibits, by rule."""
    found = []
    for rule in rules:
        alerts = [alert for alert in one.alerts if all_match(rule.source, alert)]
        pure = {_values(rule, alert) for alert in alerts if not all_match(rule.target, alert)}
        both = {_values(rule, alert) for alert in alerts if all_match(rule.target, alert)}
        found.append(Source(frozenset(pure), frozenset(both)))
    return tuple(found)


def hushed(
    one: Subject,
    silences: Iterable[AQuiet],
    inhibitors: Mapping[str, tuple[Source, ...]],
    rules: Sequence[Inhibition],
    now: float,
) -> AQuiet | str | None:
    """What keeps an incident quiet: a silence, the id of an incident that inhibits it, or nothing.

    `inhibitors`: what the open incidents inhibit, by id. Of several silences it is the one that
    ends last.
    """
    found: AQuiet | str | None = None
    silences = list(silences)
    for alert in one.alerts:
        quiet = [silence for silence in silences if silence.silences(alert, now)]
        by = max(quiet, key=lambda silence: silence.until, default=None) or _inhibitor(
            alert, inhibitors, rules
        )
        if by is None:
            return None
        found = found or by
    return found


def _inhibitor(
    alert: Labels, inhibitors: Mapping[str, tuple[Source, ...]], rules: Sequence[Inhibition]
) -> str | None:
    for number, rule in enumerate(rules):
        if not all_match(rule.target, alert):
            continue
        values, is_source = _values(rule, alert), all_match(rule.source, alert)
        for incident, found in inhibitors.items():
            source = found[number]
            if values in source.values or (values in source.both and not is_source):
                return incident
    return None


def _values(rule: Inhibition, labels: Labels) -> Values:
    return tuple(labels.get(name, "") for name in rule.equal)
