"""Connections of ranks: who is taken in, and what happens to those that break the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel import wire
from sentinel.daemon import session as sessions
from sentinel.daemon.counts import Counts
from sentinel.daemon.session import Session
from tests.daemon.fake_job import FakeJob, FakeRank, Register
from tests.daemon.process import Daemon, eventually


def said_to(daemon: Daemon, data: bytes) -> list[wire.FromDaemon | wire.Unknown]:
    """All that the daemon says to a peer that sends these bytes, until it hangs up."""
    splitter = wire.Splitter()
    messages = []
    with daemon.connect() as connection:
        connection.settimeout(10)
        connection.sendall(data)
        while received := connection.recv(65536):
            messages += [wire.decode_from_daemon(body) for body in splitter.feed(received)]
    return messages


def hello(daemon: Daemon, **changes: object) -> wire.Hello:
    return msgspec.structs.replace(
        FakeRank(daemon.place, Register(), run="hostile", world_size=2).hello(), **changes
    )


HEARTBEAT = wire.Heartbeat(1, "forward", 0.0)


def rejected(daemon: Daemon, reason: str) -> float:
    metrics = daemon.metrics()
    return metrics.get(f'sentinel_daemon_messages_rejected_total{{reason="{reason}"}}', 0.0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00\x00\x00\x05hello", "malformed message"),
        (b"\xff\xff\xff\xff", "limit is"),
        (wire.encode(HEARTBEAT), "expected hello first, got heartbeat"),
        (b"\x00\x00\x00\x01\xc1", "malformed message"),
    ],
    ids=["garbage", "oversized", "no hello", "bad msgpack"],
)
def test_who_opens_wrongly_is_told_why_and_hung_up_on(
    shared: Daemon, data: bytes, reason: str
) -> None:
    before = rejected(shared, "malformed")
    (refusal,) = said_to(shared, data)
    assert isinstance(refusal, wire.Refusal)
    assert reason in refusal.reason
    assert rejected(shared, "malformed") == before + 1


@pytest.mark.parametrize(
    ("changes", "reason", "final"),
    [
        ({"version": (wire.VERSION[0] + 1, 0)}, "protocol", True),
        ({"rank": 2}, "no rank 2 among 2", False),
        ({"lease_limit": float("nan")}, "lease limit", False),
        ({"lease_limit": -1.0}, "lease limit", False),
        ({"run": "a/b"}, "cannot name a run", False),
        ({"run": " "}, "cannot name a run", False),
        ({"series": (wire.Series("loss"), wire.Series("loss"))}, "announced twice", True),
    ],
    ids=["version", "rank", "NaN lease", "negative lease", "slash", "blank", "series twice"],
)
def test_a_hello_that_makes_no_sense_is_refused(
    shared: Daemon, changes: dict[str, object], reason: str, final: bool
) -> None:
    (refusal,) = said_to(shared, wire.encode(hello(shared, **changes)))
    assert isinstance(refusal, wire.Refusal)
    assert reason in refusal.reason
    assert refusal.final is final
    names = [run["run"] for run in json.loads(shared.get("/api/v1/status")[1])]
    assert "a/b" not in names


def test_a_second_hello_on_one_connection_is_refused(shared: Daemon) -> None:
    greeting = wire.encode(hello(shared, run="twice"))
    welcome, refusal = said_to(shared, greeting + greeting)
    assert isinstance(welcome, wire.Welcome)
    assert isinstance(refusal, wire.Refusal)
    assert "second hello" in refusal.reason


def test_an_outcome_that_is_none_is_refused(shared: Daemon) -> None:
    data = wire.encode(hello(shared, run="outcome")) + wire.encode(wire.Report(b"{]"))
    _, refusal = said_to(shared, data)
    assert isinstance(refusal, wire.Refusal)
    assert "malformed outcome" in refusal.reason


def test_a_message_of_a_newer_peer_is_counted_and_passed_over(shared: Daemon) -> None:
    rank = FakeRank(shared.place, Register(), run="newer").connect()
    before = rejected(shared, "unknown")
    body = msgspec.msgpack.encode(["telepathy", 1, 2])
    assert rank._socket is not None
    rank._socket.sendall(struct.pack(">I", len(body)) + body)
    rank.frame()
    eventually(lambda: rejected(shared, "unknown") == before + 1)
    eventually(lambda: shared.metrics().get('sentinel_run_step{run="newer"}') == 1)
    rank.close()


def test_another_world_size_is_refused_while_the_job_lives(shared: Daemon) -> None:
    job = FakeJob(shared.place, run="world").connect()
    (refusal,) = said_to(shared, wire.encode(hello(shared, run="world", rank=2, world_size=3)))
    assert isinstance(refusal, wire.Refusal)
    assert "has 2 ranks" in refusal.reason
    job.train()
    eventually(lambda: shared.metrics().get('sentinel_run_step{run="world"}') == 1)
    job.goodbye()


def test_the_newest_process_of_a_rank_wins_and_the_old_one_stays_out(shared: Daemon) -> None:
    old = FakeJob(shared.place, run="reborn").connect()
    new = FakeJob(shared.place, run="reborn", pid=5000).connect()
    for rank in old.ranks:
        last = rank.receive()
        assert isinstance(last, wire.Refusal)
        assert last.final
    (refusal,) = said_to(shared, wire.encode(old.ranks[0].hello()))
    assert isinstance(refusal, wire.Refusal)
    assert refusal.final
    new.train()
    (run,) = json.loads(shared.get("/api/v1/status?run=reborn")[1])
    assert [rank["pid"] for rank in run["ranks"]] == [5000, 5001]
    new.goodbye()


def test_a_process_of_the_job_before_stays_out_also_where_its_rank_is_still_free(
    shared: Daemon,
) -> None:
    old = FakeJob(shared.place, run="partly").connect()
    new = FakeJob(shared.place, run="partly", pid=5000)
    new.ranks[1].connect()
    (refusal,) = said_to(shared, wire.encode(old.ranks[0].hello()))
    assert isinstance(refusal, wire.Refusal)
    assert refusal.final
    new.ranks[0].connect()
    new.train()
    eventually(lambda: shared.metrics().get('sentinel_run_step{run="partly"}') == 1)
    new.goodbye()


def test_a_rank_that_comes_back_takes_the_place_of_its_own_old_connection(shared: Daemon) -> None:
    rank = FakeRank(shared.place, Register(), run="back").connect()
    old = rank._socket
    rank.connect()
    assert old is not None
    eventually(lambda: not _is_open(old))
    rank.frame()
    eventually(lambda: shared.metrics().get('sentinel_run_step{run="back"}') == 1)
    rank.close()


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536) != b""
    except BlockingIOError:
        return True


def test_a_rank_that_never_reads_holds_nobody_up(shared: Daemon) -> None:
    job = FakeJob(shared.place, run="deaf").connect()
    deaf, good = job.ranks
    for _ in range(2000):
        deaf.send(HEARTBEAT)
    job.train()
    eventually(lambda: shared.metrics().get('sentinel_run_step{run="deaf"}') == 1)
    assert shared.get("/healthz")[0] == 200
    good.obey()
    job.vanish()


bodies = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**40), 2**40)
        | st.text(max_size=20)
        | st.floats(),
        lambda inner: st.lists(inner, max_size=8),
        max_leaves=20,
    ).map(msgspec.msgpack.encode),
    st.builds(
        lambda tag, rest: msgspec.msgpack.encode([tag, *rest]),
        st.sampled_from(
            ["hello", "frame", "heartbeat", "standing", "report", "goodbye", "coverage"]
        ),
        st.lists(st.integers().filter(lambda n: abs(n) < 2**60) | st.text(max_size=8), max_size=9),
    ),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(opening=st.booleans(), messages=st.lists(bodies, min_size=1, max_size=5))
def test_no_bytes_whatever_harm_the_daemon(
    shared: Daemon, opening: bool, messages: list[bytes]
) -> None:
    framed = b"".join(struct.pack(">I", len(body)) + body for body in messages)
    if opening:
        framed = wire.encode(hello(shared, run="fuzz", world_size=1)) + framed
    with shared.connect() as connection, contextlib.suppress(OSError):  # hung up on already
        connection.sendall(framed)
    assert shared.get("/healthz")[0] == 200
    metrics = shared.metrics()
    assert metrics["sentinel_daemon_faults_total"] == 0


class Floor:
    """A daemon that takes nobody in."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.turned: list[tuple[str, str]] = []

    def opened(self, session: Session) -> bool:
        return True

    def turned_away(self, kind: str, by: str, asked: str, why: str, run: str) -> None:
        self.turned.append((kind, asked))

    def closed(self, session: Session) -> None:
        """Nothing to be done."""

    def admit(self, hello: wire.Hello, session: Session, now: float, body: bytes) -> object:
        raise AssertionError("nobody says hello")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def test_a_peer_that_leaves_too_much_unread_is_hung_up_on(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    floor = Floor()
    session = Session(floor)  # type: ignore[arg-type]
    pair[0].setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: session, pair[0])
    order = wire.HoldOrder(1, 1, 10, 2, 60.0, "user", "x" * 4000)
    for _ in range(sessions.UNREAD_LIMIT // 4000 + 200):
        session.send(order)
    assert floor.counts.rejected["unread"] == 1


async def test_a_peer_that_says_nothing_is_hung_up_on(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "HELLO_WITHIN", 0.05)
    floor = Floor()
    pair[0].setblocking(False)
    pair[1].setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: Session(floor), pair[0])  # type: ignore[arg-type]
    data = await asyncio.wait_for(loop.sock_recv(pair[1], 65536), 10)
    (refusal,) = [wire.decode_from_daemon(body) for body in wire.Splitter().feed(data)]
    assert isinstance(refusal, wire.Refusal)
    assert "no hello" in refusal.reason
    assert floor.counts.rejected["silent"] == 1


async def test_another_users_process_is_refused(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "is_welcome", lambda uid: False)
    floor = Floor()
    pair[0].setblocking(False)
    pair[1].setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: Session(floor), pair[0])  # type: ignore[arg-type]
    data = await asyncio.wait_for(loop.sock_recv(pair[1], 65536), 10)
    (refusal,) = [wire.decode_from_daemon(body) for body in wire.Splitter().feed(data)]
    assert isinstance(refusal, wire.Refusal)
    assert "another user" in refusal.reason
    assert floor.turned == [("user", "to be watched")]
