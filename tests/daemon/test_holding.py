"""A held run: on what terms, who is reminded when, and how an end by itself is on the record."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from sentinel import wire
from sentinel.clock import isoformat
from sentinel.control import outcome as control
from sentinel.control.outcome import Outcome
from sentinel.daemon.holding import Due, Standstill, due, standstill, terms
from sentinel.held import HoldTerms
from sentinel.store import HoldRow, Store
from sentinel.store.outbox import to_all
from tests.daemon.test_run import NOW, NOWHERE, Stage
from tests.store.changes import alert, incident, pause

HELD = Outcome(2, 1, "held", 10, 1, "rule:NonFiniteUpdate", unattended="stop", hold_for=7200.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "state", route=to_all(["slack"]))


@pytest.fixture
async def stage(store: Store) -> AsyncIterator[Stage]:
    stage = Stage(store)
    for rank in (0, 1):
        stage.admit(rank, device="cuda:0", deadline=NOW + 3600.0, group_timeout=600.0 * (rank + 1))
    yield stage
    await stage.ledger.close()
    store.close()


def tell(stage: Stage, outcome: Outcome, now: float = NOW) -> None:
    stage.run.hear(0, wire.Report(control.encode(outcome)), now)


def held_for_a_rule(stage: Stage) -> None:
    """Held at NOW for an alert."""
    (asked,) = stage.store.commit(
        [incident(run="run", at=NOW), alert(run="run", at=NOW), pause(run="run", at=NOW)]
    )
    stage.ledger.know("run", stage.run.started, "1/pause", asked)
    tell(stage, HELD)


async def told(stage: Stage) -> list[dict[str, object]]:
    """What has been written for Slack since the last call, delivered."""
    await stage.ledger.call(lambda: None)
    found = []
    while delivery := stage.store.outbox.claim("slack", NOW + 1e6):
        stage.store.outbox.sent(delivery.event_id, "C1", "1.0")
        found.append({"kind": delivery.kind, **json.loads(delivery.payload)})
    return found


@pytest.mark.parametrize(
    ("length", "minutes", "expected"),
    [
        (7200.0, 14.9, None),
        (7200.0, 15, Due(900.0)),
        (7200.0, 29, Due(900.0)),
        (7200.0, 31, Due(1800.0)),
        (7200.0, 70, Due(3600.0)),
        (7200.0, 109.9, Due(3600.0)),
        (7200.0, 110, Due(6600.0, ending=True)),
        (7200.0, 300, Due(6600.0, ending=True)),
        (1200.0, 5, None),
        (1200.0, 10, Due(600.0, ending=True)),
        (1100.0, 10, None),
        (1100.0, 16, Due(900.0)),
        (1100.0, 19, None),
        (math.inf, 60 * 26, Due(26 * 3600.0)),
    ],
)
def test_reminders_come_at_growing_intervals(
    length: float, minutes: float, expected: Due | None
) -> None:
    agreed = HoldTerms("resume", length) if math.isfinite(length) else HoldTerms("hold")
    assert due(HoldRow(10, "x", NOW, agreed), NOW + 60 * minutes) == expected


def test_before_the_ranks_have_told_nothing_is_due() -> None:
    assert due(HoldRow(10, "x", NOW), NOW + 1e6) is None


def test_what_ranks_say_that_makes_no_sense_is_not_known() -> None:
    hello = msgspec.structs.replace(NOWHERE.hello(), world_size=4)
    odd = [
        msgspec.structs.replace(hello, deadline=deadline, group_timeout=timeout)
        for deadline, timeout in ((math.nan, -1.0), (math.inf, math.nan), (1e300, 0.0))
    ]
    assert standstill(odd) == Standstill(4, "rank", 0.0, 0.0)
    good = msgspec.structs.replace(hello, deadline=5.0, group_timeout=30.0, device="cuda:1")
    assert standstill([*odd, good]) == Standstill(4, "GPU", 5.0, 30.0)
    assert standstill([]) == Standstill()


@pytest.mark.parametrize(("said", "meant"), [(1e300, wire.LONGEST_HOLD), (-5.0, 0.0), (9.0, 9.0)])
def test_a_hold_is_no_longer_than_one_may_be(said: float, meant: float) -> None:
    agreed = terms(msgspec.structs.replace(HELD, hold_for=said), Standstill())
    assert agreed.hold_for == meant


async def test_a_hold_is_told_on_its_terms_with_a_warning(stage: Stage) -> None:
    held_for_a_rule(stage)

    _, held = await told(stage)
    assert held["kind"] == "held"
    assert held["hold"] == {
        "step": 10,
        "since": NOW,
        "terms": {
            "unattended": "stop",
            "hold_for": 7200.0,
            "ranks": 2,
            "unit": "GPU",
            "deadline": NOW + 3600.0,
            "group_timeout": 600.0,
        },
    }
    (row,) = stage.store.runs()
    assert row.hold == stage.run.hold(), "a daemon that is killed now knows it at its restart"


async def test_people_are_reminded_while_it_is_held_and_no_longer(stage: Stage) -> None:
    held_for_a_rule(stage)
    await told(stage)
    seen: list[object] = []
    for minute in range(115):
        stage.run.orders.tick(NOW + 60.0 * minute)
        seen += [(minute, one["kind"], one["incident"]["id"]) for one in await told(stage)]  # type: ignore[index]
    assert seen == [
        (15, "reminder", "i1"),
        (30, "reminder", "i1"),
        (60, "reminder", "i1"),
        (110, "ending", "i1"),
    ]
    tell(stage, HELD.next("resumed", by="user ann"), NOW + 6900.0)
    stage.run.orders.tick(NOW + 1e5)
    assert [one["kind"] for one in await told(stage)] == ["resumed"]


async def test_the_next_daemon_reminds_of_what_was_not_told_and_of_nothing_twice(
    stage: Stage,
) -> None:
    held_for_a_rule(stage)
    stage.run.orders.tick(NOW + 1000.0)
    assert [one["kind"] for one in await told(stage)] == ["opened", "held", "reminder"]
    (row,) = stage.store.runs()

    again = Stage(stage.store)
    for rank in (0, 1):
        again.admit(rank, NOW + 1100.0)
    again.run.adopt(None, row.hold, row.started, NOW + 1100.0)
    tell(again, HELD, NOW + 1100.0)
    again.run.orders.tick(NOW + 1101.0)
    assert await told(again) == []
    again.run.orders.tick(NOW + 4000.0)
    (reminder,) = await told(again)
    assert reminder["hold"]["since"] == NOW  # type: ignore[index]
    await again.ledger.close()


async def test_of_reminders_that_slack_has_not_taken_only_the_newest_is_sent(stage: Stage) -> None:
    held_for_a_rule(stage)
    await told(stage)
    for minutes in (15, 30, 60):
        stage.run.orders.tick(NOW + 60.0 * minutes)
    (reminder,) = await told(stage)
    assert (reminder["kind"], reminder["at"]) == ("reminder", NOW + 3600.0)


async def test_a_run_that_was_lost_while_held_stands_since_when_it_stood(stage: Stage) -> None:
    held_for_a_rule(stage)
    stage.run.orders.ended(NOW + 20.0)
    stage.run.orders.forget()
    tell(stage, HELD, NOW + 3000.0)
    hold = stage.run.hold()
    assert hold is not None
    assert hold.since == NOW


async def test_nobody_is_reminded_of_what_a_person_paused_without_an_incident(
    stage: Stage,
) -> None:
    tell(stage, msgspec.structs.replace(HELD, by="user ann"))
    stage.run.orders.tick(NOW + 4000.0)
    assert await told(stage) == []


@pytest.mark.parametrize(
    ("phase", "action"), [("resumed", "resume"), ("stopped", "stop")], ids=["resume", "stop"]
)
@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
async def test_an_end_that_nobody_asked_for_is_on_the_record_with_its_times(
    stage: Stage, phase: control.Phase, action: str, away: bool
) -> None:
    held_for_a_rule(stage)
    await told(stage)
    end = HELD.next(phase, by="unattended: nobody answered")
    if away:  # a daemon that comes back later, to which the ranks tell only the end
        (row,) = stage.store.runs()
        later = Stage(stage.store)
        for rank in (0, 1):
            later.admit(rank, NOW + 9000.0)
        later.run.adopt(None, row.hold, row.started, NOW + 9000.0)
        tell(later, end, NOW + 9000.0)
        await later.ledger.close()
    else:
        tell(stage, end, NOW + 7200.0)
        await stage.ledger.call(lambda: None)

    links, broken = stage.store.verify("run")
    assert broken is None
    last = json.loads(str(links[-1].content))
    assert (last["action"], last["state"], last["step"]) == (action, "done", 10)
    assert last["by"] == "unattended: nobody answered"
    assert last["at"] == isoformat(NOW + (9000.0 if away else 7200.0))
    assert last["reason"].startswith(
        f"held since {isoformat(NOW)}, 2 h without an answer ended at {isoformat(NOW + 7200.0)}"
    )


async def test_a_rules_policy_reaches_the_ranks(stage: Stage) -> None:
    asked = replace(pause(run="run", at=NOW), unattended="stop", hold_for=60.0)
    (action,) = stage.store.commit([incident(run="run", at=NOW), asked])
    stage.run.orders.wanted(asked, action, over=False)
    (order,) = [one for one in stage.lines[1].sent if isinstance(one, wire.HoldOrder)]
    assert (order.unattended, order.hold_for) == ("stop", 60.0)
