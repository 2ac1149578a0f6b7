"""Play a test's run through the engine, and compare what fired with what was expected."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sentinel.duration import in_words
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import AlertChanged, Transition
from sentinel.replay.rule_test.case import AtMoment, Case, ExpectedAlert, Steps, Throughout
from sentinel.replay.rule_test.made_up import RUN, Tick, happenings

_SHOWN = 8  # elements of a list


@dataclass(frozen=True)
class Failure:
    """What was not as expected, in words: `line` is that of the expectation.

    `step` is None where a time was named, or the whole run. `seen` is when the rule fired.
    """

    line: int
    rule: str
    step: int | None
    when: str
    expected: tuple[str, ...]
    fired: tuple[str, ...]
    seen: tuple[str, ...]


@dataclass(frozen=True)
class _Firing:
    """One alert from when it fires to when it resolves, in milliseconds."""

    alert: AlertChanged
    begin: int
    end: float

    def at(self, milliseconds: int) -> bool:
        return self.begin <= milliseconds < self.end

    def steps(self, interval: int, last: int) -> Steps | None:
        """The steps at whose ends it fires; None when it resolves within one."""
        first = max(1, -(-self.begin // interval))
        if math.isinf(self.end) or self.end > last * interval:
            return Steps(first)
        before = -(-int(self.end) // interval) - 1
        return Steps(first, before) if before >= first else None


def failures(case: Case) -> list[Failure]:
    """What of a test is not as expected, in its order. Deterministic."""
    firings, broken = _play(case)
    last = -(-case.length // case.interval)
    found = [
        Failure(case.line, rule, None, "in the whole run", (), ("it failed, and is off",), ())
        for rule in broken
    ]
    for moment in case.moments:
        own = [one for one in firings if one.alert.rule == moment.rule]
        found += _compare(case, moment, own, last)
    if case.throughout is not None:
        found += _compare_throughout(case, case.throughout, firings, last)
    return found


def _play(case: Case) -> tuple[list[_Firing], list[str]]:
    """All that fired, and the rules that failed."""
    engine = RunEngine(RUN, case.rules)
    live: dict[tuple[str, tuple[str, ...]], AlertChanged] = {}
    over: list[_Firing] = []
    for told in _told(engine, case):
        if not isinstance(told, AlertChanged):
            continue
        key = (told.rule, tuple(told.labels.values()))
        if told.state == "firing":
            live[key] = told
        elif began := live.pop(key, None):
            over.append(_Firing(began, _milliseconds(began.at), _milliseconds(told.at)))
    over += [_Firing(one, _milliseconds(one.at), math.inf) for one in live.values()]
    return sorted(over, key=lambda one: one.begin), list(engine.rule_errors)


def _told(engine: RunEngine, case: Case) -> Iterator[Transition]:
    for what in happenings(case):
        if isinstance(what, Tick):
            yield from engine.tick(what.now)
        elif what.message is None:
            yield from engine.disconnected(what.rank, what.now)
        else:
            yield from engine.feed(what.rank, what.message, what.now)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _compare(
    case: Case, moment: AtMoment, firings: Sequence[_Firing], last: int
) -> Iterator[Failure]:
    left = [one.alert for one in firings if one.at(moment.milliseconds)]
    fired = list(left)
    unmet = False
    for expected in moment.alerts:
        match = next((alert for alert in left if _is(expected, alert)), None)
        if match is None:
            unmet = True
        else:
            left.remove(match)
    if not unmet and not left:
        return
    named = {text for one in moment.alerts for text in one.annotations}
    at = in_words(moment.milliseconds / 1000) if moment.step is None else f"step {moment.step}"
    yield Failure(
        line=moment.line,
        rule=moment.rule,
        step=moment.step,
        when=f"at {at}",
        expected=tuple(_shown(one.labels, one.annotations) for one in moment.alerts),
        fired=tuple(_shown(alert.labels, _texts(alert, named)) for alert in fired),
        seen=_seen(case, firings, last),
    )


def _is(expected: ExpectedAlert, alert: AlertChanged) -> bool:
    """Whether it is the alert: its own labels, and its severity if that is named too."""
    labels = dict(alert.labels)
    if "severity" in expected.labels:
        labels["severity"] = alert.severity
    return labels == dict(expected.labels) and _texts(alert, expected.annotations) == dict(
        expected.annotations
    )


def _texts(alert: AlertChanged, named: Iterable[str]) -> dict[str, str]:
    texts = {"summary": alert.summary, "advice": alert.advice}
    return {name: texts[name] for name in texts if name in named}


def _shown(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    text = "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
    return " ".join((text, *(f"{name}: {value}" for name, value in annotations.items())))


def _seen(case: Case, firings: Sequence[_Firing], last: int) -> tuple[str, ...]:
    found = []
    for one in firings[:_SHOWN]:
        steps = one.steps(case.interval, last)
        when = f"steps {steps}" if steps else f"within step {-(-one.begin // case.interval)}"
        found.append(f"{_shown(one.alert.labels, {})} in {when}")
    if len(firings) > _SHOWN:
        found.append(f"and {len(firings) - _SHOWN} more")
    return tuple(found)


def _compare_throughout(
    case: Case, expected: Throughout, firings: Sequence[_Firing], last: int
) -> Iterator[Failure]:
    by_rule: dict[str, list[_Firing]] = defaultdict(list)
    for one in firings:
        by_rule[one.alert.rule].append(one)
    for rule in dict.fromkeys((*expected.firing, *by_rule)):
        wanted = _clipped(expected.firing.get(rule, ()), last)
        own = by_rule[rule]
        fired = _union(one.steps(case.interval, last) for one in own)
        momentary = any(one.steps(case.interval, last) is None for one in own)
        if _clipped(fired, last) != wanted or (momentary and not fired):
            yield Failure(
                line=expected.line,
                rule=rule,
                step=None,
                when="in the whole run",
                expected=tuple(f"steps {one}" for one in expected.firing.get(rule, ())),
                fired=tuple(f"steps {one}" for one in fired),
                seen=_seen(case, own, last),
            )


def _clipped(steps: Iterable[Steps], last: int) -> list[Steps]:
    """As far as the run is looked at: what ends with it goes on."""
    return [Steps(one.first) if one.last >= last else one for one in steps]


def _union(spans: Iterable[Steps | None]) -> tuple[Steps, ...]:
    """Steps at which anything fires, those that touch each other joined."""
    joined: list[Steps] = []
    for one in sorted((one for one in spans if one), key=lambda one: one.first):
        if joined and one.first <= joined[-1].last + 1:
            joined[-1] = Steps(joined[-1].first, max(joined[-1].last, one.last))
        else:
            joined.append(one)
    return tuple(joined)
