"""Messages that people are owed are written with their cause, and claimed once, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel.engine.checkpoint import Checkpoint, State
from sentinel.store import Delivery, Outbox, RunRow, Store
from sentinel.store.database import Database
from sentinel.store.outbox import to_all
from sentinel.store.outbox_row import SETTLE
from sentinel.store.schema import FILE_NAME, SCHEMA
from tests.store.changes import CAUSE, alert, incident, pause


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    yield store
    store.close()


def claim(store: Store, now: float = 2000.0) -> Delivery:
    delivery = store.outbox.claim("slack", now)
    assert delivery is not None
    return delivery


def told(store: Store) -> list[tuple[str, str]]:
    """All that is due, delivered: kind and incident."""
    found: list[tuple[str, str]] = []
    while delivery := store.outbox.claim("slack", 2000.0):
        store.outbox.sent(delivery.event_id, "C1", f"{len(found)}.0")
        found.append((delivery.kind, delivery.incident))
    return found


def test_an_incident_is_told_with_everything_of_its_commit(store: Store) -> None:
    store.commit([incident(), alert(value=float("nan")), pause()])

    delivery = claim(store)
    assert (delivery.kind, delivery.run, delivery.incident) == ("opened", "gpt", "i1")
    assert (delivery.attempts, delivery.doubtful, delivery.head) == (1, False, None)
    payload = json.loads(delivery.payload)
    assert payload["summary"] == "a non-finite gradient was applied"
    assert payload["advice"] == "go back to a checkpoint from before"
    assert payload["alerts"][0]["value"] == "NaN"
    assert payload["actions"][0]["state"] == "requested"


def test_a_new_incident_waits_for_the_word_of_all_ranks_and_then_names_what_came_first(
    store: Store,
) -> None:
    consequence = replace(CAUSE, rule="NonFiniteGradient", rank=0, module="head")
    store.commit([incident(cause=consequence), alert()])
    assert store.outbox.claim("slack", 1000.0 + SETTLE - 0.01) is None
    store.commit([incident("updated", at=1000.02), alert(labels={"rank": "0"})])

    delivery = claim(store, 1000.0 + SETTLE)
    assert delivery.kind == "opened"
    assert json.loads(delivery.payload)["incident"]["cause"]["module"] == CAUSE.module
    store.outbox.sent(delivery.event_id, "C1", "1.0")
    assert told(store) == []


def test_many_alerts_are_one_message_of_bounded_size(store: Store) -> None:
    alerts = [alert(labels={"layer": f"layer.{n}"}) for n in range(500)]
    store.commit([incident(), *alerts])

    payload = json.loads(claim(store).payload)
    assert (len(payload["alerts"]), payload["alert_count"]) == (10, 500)
    assert store.outbox.claim("slack", 2000.0) is None
    assert len(store.incidents()[0]["alerts"]) == 500


def test_alerts_that_join_an_incident_tell_nobody_anew(store: Store) -> None:
    store.commit([incident()])
    assert told(store) == [("opened", "i1")]
    store.commit([alert(), alert(rule="LossNonFinite")])
    assert told(store) == []


def test_later_messages_of_an_incident_know_where_its_first_one_is(store: Store) -> None:
    (action,) = store.commit([incident(), pause()])
    assert told(store) == [("opened", "i1")]
    store.update_action(action, "done", at=1001.0, step=41)

    held = claim(store)
    assert held.kind == "held"
    assert held.head is not None
    assert (held.head.channel, held.head.ts) == ("C1", "0.0")
    assert json.loads(held.payload)["about"]["step"] == 41


def test_one_incident_is_told_in_order_and_others_do_not_wait_for_it(store: Store) -> None:
    (action,) = store.commit([incident(id="a"), pause(incident="a")])
    first = claim(store)
    store.update_action(action, "done", at=1001.0)
    store.commit([incident("resolved", id="a"), incident(id="b")])

    other = claim(store)
    assert (other.kind, other.incident) == ("opened", "b")
    assert store.outbox.claim("slack", 2000.0) is None
    store.outbox.again(first.event_id, 3000.0, "Slack is down", doubtful=False)
    assert store.outbox.claim("slack", 2000.0) is None
    assert store.outbox.next_due("slack") == 3000.0
    assert claim(store, 3000.0).kind == "opened"
    store.outbox.sent(first.event_id, "C1", "1.0")
    assert told(store) == [("held", "a"), ("resolved", "a")]


def test_after_one_that_failed_for_good_the_next_is_the_first(store: Store) -> None:
    store.commit([incident()])
    store.outbox.failed(claim(store).event_id, "channel_not_found")
    store.commit([incident("resolved")])

    delivery = claim(store)
    assert (delivery.kind, delivery.head) == ("resolved", None)
    assert store.outbox.counts() == {"failed": 1, "sending": 1}


def test_news_that_nobody_has_tried_to_tell_are_told_together(store: Store) -> None:
    store.commit([incident(severity="warning")])
    store.commit([incident("updated", severity="critical", at=1001.0)])
    assert json.loads(claim(store).payload)["incident"]["severity"] == "critical"
    store.commit([incident("updated", severity="info", at=1002.0)])
    store.commit([incident("updated", severity="warning", at=1003.0)])
    store.commit([incident("updated", severity="warning", at=1004.0)])

    (row,) = store._database.rows("SELECT * FROM outbox WHERE kind = 'updated'")
    payload = json.loads(str(row["payload"]))
    assert (payload["incident"]["severity"], payload["escalated"]) == ("warning", True)


def test_what_became_of_actions_is_told_where_somebody_counted_on_it(store: Store) -> None:
    first, second = store.commit([incident(), pause(), pause()])
    told(store)
    store.update_action(second, "refused", at=1001.0, detail="the run is being paused already")
    assert told(store) == []
    store.update_action(first, "lapsed", at=1002.0)
    assert told(store) == [("action", "i1")]
    (third,) = store.commit([pause()])
    store.update_action(third, "refused", at=1003.0, detail="--observe")
    assert told(store) == [("action", "i1")]
    by_hand = store.add_action("gpt", "resume", by="person:ann", at=1004.0, incident="i1")
    assert told(store) == []
    store.update_action(by_hand, "done", at=1005.0)
    assert told(store) == [("resumed", "i1")]
    store.add_action("gpt", "stop", by="person:ann", at=1006.0, incident="i1", state="refused")
    assert told(store) == []
    store.add_action("gpt", "stop", by="person:ann", at=1006.0, incident="i1", state="done")
    assert told(store) == [("stopped", "i1")]


def test_without_receivers_messages_are_on_record_and_go_nowhere(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.commit([incident()])
    assert store.outbox.counts() == {"unaddressed": 1}
    assert store.outbox.claim("", 2000.0) is None
    store.close()

    later = Store.open(tmp_path, route=to_all(["slack"]))
    assert later.outbox.claim("slack", 2000.0) is None
    later.close()


def test_each_receiver_is_told(tmp_path: Path) -> None:
    store = Store.open(tmp_path, route=to_all(["slack", "webhook"]))
    store.commit([incident()])

    first, second = (store.outbox.claim(name, 2000.0) for name in ("slack", "webhook"))
    assert first is not None
    assert second is not None
    assert first.event_id != second.event_id
    assert store.outbox.waiting() == (2, 1000.0)
    store.close()


def test_a_message_is_claimed_by_one_of_many(store: Store) -> None:
    """Through one connection and, as another process would, through others."""
    store.commit([incident(id=str(n)) for n in range(24)])
    path = store.state_dir / FILE_NAME
    others = [Database.open(path, SCHEMA, readonly=False, synchronous="FULL") for _ in range(3)]
    outboxes = [store.outbox, *(Outbox(other, to_all(["slack"]), "x") for other in others)]
    claimed: list[str] = []

    def work(outbox: Outbox) -> None:
        while len(claimed) < 24:
            if delivery := outbox.claim("slack", 2000.0):
                claimed.append(delivery.event_id)

    threads = [threading.Thread(target=work, args=(outbox,)) for outbox in outboxes * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert len(claimed) == len(set(claimed)) == 24


def test_what_was_being_sent_when_a_daemon_ended_is_doubtful(tmp_path: Path) -> None:
    first = Store.open(tmp_path, route=to_all(["slack"]))
    first.commit([incident()])
    before = claim(first, 1500.0)
    first.close()

    second = Store.open(tmp_path, route=to_all(["slack"]))
    delivery = claim(second, 2000.0)
    assert (delivery.event_id, delivery.doubtful) == (before.event_id, True)
    assert (delivery.attempts, delivery.claimed_at) == (2, 1500.0)
    second.outbox.again(delivery.event_id, 0.0, "refused", doubtful=False)
    assert not claim(second, 2000.0).doubtful
    second.close()


def test_two_directories_never_call_two_messages_the_same(tmp_path: Path) -> None:
    ids: set[str] = set()
    for name in ("a", "b"):
        store = Store.open(tmp_path / name, route=to_all(["slack"]))
        store.commit([incident()])
        ids.add(claim(store).event_id)
        store.close()
    assert len(ids) == 2


def test_a_message_names_the_newest_healthy_checkpoint_and_how_far_it_is_back(store: Store) -> None:
    def saved(tag: str, step: int, state: State, *, gone: bool = False) -> Checkpoint:
        return Checkpoint("/ckpt", tag, step, 900.0 + step, 1.0, state, "", gone=gone)

    def told_now() -> object:
        delivery = claim(store)
        store.outbox.sent(delivery.event_id, "C1", "1.0")
        return json.loads(delivery.payload)["last_good"]

    store.commit([incident(), alert()])
    assert told_now() is None
    known = [saved("a", 10, "healthy"), saved("b", 20, "healthy"), saved("c", 30, "tainted")]
    store.save_checkpoints("gpt", [*known, saved("d", 25, "gone", gone=True)], 1000.0)
    store.commit([incident("updated", at=1001.0, severity="warning")])
    assert told_now() == {"tag": "b", "step": 20, "back": 17}
    store.save_runs([(RunRow("gpt", step=44), [])])
    store.save_checkpoints("gpt", [saved("c", 40, "healthy")], 1002.0)
    store.commit([incident("updated", at=1003.0)])
    assert told_now() == {"tag": "c", "step": 40, "back": 4}
