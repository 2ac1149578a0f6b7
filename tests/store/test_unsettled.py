"""Messages that did not arrive at once: folded, sent again, given up, forgotten in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.clock import steady
from sentinel.held import HoldTerms
from sentinel.store import Delivery, HoldRow, Store
from sentinel.store.folding import fold
from sentinel.store.outbox import Owed, to_all
from sentinel.store.outbox_row import OutboxRow
from sentinel.store.upkeep import KEPT
from sentinel.store.writing import Reminder
from tests.store.changes import alert, incident, pause

NOW = 2000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    yield store
    store.close()


def claim(store: Store, now: float = NOW) -> Delivery:
    delivery = store.outbox.claim("slack", now)
    assert delivery is not None
    return delivery


def states(store: Store) -> list[tuple[str, str]]:
    """Kind and state of every message."""
    rows = store._database.rows("SELECT kind, state FROM outbox ORDER BY id")
    return [(str(row["kind"]), str(row["state"])) for row in rows]


def test_what_came_after_a_message_is_told_with_it(store: Store) -> None:
    (action,) = store.commit([incident(severity="warning"), alert(), pause()])
    store.update_action(action, "done", at=1001.0, step=41)
    store.commit([incident("updated", severity="critical", at=1002.0)])
    store.commit([incident("resolved", at=1003.0)])
    first = claim(store)

    folded = store.outbox.fold(first.event_id, NOW)
    assert (folded.event_id, folded.kind, folded.created_at) == (first.event_id, "resolved", 1000.0)
    payload = json.loads(folded.payload)
    assert (payload["incident"]["state"], payload["at"]) == ("resolved", 1003.0)
    assert payload["escalated"] is True
    assert store.outbox.claim("slack", NOW) is None
    store.outbox.sent(first.event_id, "C1", "1.0")
    assert [state for _, state in states(store)] == ["sent", "folded", "folded", "folded"]
    assert store.outbox.waiting() == (0, None)


def test_a_hold_that_still_stands_is_what_the_message_is_about(store: Store) -> None:
    store.commit([incident()])
    store.outbox.sent(claim(store).event_id, "C1", "1.0")
    (action,) = store.commit([pause()])
    hold = HoldRow(41, "rule:NonFiniteUpdate", 1001.0, HoldTerms())
    store.update_action(action, "done", at=1001.0, step=41, hold=hold)
    store.remind(Reminder("gpt", 900.0, 1901.0))
    store.commit([incident("updated", severity="warning", at=1902.0)])

    folded = store.outbox.fold(claim(store).event_id, NOW)
    payload = json.loads(folded.payload)
    assert folded.kind == "reminder"
    assert payload["hold"]["step"] == 41
    assert payload["about"]["action"] == "pause"
    assert payload["incident"]["severity"] == "warning"
    assert payload["at"] == 1902.0


def test_what_is_not_due_yet_or_belongs_to_others_stays_by_itself(tmp_path: Path) -> None:
    store = Store.open(
        tmp_path,
        route=lambda message: [Owed("slack", 600.0 if message.kind == "resolved" else 0.0)],
    )
    store.commit([incident()])
    store.commit([incident("resolved", at=1500.0)])
    store.commit([incident(id="other")])
    first = claim(store)
    assert store.outbox.fold(first.event_id, NOW) == first
    assert states(store) == [("opened", "sending"), ("resolved", "pending"), ("opened", "pending")]
    store.close()


def test_a_kill_after_folding_leaves_one_message_of_unknown_fate(tmp_path: Path) -> None:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    store.commit([incident()])
    store.commit([incident("resolved", at=1003.0)])
    folded = store.outbox.fold(claim(store).event_id, NOW)
    store.close()

    later = Store.open(tmp_path, route=to_all(["slack"]))
    again = claim(later)
    assert (again.event_id, again.kind, again.doubtful) == (folded.event_id, "resolved", True)
    assert again.payload == folded.payload
    assert later.outbox.fold(again.event_id, NOW).payload == folded.payload
    later.close()


def test_a_payload_that_cannot_be_read_is_folded_with_nothing() -> None:
    rows = [
        OutboxRow(1, "e1", "slack", "opened", "gpt", "i1", "[]", "sending"),
        OutboxRow(2, "e2", "slack", "resolved", "gpt", "i1", "{}", "pending"),
    ]
    assert fold(rows) == rows[:1]


def test_what_failed_is_sent_again_when_asked_for_and_looked_up_if_it_may_have_arrived(
    store: Store,
) -> None:
    woken: list[bool] = []
    store.on_message(lambda: woken.append(True))
    for id, doubtful in (("a", False), ("b", True), ("c", False)):
        store.commit([incident(id=id)])
        store.outbox.failed(claim(store).event_id, "invalid_auth", doubtful=doubtful)
    assert [row.error for row in store.outbox.unsettled()] == ["invalid_auth"] * 3
    woken.clear()

    again = store.resend(lambda row: row.incident != "c", NOW)
    assert [row.incident for row in again] == ["a", "b"]
    assert woken == [True]
    assert [(claim(store).incident, claim(store).doubtful)] == [("a", True)]
    assert store.outbox.counts() == {"sending": 2, "failed": 1}
    assert store.resend(lambda row: False, NOW) == []
    assert woken == [True]


def test_what_waits_for_a_receiver_that_is_back_is_due_but_not_what_is_for_later(
    tmp_path: Path,
) -> None:
    store = Store.open(tmp_path, route=lambda message: [Owed("slack", 5000.0), Owed("webhook")])
    store.commit([incident()])
    waits = store.outbox.claim("webhook", NOW)
    assert waits is not None
    store.outbox.again(waits.event_id, 9000.0, "down", doubtful=False)
    for name in ("slack", "webhook"):
        store.outbox.hasten(name, NOW)
    assert store.outbox.next_due("webhook") == NOW
    assert store.outbox.next_due("slack") == 6000.0
    store.close()


def test_a_clock_that_was_set_back_keeps_nothing_waiting(tmp_path: Path) -> None:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    ahead = steady() + 3600.0
    for id in ("tried", "sending", "new"):
        store.commit([incident(id=id, at=ahead)])
    tried = claim(store, ahead + 5.0)
    store.outbox.again(tried.event_id, ahead + 900.0, "down", doubtful=False)
    claim(store, ahead + 5.0)
    store.close()

    before = steady()
    later = Store.open(tmp_path, route=to_all(["slack"]))
    soon = before + 60.0
    found = [claim(later, soon) for _ in range(3)]
    assert [(one.incident, one.doubtful) for one in found] == [
        ("tried", False),
        ("sending", True),
        ("new", False),
    ]
    assert all(one.created_at <= soon and one.claimed_at <= soon for one in found)
    later.close()


def test_what_ended_long_ago_is_forgotten_but_for_threads_that_go_on(store: Store) -> None:
    for id in ("over", "open", "told in part", "failed"):
        store.commit([incident(id=id)])
    for id in ("over", "told in part", "failed"):
        store.commit([incident("resolved", id=id, at=1001.0)])
    while (delivery := store.outbox.claim("slack", NOW)) is not None:
        if (delivery.incident, delivery.kind) == ("failed", "opened"):
            store.outbox.failed(delivery.event_id, "no")
        elif (delivery.incident, delivery.kind) == ("told in part", "resolved"):
            store.outbox.again(delivery.event_id, 1e12, "no", doubtful=False)
        else:
            store.outbox.sent(delivery.event_id, "C1", "1.0")
    before = states(store)

    store.prune(1000.0 + KEPT)
    assert states(store) == before
    store.prune(1002.0 + KEPT)
    rows = store._database.rows("SELECT incident FROM outbox ORDER BY id")
    assert [row["incident"] for row in rows] == ["open", "told in part", "told in part"]
    assert len(store.incidents()) == 4


def test_while_the_disk_takes_nothing_messages_are_folded_and_settled_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentinel.errors import StateError

    store.commit([incident()])
    store.commit([incident("resolved", at=1003.0)])
    with monkeypatch.context() as patch:

        def full() -> object:
            raise StateError("full")

        patch.setattr(store._database, "transaction", full)
        folded = store.outbox.fold(claim(store).event_id, NOW)
        store.outbox.sent(folded.event_id, "C1", "1.0")
        assert (folded.kind, store.outbox.claim("slack", NOW)) == ("resolved", None)
    assert store.outbox.claim("slack", NOW) is None
    assert states(store) == [("resolved", "sent"), ("resolved", "folded")]
