"""Events as they happen: what listeners hear, and when they hear no more."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sentinel import clock
from sentinel.daemon.event_api import event_endpoints
from sentinel.daemon.news import StateNews
from sentinel.daemon.service import Service, Settings
from sentinel.daemon.streams import (
    MAX_LISTENERS,
    MAX_OF_ONE,
    QUEUE,
    Stream,
    Streams,
    TooManyError,
)
from sentinel.store.tokens import Tokens
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, eventually
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


def test_one_token_leaves_places_to_others_and_is_told_so(served: Served) -> None:
    greedy = [Listening(served) for _ in range(MAX_OF_ONE)]
    refused = Listening(served)
    assert refused.response.status == 429
    assert b"token viewer listens 16 times already" in refused.response.read()
    assert Listening(served, token=served.tokens["operator"]).response.status == 200
    greedy[0].connection.close()
    greedy[0].response.close()
    eventually(lambda: Listening(served).response.status == 200, "a place")


def test_who_listens_hears_that_somebody_looks_after_an_incident(served: Served) -> None:
    listening = Listening(served)
    path = f"/api/v1/incidents/{served.incident}/acknowledge"
    for _ in range(2):  # the second changes nothing, and is no news
        assert served.send("POST", path, "operator")[0].status == 200
    assert listening.until("incident") == {
        "run": "run",
        "incident": served.incident,
        "change": "acknowledged",
        "severity": "critical",
    }
    FakeJob(served.daemon.place, run="later", pid=11000).connect()
    assert listening.next() == (
        "state",
        {"run": "later", "before": None, "state": "running", "step": 0},
    )
    listening.connection.close()


def test_a_daemon_that_ends_sends_its_listeners_home(served: Served) -> None:
    listening = Listening(served)
    assert served.daemon.stop() == 0
    while listening.next():
        pass
    assert "Traceback" not in served.daemon.log()


def test_a_slow_listener_loses_the_oldest_events_but_never_the_newest_step() -> None:
    stream = Stream(None, "token ann")
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
    listening = [streams.open(None, f"token {number}") for number in range(MAX_LISTENERS)]
    with pytest.raises(TooManyError, match="listen already"):
        streams.open(None, "token ann")
    streams.leave(listening[0])
    last = streams.open("one", "token ann")
    streams.hear(StateNews("other", None, "running", 0))
    assert (last.take(), listening[1].take()[:12]) == (b"", b"event: state")
    streams.close()
    assert last.ended
    for stream in [*listening, last]:
        streams.leave(stream)


async def test_a_listener_that_takes_nothing_is_hung_up_on(tmp_path: Path) -> None:
    service = Service(Settings(tmp_path, rules=()))
    app = web.Application()
    app.add_routes([one.route() for one in event_endpoints(service, stalled=0.1)])
    runner = web.AppRunner(app)
    await runner.setup()
    server = runner.server
    assert server is not None
    here, there = socket.socketpair()
    await asyncio.get_running_loop().connect_accepted_socket(server, there)
    try:
        here.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await _until(lambda: service.streams.listening)
        for _ in range(QUEUE):
            service.streams.hear(StateNews("x" * 100_000, None, "running", 0))
        await _until(lambda: not server.connections)
        assert not service.streams.listening
    finally:
        here.close()
        await runner.cleanup()


async def _until(so: Callable[[], object]) -> None:
    deadline = clock.monotonic() + PATIENCE
    while not so():
        assert clock.monotonic() < deadline
        await asyncio.sleep(0.01)
