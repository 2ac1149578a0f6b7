"""An incident as it went, black boxes, the record with its check, and runs at a glance."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest

from tests.daemon.process import eventually
from tests.daemon.served import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon for all tests of this file."""
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.daemon.kill()


def test_an_incident_tells_first_what_moved_first_and_then_what_was_done(served: Served) -> None:
    served.daemon.request("POST", f"/api/v1/incidents/{served.incident}/acknowledge")
    found = served.get(f"/incidents/{served.incident}")
    assert found["opened_at"] <= found["changed_at"]
    assert found["advice"]
    kinds = [one["kind"] for one in found["timeline"]]
    first = found["timeline"][0]
    assert (first["kind"], first["signal"], first["rank"]) == ("signal", "nonfinite_activation", 1)
    assert first["text"] == "nonfinite_activation left its range in module layers.1.mlp on rank 1"
    signals = [one["signal"] for one in found["timeline"] if one["kind"] == "signal"]
    assert signals == ["nonfinite_activation", "loss", "nonfinite_update"]
    assert kinds.index("alert") < kinds.index("action") < kinds.index("acknowledged")
    done = [one["text"] for one in found["timeline"] if one["kind"] == "action"]
    assert [text.partition(",")[0] for text in done] == ["pause requested", "pause done"]
    assert found["timeline"] == sorted(found["timeline"], key=lambda one: one["at"])
    assert [one["text"] for one in found["advised"]] != found["advice"]
    assert found["advised"][0]["rule"] == "NonFiniteUpdate", "what holds the run is in the way"
    assert {one["text"] for one in found["advised"]} == set(found["advice"])
    assert (found["receivers"], found["bad_weights"]) == (0, "")


def test_a_black_box_shows_what_was_measured_and_nothing_else(served: Served) -> None:
    incident = served.get(f"/incidents/{served.incident}")
    assert incident["blackboxes"] == [{"rank": 1, "first_step": 5, "last_step": 6}]
    box = served.get(f"/incidents/{served.incident}/blackbox/1")
    assert (box["run"], box["rank"], box["host"]) == ("run", 1, "node-1")
    assert box["series"] == ["loss", "layer_grad_norm/layers.1"]
    assert box["squares"] == ["layer_grad_norm"]
    assert [(one["step"], one["values"]) for one in box["steps"]] == [
        (5, {"loss": "NaN", "layer_grad_norm/layers.1": 0.5}),
        (6, {"layer_grad_norm/layers.1": 0.5}),
    ]
    assert box["steps"][0]["findings"] == [
        {"signal": "loss", "module": "lm_head", "micro_batch": 0}
    ]
    for nowhere in (f"{served.incident}/blackbox/0", "none/blackbox/1", "..%2F../blackbox/1"):
        answer, body = served.send("GET", f"/api/v1/incidents/{nowhere}", "viewer")
        assert answer.status == 404
        assert "there is no" in json.loads(body)["error"]


def test_a_run_at_a_glance_is_what_it_is(served: Served) -> None:
    (run,) = served.get("/runs")
    assert (run["run"], run["state"], run["world_size"]) == ("run", "held", 2)
    assert run["incidents"] == {"open": 1, "total": 1, "worst": "critical"}
    assert run["open_incident"] == served.incident
    assert run["hold"]["by"] == "rule:NonFiniteUpdate"
    assert run["latest"] == {"loss": 2.0, "grad_norm": 1.0}
    assert run["coverage"]["measured"] == 5
    steps = run["sparkline"]["steps"]
    assert (steps[0], steps[-1]) == (1, run["step"])
    assert run["sparkline"]["values"][4:6] == [2.0, "NaN"]
    assert served.get("/runs/run")["step"] == run["step"]
    answer, body = served.send("GET", "/api/v1/runs/rum", "viewer")
    assert (answer.status, "did you mean 'run'" in body.decode()) == (404, True)


def test_everybody_is_told_who_they_are_and_what_they_may(served: Served) -> None:
    assert served.get("/whoami", "operator") == {
        "by": "token operator",
        "role": "operator",
        "version": json.loads(served.daemon.get("/healthz")[1])["version"],
    }
    assert json.loads(served.daemon.get("/api/v1/whoami")[1])["role"] == "admin"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("/runs?limit=0", ">= 1"),
        ("/runs?limit=ten", "Expected `int`"),
        ("/runs?limit=1&limit=2", "is given 2 times"),
        ("/runs?run=x", "unknown query parameter 'run': expected limit"),
        ("/whoami?x=1", "unknown query parameter 'x': there is none here"),
        ("/status?run=", "length >= 1"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(served: Served, query: str, reason: str) -> None:
    answer, body = served.send("GET", f"/api/v1{query}", "viewer")
    assert (answer.status, reason in json.loads(body)["error"]) == (400, True), body


def test_bodies_that_are_absurd_are_refused(served: Served) -> None:
    path = "/api/v1/runs/run/resume"
    for body in (b'{"lr_scale":' + b"[" * 60_000, b'{"by":"\xff"}', b'{"by":"\\ud800"}', b"NaN"):
        assert served.daemon.request("POST", path, body)[0] == 400, body[:20]


def test_a_record_that_was_tampered_with_says_where(served: Served) -> None:
    whole = served.get("/audit?run=run")
    assert (whole["broken"], whole["total"]) == (None, len(whole["rows"]))
    assert whole["head"] == whole["rows"][-1]["hash"]
    newest = served.get("/audit?run=run&rows=1")["rows"]
    assert [row["number"] for row in newest] == [whole["total"]]
    served.daemon.request("GET", "/api/v1/status")
    with sqlite3.connect(served.daemon.state / "sentinel.db", timeout=60) as connection:
        connection.execute("DROP TRIGGER journal_no_update")
        connection.execute(
            "UPDATE journal SET content = replace(content, 'NonFinite', 'Somebody') "
            "WHERE run = 'run' AND number = 2"
        )
    connection.close()
    broken = eventually(lambda: served.get("/audit?run=run")["broken"])
    assert (broken["number"], "it was changed" in broken["reason"]) == (2, True)
