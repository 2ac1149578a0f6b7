"""Who is owed word of what, with a record: silences, inhibitions, groups, repetition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from sentinel.daemon.telling import Teller, in_words
from sentinel.engine.transition import IncidentChanged, Severity
from sentinel.matcher import parse_matcher
from sentinel.notify.notice import Notice, decode
from sentinel.notify.settings import Inhibition, NotifySettings, Route
from sentinel.store.store import Store
from tests.store.changes import CAUSE, alert

HOUR = 3600.0


class World:
    """A record and those who are told, at a time that the test sets."""

    def __init__(self, state: Path, route: Route, *inhibitions: Inhibition) -> None:
        self.state = state
        self.settings = NotifySettings({}, route, inhibitions)
        self.now = 1000.0
        self.open()

    def open(self) -> None:
        """Begin, or begin anew, as a daemon does."""
        self.teller = Teller(self.settings, ["oncall", "pager"])
        self.store = Store.open(self.state, route=self.teller.route)
        self.teller.take_silences(self.store.silences.active(self.now))
        self.teller.recover(self.store.standing())

    def restart(self) -> None:
        self.store.close()
        self.open()

    def happens(
        self,
        change: str = "opened",
        run: str = "a",
        *,
        rule: str = "LossSpike",
        severity: Severity = "warning",
        host: str = "node-1",
    ) -> None:
        """Something befalls the incident of a run."""
        cause = replace(CAUSE, rule=rule, host=host)
        made = IncidentChanged(run, f"i-{run}", change, severity, 37, cause, self.now)  # type: ignore[arg-type]
        fired = alert(incident=f"i-{run}", run=run, rule=rule, at=self.now)
        told = [] if change == "resolved" else [replace(fired, severity=severity)]
        self.store.commit([made, *told])

    def silence(self, *matchers: str, lasts: float = HOUR) -> int:
        """As `Quieting.add` does it."""
        made = self.store.silences.add(
            [parse_matcher(text) for text in matchers],
            until=self.now + lasts,
            by="user ann",
            comment="known",
            at=self.now,
        )
        self.teller.take_silences(self.store.silences.active(self.now))
        quiet = self.teller.quiet(self.now)
        for one, by in quiet.items():
            self.store.outbox.withdraw(one, in_words(by))
        self.teller.recover(self.store.standing(quiet))
        return made.id

    def passes(
        self, seconds: float = 1.0, *, going: Callable[[str], bool] = lambda _: True
    ) -> list[str]:
        """Time passes, and a tick; what goes out by then, as `receiver kind incident`."""
        self.now += seconds
        if tellings := self.teller.due(self.now, going):
            self.store.tell(tellings)
        return self.sent()

    def sent(self) -> list[str]:
        """What goes out now."""
        found = []
        for receiver in ("oncall", "pager"):
            while delivery := self.store.outbox.claim(receiver, self.now + 10.0):
                about = f"{receiver} {delivery.kind} {delivery.incident}"
                head = delivery.head.ts if delivery.head else ""
                found.append(f"{about} in {head}" if head else about)
                self.notice: Notice = decode(delivery.payload)
                self.store.outbox.sent(delivery.event_id, "C", f"{receiver}/{delivery.incident}")
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, Route(("oncall",), group_by=("run",), repeat_interval=4 * HOUR))


def test_what_is_silenced_sends_nothing_and_is_told_once_when_the_silence_ends(
    world: World,
) -> None:
    world.silence("run=a")
    world.happens()
    world.happens("updated", severity="critical")
    world.happens(run="b")
    assert world.sent() == ["oncall opened i-b"]
    assert world.passes(HOUR - 2) == []
    assert world.passes(2) == ["oncall opened i-a"]
    assert world.notice.incident.severity == "critical"
    assert world.passes(2) == []


def test_what_is_over_when_the_silence_ends_is_never_told(world: World) -> None:
    world.silence("run=a")
    world.happens()
    world.happens("resolved")
    assert world.passes(2 * HOUR) == []


def test_who_heard_of_it_before_the_silence_hears_how_it_ended_after_it(world: World) -> None:
    world.happens()
    assert world.sent() == ["oncall opened i-a"]
    world.silence("rule=LossSpike")
    world.happens("resolved")
    assert world.sent() == []
    assert world.passes(2 * HOUR) == ["oncall resolved i-a in oncall/i-a"]
    assert world.passes(2 * HOUR) == []


def test_a_silence_also_withdraws_what_has_not_been_tried(world: World) -> None:
    world.happens()
    number = world.silence("severity=warning")
    assert world.sent() == []
    world.store.silences.end(number, by="user bob", at=world.now)
    world.teller.take_silences(world.store.silences.active(world.now))
    assert world.passes() == ["oncall opened i-a"]


def test_an_alert_that_is_not_silenced_lets_its_incident_speak(world: World) -> None:
    world.silence("rule=LossSpike")
    world.happens()
    assert world.sent() == []
    fired = alert(incident="i-a", run="a", rule="NonFiniteUpdate", at=world.now)
    changed = IncidentChanged("a", "i-a", "updated", "critical", 37, CAUSE, world.now)
    world.store.commit([changed, fired])
    assert world.sent() == ["oncall updated i-a"]


def test_a_restart_forgets_nothing_that_was_withheld(world: World) -> None:
    world.silence("run=~a|b")
    world.happens()
    world.restart()
    assert world.passes() == []
    assert world.passes(HOUR) == ["oncall opened i-a"]
    world.restart()
    assert world.passes() == []


def test_what_was_open_while_nobody_was_to_be_told_is_not_told_after_a_restart(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, Route(()))
    world.happens()
    assert world.passes() == []
    world.settings = replace(world.settings, route=Route(("oncall",)))
    world.restart()
    assert world.passes(HOUR) == []


def test_a_warning_is_not_told_while_the_incident_that_explains_it_is_open(tmp_path: Path) -> None:
    rule = Inhibition(
        (parse_matcher("rule=RankLost"),), (parse_matcher("severity=warning"),), ("host",)
    )
    world = World(tmp_path, Route(("oncall",), group_by=("run",)), rule)
    world.happens(run="a", rule="RankLost", severity="critical")
    assert world.sent() == ["oncall opened i-a"]
    world.happens(run="b")
    world.happens(run="c", host="node-2")
    assert world.sent() == ["oncall opened i-c"]
    assert world.teller.quiet(world.now) == {"i-b": "i-a"}
    world.happens("resolved", run="a", rule="RankLost", severity="critical")
    assert world.passes() == ["oncall resolved i-a in oncall/i-a", "oncall opened i-b"]


def test_an_incident_of_a_run_that_is_gone_inhibits_nothing(tmp_path: Path) -> None:
    rule = Inhibition((parse_matcher("rule=RankLost"),), (parse_matcher("rule!=RankLost"),))
    world = World(tmp_path, Route(("oncall",), group_by=("run",)), rule)
    world.happens(run="a", rule="RankLost", severity="critical")
    world.happens(run="b")
    assert world.passes() == ["oncall opened i-a"]
    assert world.passes(going=lambda run: run != "a") == ["oncall opened i-b"]


def test_incidents_of_a_group_share_a_message_and_its_thread(tmp_path: Path) -> None:
    world = World(tmp_path, Route(("oncall",), group_by=("host",), group_wait=30.0))
    for run in ("a", "b", "c"):
        world.happens(run=run)
        assert world.passes() == []
    world.happens(run="d", host="node-2")
    assert world.passes(27) == ["oncall opened i-a"]
    assert [other.run for other in world.notice.others] == ["b", "c"]
    assert world.passes(5) == ["oncall opened i-d"]
    world.happens("resolved", run="b")
    assert world.sent() == ["oncall resolved i-b in oncall/i-a"]
    leader = world.notice.leader
    assert leader is not None
    assert [(other.run, other.state) for other in leader.others] == [
        ("b", "resolved"),
        ("c", "open"),
    ]
    world.restart()
    world.happens("resolved", run="a")
    assert world.sent() == ["oncall resolved i-a in oncall/i-a"]


def test_what_ends_while_it_waits_for_its_group_is_not_told(tmp_path: Path) -> None:
    world = World(tmp_path, Route(("oncall",), group_by=("host",), group_wait=30.0))
    world.happens()
    world.happens("resolved")
    assert world.passes(60) == []


def test_at_the_end_nothing_waits_for_its_group(tmp_path: Path) -> None:
    world = World(tmp_path, Route(("oncall",), group_by=("host",), group_wait=30.0))
    world.happens()
    assert world.teller.due(world.now, lambda _: True) == []
    world.store.tell(world.teller.due(world.now, lambda _: True, hurry=True))
    assert world.sent() == ["oncall opened i-a"]


def test_it_is_repeated_until_somebody_acknowledges_it(world: World) -> None:
    world.happens()
    assert world.sent() == ["oncall opened i-a"]
    assert world.passes(4 * HOUR - 1) == []
    assert world.passes(1) == ["oncall repeated i-a in oncall/i-a"]
    world.restart()
    assert world.passes(4 * HOUR, going=lambda run: run != "a") == []
    assert world.passes(1) == ["oncall repeated i-a in oncall/i-a"]
    shown = world.store.acknowledge("i-a", "user ann", world.now)
    assert shown["acknowledged"] is not None
    assert world.sent() == ["oncall acknowledged i-a in oncall/i-a"]
    assert world.notice.incident.acknowledged is not None
    assert world.notice.incident.acknowledged.by == "user ann"
    assert world.passes(9 * HOUR) == []
    again = world.store.acknowledge("i-a", "user bob", world.now)
    assert again["acknowledged"] == shown["acknowledged"]
    assert world.sent() == []


def test_what_becomes_more_severe_is_nobodys_again(world: World) -> None:
    world.happens()
    world.store.acknowledge("i-a", "user ann", world.now)
    world.happens("updated", severity="critical")
    assert world.store.incidents()[0]["acknowledged"] is None
    world.sent()
    assert world.passes(4 * HOUR) == ["oncall repeated i-a in oncall/i-a"]


def test_of_a_group_only_the_first_is_repeated(tmp_path: Path) -> None:
    world = World(
        tmp_path, Route(("oncall",), group_by=("host",), group_wait=5.0, repeat_interval=HOUR)
    )
    world.happens(run="a")
    world.happens(run="b")
    assert world.passes(5) == ["oncall opened i-a"]
    assert world.passes(HOUR) == ["oncall repeated i-a in oncall/i-a"]
    world.happens("resolved", run="a")
    world.sent()
    assert world.passes(HOUR) == ["oncall repeated i-b in oncall/i-a"]


def test_who_is_told_later_hears_all_of_it_and_who_was_told_hears_the_end(tmp_path: Path) -> None:
    critical = Route(("pager",), (parse_matcher("severity=critical"),), ("run",))
    world = World(tmp_path, Route(("oncall",), group_by=("run",), routes=(critical,)))
    world.happens()
    assert world.sent() == ["oncall opened i-a"]
    changed = IncidentChanged("a", "i-a", "updated", "critical", 37, CAUSE, world.now)
    fired = alert(incident="i-a", run="a", rule="NonFiniteUpdate", at=world.now)
    world.store.commit([changed, fired])
    assert world.sent() == ["oncall updated i-a in oncall/i-a", "pager updated i-a"]
    world.happens("resolved")
    assert world.sent() == [
        "oncall resolved i-a in oncall/i-a",
        "pager resolved i-a in pager/i-a",
    ]


def test_what_becomes_of_a_run_after_its_incident_is_told_to_those_who_knew_of_it(
    world: World,
) -> None:
    world.happens()
    world.happens("resolved")
    world.sent()
    world.store.add_action("a", "resume", by="ann", at=world.now, incident="i-a", state="done")
    assert world.sent() == ["oncall resumed i-a in oncall/i-a"]
    world.restart()
    world.store.add_action("a", "stop", by="ann", at=world.now, incident="i-a", state="done")
    assert world.sent() == ["oncall stopped i-a in oncall/i-a"]
    world.silence("run=b")
    world.happens(run="b")
    world.happens("resolved", run="b")
    world.store.add_action("b", "stop", by="ann", at=world.now, incident="i-b", state="done")
    assert world.passes(2 * HOUR) == []


def test_silences_and_acknowledgments_are_on_the_record(world: World) -> None:
    world.happens()
    world.silence("run=a", "severity=~warn.*")
    number = world.silence("rule=Nothing")
    world.store.silences.end(number, by="user bob", at=world.now)
    world.store.acknowledge("i-a", "token grafana", world.now)
    about_a = [link.content for link in world.store.journal("a")]
    nobody = [link.content for link in world.store.journal("")]
    rows = [msgspec.json.decode(str(text), type=dict[str, object]) for text in about_a + nobody]
    assert [(row["action"], row["by"]) for row in rows] == [
        ("silence", "user ann"),
        ("acknowledge", "token grafana"),
        ("silence", "user ann"),
        ("end silence", "user bob"),
    ]
    assert rows[0]["order"] == {
        "silence": 1,
        "matchers": ['run="a"', 'severity=~"warn.*"'],
        "until": "1970-01-01T01:16:40.000Z",
    }
    assert all(world.store.verify(run)[1] is None for run in ("a", ""))
