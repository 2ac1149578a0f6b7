"""Routes, silences and inhibitions, against slow words for the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.matcher import Labels, Matcher
from sentinel.notify.notice import Alert, Cause, Incident
from sentinel.notify.routing import Subject, hushed, sources, subject, targets, targets_of
from sentinel.notify.settings import Inhibition, Route

NAMES = ("run", "rule", "host")
VALUES = ("", "a", "b")

labels = st.fixed_dictionaries({name: st.sampled_from(VALUES) for name in NAMES})
matchers = st.builds(
    Matcher,
    st.sampled_from(NAMES),
    st.sampled_from((*VALUES, "a|b")),
    regex=st.just(True),
    negative=st.booleans(),
)
several = st.lists(matchers, max_size=2).map(tuple)
routes = st.recursive(
    st.builds(Route, st.lists(st.sampled_from("xyz"), max_size=2).map(tuple), several),
    lambda inner: st.builds(
        Route,
        st.lists(st.sampled_from("xyz"), max_size=2).map(tuple),
        several,
        continues=st.booleans(),
        routes=st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=8,
)
subjects = st.lists(st.lists(labels, min_size=1, max_size=3), max_size=4).map(
    lambda found: [Subject(f"i{n}", one[0], tuple(one)) for n, one in enumerate(found)]
)
inhibitions = st.lists(
    st.builds(
        Inhibition, several, several, st.lists(st.sampled_from(NAMES), max_size=2).map(tuple)
    ),
    max_size=2,
)


def fulfils(conditions: Sequence[Matcher], given: Labels) -> bool:
    """What matchers mean, without a regular expression."""
    for one in conditions:
        found = given.get(one.name, "") in one.value.split("|")
        if found == one.negative:
            return False
    return True


def slow_receivers(route: Route, given: Labels) -> list[tuple[str, ...]]:
    """As Alertmanager's documentation says it."""
    reached: list[tuple[str, ...]] = []
    for child in route.routes:
        if fulfils(child.matchers, given):
            reached.extend(slow_receivers(child, given))
            if not child.continues:
                break
    if not reached:
        reached.append(route.receivers)
    return reached


@settings(max_examples=50)
@given(routes, labels)
def test_an_alert_ends_up_in_the_deepest_routes_that_match(route: Route, given: Labels) -> None:
    assert [target.receivers for target in targets(route, given)] == slow_receivers(route, given)


@settings(max_examples=50)
@given(routes, subjects)
def test_an_incident_goes_where_any_of_its_alerts_goes(route: Route, found: list[Subject]) -> None:
    for one in found:
        expected = {name for a in one.alerts for to in slow_receivers(route, a) for name in to}
        assert {name for to in targets_of(route, one) for name in to.receivers} == expected


@dataclass(frozen=True)
class Hush:
    """A silence."""

    matchers: tuple[Matcher, ...]
    until: float

    def silences(self, labels: Labels, now: float) -> bool:
        return now < self.until and fulfils(self.matchers, labels)


hushes = st.lists(st.builds(Hush, several, st.sampled_from([5.0, 10.0, 20.0])), max_size=2)


def slowly_hushed(
    one: Subject, everyone: list[Subject], silences: list[Hush], rules: list[Inhibition]
) -> bool:
    """Every alert is silenced, or inhibited by some alert of some open incident."""
    alerts = [alert for other in everyone for alert in other.alerts]

    def inhibited(target: Labels) -> bool:
        return any(
            fulfils(rule.target, target)
            and fulfils(rule.source, source)
            and all(source[name] == target[name] for name in rule.equal)
            and not (fulfils(rule.source, target) and fulfils(rule.target, source))
            for rule in rules
            for source in alerts
        )

    return all(
        any(silence.silences(alert, 10.0) for silence in silences) or inhibited(alert)
        for alert in one.alerts
    )


@given(subjects, hushes, inhibitions)
def test_an_incident_is_quiet_while_all_of_its_alerts_are(
    everyone: list[Subject], silences: list[Hush], rules: list[Inhibition]
) -> None:
    inhibitors = {one.id: sources(one, rules) for one in everyone}
    for one in everyone:
        by = hushed(one, silences, inhibitors, rules, 10.0)
        assert (by is not None) == slowly_hushed(one, everyone, silences, rules)


def test_an_alert_has_of_the_cause_what_belongs_to_its_rank() -> None:
    cause = Cause("LossSpike", "loss", 7, rank=3, host="node-1", module="mlp")
    incident = Incident("i", "gpt", severity="critical", cause=cause)
    alerts = [
        Alert("LossSpike", severity="warning", step=7),
        Alert("Slow", severity="critical", step=9, labels={"rank": "3"}),
        Alert("Slow", severity="critical", step=9, labels={"rank": "4", "run": "other"}),
        Alert("Over", state="resolved"),
    ]
    found = subject(incident, alerts)
    own = {"signal": "loss", "rank": "3", "host": "node-1", "module": "mlp"}
    assert found.labels == {**own, "run": "gpt", "severity": "critical", "rule": "LossSpike"}
    assert list(found.alerts) == [
        {**own, "run": "gpt", "severity": "warning", "rule": "LossSpike"},
        {"rank": "3", "host": "node-1", "run": "gpt", "severity": "critical", "rule": "Slow"},
        {"rank": "4", "run": "gpt", "severity": "critical", "rule": "Slow"},
    ]
    (over,) = subject(incident, alerts[3:]).alerts
    assert over["rule"] == "Over"
    assert subject(incident, []).alerts == (found.labels,)
