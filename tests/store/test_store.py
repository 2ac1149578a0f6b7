"""The record: what is written comes out as it is promised."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from sentinel.clock import isoformat
from sentinel.engine.checkpoint import MOST, Checkpoint
from sentinel.engine.transition import Cause
from sentinel.errors import StateError
from sentinel.held import HoldTerms
from sentinel.store import HoldRow, RunRow, Store, timeline
from sentinel.store.outbox import to_all
from tests.store.changes import CAUSE, alert, incident, pause, rank


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state", route=to_all(["slack"]))
    yield store
    store.close()


def test_an_incident_reads_exactly_as_the_command_line_promises(store: Store) -> None:
    (action,) = store.commit([incident(), alert(value=2.5), pause()])
    store.update_action(action, "done", at=1002.0, step=41)

    assert store.incidents() == [
        {
            "id": "i1",
            "run": "gpt",
            "state": "open",
            "severity": "critical",
            "opened_step": 37,
            "cause": {
                "rule": "NonFiniteUpdate",
                "signal": "nonfinite_update",
                "step": 37,
                "rank": 1,
                "host": "node-a",
                "device": "cuda:1",
                "module": "transformer.h.3.mlp",
                "parameter": "transformer.h.3.mlp.weight",
                "micro_batch": 2,
                "batch": "9f86d081884c7d65",
                "samples": ["shard-7/12", "shard-7/13"],
            },
            "alerts": [
                {
                    "rule": "NonFiniteUpdate",
                    "state": "firing",
                    "severity": "critical",
                    "step": 37,
                    "labels": {"rank": "1"},
                    "value": 2.5,
                    "summary": "a non-finite gradient was applied",
                }
            ],
            "actions": [
                {
                    "action": "pause",
                    "state": "done",
                    "step": 41,
                    "by": "rule:NonFiniteUpdate",
                    "at": isoformat(1002.0),
                }
            ],
            "certainty": "measured on this rank",
            "evidence": [
                {
                    "kind": "stack",
                    "title": "rank 1 stands in forward",
                    "text": 'File "train.py", line 7',
                    "rank": 1,
                }
            ],
            "head": store.journal("gpt")[-1].hash,
            "acknowledged": None,
            "silenced": None,
            "inhibited_by": None,
        }
    ]


def test_what_is_not_known_of_a_cause_is_null(store: Store) -> None:
    store.commit([incident(cause=Cause("RankLost", "lost", 5))])

    cause = store.incidents()[0]["cause"]
    assert cause.pop("samples") == []  # type: ignore[misc]
    known = {"rule": "RankLost", "signal": "lost", "step": 5}
    assert {name: value for name, value in cause.items() if value is not None} == known
    assert set(cause) - set(known) == {
        *("rank", "host", "device", "module", "parameter", "micro_batch", "batch")
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (1.5, 1.5), (0.0, 0.0)],
)
def test_values_that_json_cannot_carry_are_named(
    store: Store, value: float, shown: float | str
) -> None:
    store.commit([incident(), alert(value=value)])

    (shown_incident,) = store.incidents()
    assert shown_incident["alerts"][0]["value"] == shown
    assert "null" not in msgspec.json.encode(shown_incident["alerts"]).decode()
    adopted = store.open_incident("gpt")
    assert adopted is not None
    assert str(adopted.alerts[0].value) == str(value)


def test_incidents_come_newest_last_and_by_run(store: Store) -> None:
    store.commit([incident(id="b"), incident(id="a", run="other"), incident(id="c")])
    store.commit([incident("resolved", id="b")])

    assert [shown["id"] for shown in store.incidents()] == ["b", "a", "c"]
    assert [shown["id"] for shown in store.incidents("gpt")] == ["b", "c"]
    assert [shown["state"] for shown in store.incidents("gpt")] == ["resolved", "open"]


def test_an_alert_that_resolves_changes_and_one_that_fires_anew_is_added(store: Store) -> None:
    store.commit([incident(), alert(), alert("resolved"), alert(step=50)])

    shown = store.incidents()[0]["alerts"]
    assert [(a["step"], a["state"]) for a in shown] == [(37, "resolved"), (50, "firing")]


def test_order_within_a_commit_is_free(store: Store) -> None:
    store.commit([alert(), pause(), incident()])

    (shown,) = store.incidents()
    assert shown["cause"]["module"] == "transformer.h.3.mlp"
    assert len(shown["alerts"]) == len(shown["actions"]) == 1


def test_an_alert_whose_incident_was_never_written_has_one_all_the_same(store: Store) -> None:
    store.commit([alert(incident="unknown")])

    (shown,) = store.incidents()
    assert (shown["id"], shown["cause"]["rule"]) == ("unknown", "NonFiniteUpdate")


def test_an_action_keeps_its_history(store: Store) -> None:
    asked = store.add_action("gpt", "resume", by="person:ann", at=10.0, step=41)
    store.update_action(asked, "failed", at=12.0, detail="rank 1 did not take the remedy")

    (row,) = store.actions("gpt")
    assert (row.state, row.step, row.incident) == ("failed", 41, None)
    assert (store.action(asked), store.action(asked + 1)) == (row, None)
    assert row.detail == "rank 1 did not take the remedy"
    changes = [msgspec.json.decode(str(link.content)) for link in store.journal("gpt")]
    assert [(change["state"], change["at"]) for change in changes] == [
        ("requested", isoformat(10.0)),
        ("failed", isoformat(12.0)),
    ]


def test_refusals_without_an_incident_are_on_the_record(store: Store) -> None:
    store.add_action(
        "gpt", "resume", by="person:ann", at=10.0, state="refused", detail="it is not held"
    )

    assert [(row.action, row.state) for row in store.actions()] == [("resume", "refused")]
    assert store.outbox.waiting() == (0, None)


def test_an_action_that_nobody_knows_cannot_change(store: Store) -> None:
    with pytest.raises(LookupError, match="17"):
        store.update_action(17, "done", at=1.0)
    assert store.behind == 0


def test_runs_and_ranks_are_kept_as_last_saved(store: Store) -> None:
    row = RunRow("gpt", "running", 40, 2, started=900.0, command="torchrun train.py")
    store.save_runs([(row, [rank(0), rank(1)])])
    terms = HoldTerms("stop", 3600.0, 2, "GPU", 4000.0, 600.0)
    hold = HoldRow(41, "rule:NonFiniteUpdate", 1000.0, terms)
    held = RunRow("gpt", "held", 41, 2, started=900.0, hold=hold)
    store.save_runs([(held, [rank(0, step=41), rank(1, step=41)])])

    assert store.runs() == [held]
    assert store.ranks("gpt") == [rank(0, step=41), rank(1, step=41)]
    assert store.status(2800.0) == [
        {
            "run": "gpt",
            "state": "held",
            "step": 41,
            "world_size": 2,
            "ranks": [
                {
                    "rank": n,
                    "host": "node-a",
                    "pid": 100 + n,
                    "step": 41,
                    "phase": "forward",
                    "last_seen_s": 1800.0,
                    "collectives": {"data:0-1": [12, None]},
                }
                for n in (0, 1)
            ],
            "hold": {
                "step": 41,
                "by": "rule:NonFiniteUpdate",
                "since": isoformat(1000.0),
                "held_s": 1800.0,
                "cost_hours": 1.0,
                "ranks": 2,
                "unit": "GPU",
                "unattended": "stop",
                "hold_for_s": 3600.0,
                "ends": isoformat(4600.0),
                "deadline": isoformat(4000.0),
                "group_timeout_s": 600.0,
            },
        }
    ]


def test_a_run_that_starts_again_smaller_has_no_ranks_of_before(store: Store) -> None:
    store.save_runs([(RunRow("gpt", world_size=4), [rank(n) for n in range(4)])])
    store.save_runs([(RunRow("gpt", world_size=2), [rank(0)])])

    assert [row.rank for row in store.ranks("gpt")] == [0, 1]


def test_a_run_keeps_what_was_written_before_anybody_described_it(store: Store) -> None:
    store.commit([incident()])
    store.save_runs([(RunRow("gpt", "finished", 100, 2, started=1.0, ended=9.0), [])])

    assert store.status(0.0, "gpt")[0]["state"] == "finished"
    assert store.status(0.0, "unknown") == []
    assert len(store.incidents("gpt")) == 1


def test_an_open_incident_can_be_adopted_after_a_restart(tmp_path: Path) -> None:
    first = Store.open(tmp_path)
    first.commit([incident(id="old"), incident("resolved", id="old"), incident(id="new")])
    gone = alert("resolved", incident="new", labels={"rank": "0"}, value=1.0)
    still = alert(incident="new", labels={"rank": "1"}, value=math.inf)
    first.commit([gone, still])
    first.close()

    second = Store.open(tmp_path)
    adopted = second.open_incident("gpt")
    assert adopted is not None
    assert (adopted.id, adopted.cause, adopted.opened_step) == ("new", CAUSE, 37)
    assert adopted.alerts == (still,)
    assert second.open_incident("other") is None
    second.close()


def test_threads_may_write_at_the_same_time(store: Store) -> None:
    def write(number: int) -> None:
        for n in range(20):
            id = f"{number}-{n}"
            (action,) = store.commit([incident(id=id), alert(incident=id), pause(incident=id)])
            store.update_action(action, "done", at=1001.0)
            store.save_runs([(RunRow("gpt", step=n), [rank(number)])])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(store.incidents()) == 80
    assert all(row.state == "done" for row in store.actions())
    assert {found.incident for found in store.actions()} == {
        shown["id"] for shown in store.incidents()
    }


def test_listeners_wake_when_there_is_something_to_send(store: Store) -> None:
    woken: list[bool] = []
    store.on_message(lambda: woken.append(True))

    store.commit([alert(incident="i1")])
    assert woken == []
    store.commit([incident()])
    assert woken == [True]
    (action,) = store.commit([pause()])
    assert woken == [True]
    store.update_action(action, "done", at=1001.0, step=40)
    assert woken == [True, True]


def test_nothing_can_be_written_after_close(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.close()

    with pytest.raises(StateError):
        store.commit([incident()])


def test_checkpoints_come_out_as_they_went_in_and_a_tag_saved_again_is_replaced(
    store: Store,
) -> None:
    first = Checkpoint("/ckpt", "a", 10, 900.0, 2.5, "incomplete", "why", 3, (1, 4), "", None)
    old = Checkpoint("/ckpt", "old", None, None, 0.0, "unseen", "nobody saw it being saved")
    lost = Checkpoint("/ckpt", "b", 20, 950.0, 0.5, "gone", "", 0, (), "bad", 15, True)
    store.save_checkpoints("gpt", [first, lost, old], 1000.0)
    assert store.checkpoints("gpt") == [old, first, lost]
    again = replace(first, step=30, saved_at=980.0, state="unproven", lacking=())
    store.save_checkpoints("gpt", [again], 1000.0)
    assert store.checkpoints("gpt") == [old, lost, again]
    assert store.checkpoints("other") == []
    assert [run.name for run in store.runs()] == ["gpt"]


def test_checkpoints_on_record_are_bounded(store: Store) -> None:
    many = [
        Checkpoint("/ckpt", f"t{n}", n, float(n), 0.0, "healthy", "", gone=n > 9)
        for n in range(MOST + 5)
    ]
    store.save_checkpoints("gpt", many, 1000.0)
    left = {one.tag for one in store.checkpoints("gpt")}
    assert len(left) == MOST
    assert {f"t{n}" for n in range(10)} <= left, "what is gone is forgotten first"


def test_a_signal_of_a_run_that_went_back_has_left_its_range_by_when_it_was_alerted(
    store: Store,
) -> None:
    gone = replace(alert(step=90, at=1000.0), fired_step=40)  # it did steps 41 to 90 again
    store.commit([incident(), gone, alert(step=38, labels={"rank": "2"}, at=1002.0)])
    store.commit([alert(step=39, labels={"rank": "3"}, at=1001.0)])
    shown = store.look(partial(timeline.detail, incident_id="i1"))
    left = {one["rank"]: one["at"] for one in shown["timeline"] if one["kind"] == "signal"}
    assert left == {1: isoformat(1000.0), 2: isoformat(1000.0), 3: isoformat(1000.0)}
