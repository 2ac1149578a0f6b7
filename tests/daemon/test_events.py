"""Events as they happen: what listeners hear, and when they hear no more."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel.daemon.news import StateNews
from sentinel.daemon.streams import MAX_LISTENERS, QUEUE, Stream, Streams, TooManyError
from sentinel.store.tokens import Tokens
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE
from tests.daemon.scenes import APPLIED_NAN, in_state
from tests.daemon.served import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon for all tests of this file; the last one ends it."""
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.daemon.kill()


class Listening:
    """A connection on which events come."""

    def __init__(self, served: Served, query: str = "", token: str = "") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        given = token or served.tokens["viewer"]
        headers = {"Authorization": f"Bearer {given}"}
        self.connection.request("GET", f"/api/v1/events{query}", headers=headers)
        self.response = self.connection.getresponse()

    def next(self) -> tuple[str, Any] | None:
        """The next event and what it says; None when there will be no more."""
        name = ""
        while line := self.response.readline():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                return name, json.loads(value)
        return None

    def until(self, wanted: str) -> Any:
        """What the next event by this name says."""
        while found := self.next():
            if found[0] == wanted:
                return found[1]
        raise AssertionError(f"no {wanted} has come")


def test_who_listens_hears_of_steps_alerts_incidents_actions_and_states(served: Served) -> None:
    listening = Listening(served, "?run=heard")
    assert listening.response.headers["Content-Type"] == "text/event-stream"
    other = FakeJob(served.daemon.place, run="other", pid=9000).connect()
    job = FakeJob(served.daemon.place, run="heard", pid=7000).connect()
    assert listening.until("state") == {
        "run": "heard",
        "before": None,
        "state": "running",
        "step": 0,
    }
    other.train()
    for _ in range(3):
        job.train()
    while listening.until("step") != {"run": "heard", "step": 3}:
        pass
    job.train(APPLIED_NAN)
    incident = listening.until("incident")
    assert (incident["run"], incident["change"]) == ("heard", "opened")
    alert = listening.until("alert")
    assert (alert["incident"], alert["state"]) == (incident["incident"], "firing")
    assert (alert["rule"], alert["labels"]) == ("NonFiniteActivation", {"rank": "1"})
    job.await_hold_order()
    job.train_until_stand()
    in_state(served.daemon, job, "held", "heard")
    done = {"run": "heard", "action": "pause", "step": job.step, "by": "rule:NonFiniteUpdate"}
    assert listening.until("action")["state"] == "requested"
    assert listening.until("action") == {**done, "state": "done"}
    other.goodbye()
    job.vanish()
    listening.connection.close()


def test_a_token_that_is_revoked_hears_no_more(served: Served) -> None:
    tokens = Tokens(served.daemon.state)
    secret = tokens.add("leaver", "viewer", by="user test", now=0.0, expires=None)
    listening = Listening(served, token=secret)
    assert listening.response.status == 200
    tokens.revoke("leaver", by="user test", now=1.0)
    while listening.next():
        pass
    assert Listening(served, token=secret).response.status == 401


def test_a_head_request_is_answered_and_ends(served: Served) -> None:
    answer, body = served.send("HEAD", "/api/v1/events", "viewer")
    assert (answer.status, body) == (200, b"")


def test_a_daemon_that_ends_sends_its_listeners_home(served: Served) -> None:
    listening = Listening(served)
    assert served.daemon.stop() == 0
    while listening.next():
        pass
    assert "Traceback" not in served.daemon.log()


def test_a_slow_listener_loses_the_oldest_events_but_never_the_newest_step() -> None:
    stream = Stream(None)
    for number in range(QUEUE + 10):
        stream.tell("run", "action", {"n": number})
        stream.step("run", number)
    events = stream.take().decode().split("\n\n")[:-1]
    assert events[0] == "event: lost\ndata: {}"
    assert events[1] == 'event: action\ndata: {"n":10}'
    assert events[-1] == f'event: step\ndata: {{"run":"run","step":{QUEUE + 9}}}'
    assert len(events) == QUEUE + 2
    assert stream.take() == b""


async def test_no_more_than_may_listen_and_whoever_leaves_makes_room() -> None:
    streams = Streams({})
    listening = [streams.open(None) for _ in range(MAX_LISTENERS)]
    with pytest.raises(TooManyError, match="listen already"):
        streams.open(None)
    streams.leave(listening[0])
    last = streams.open("one")
    streams.hear(StateNews("other", None, "running", 0))
    assert (last.take(), listening[1].take()[:12]) == (b"", b"event: state")
    streams.close()
    assert last.ended
    for stream in [*listening, last]:
        streams.leave(stream)
