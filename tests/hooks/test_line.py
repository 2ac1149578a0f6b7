"""The sender over TLS, against servers that are false, mute, slow or gone: training never waits."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from sentinel import address, bearer, tls, wire
from sentinel_hooks import emitter as emitters
from sentinel_hooks import line as lines
from sentinel_hooks.emitter import Emitter, Order

SECRET = bearer.mint()


class Rank:
    """The rank that an emitter speaks for."""

    def __init__(self, place: address.Address) -> None:
        self.place = place
        self.orders: list[Order] = []
        self.refreshed = 0

    def locate(self) -> address.Address | None:
        return self.place

    def greeting(self) -> list[wire.FromRank]:
        version, pid = wire.VERSION, os.getpid()
        return [wire.Hello(version, "run", 0, 1, "a", "host", pid, "cpu", "plain", 0, ())]

    def series(self) -> tuple[wire.Series, ...]:
        return ()

    def heartbeat(self, dropped: dict[str, int]) -> wire.Heartbeat:
        return wire.Heartbeat(0, "data", 0.0, dropped)

    def refresh(self) -> None:
        self.refreshed += 1

    def hear(self, order: Order) -> None:
        self.orders.append(order)

    def capture(self, incident: str) -> None:
        """There is no black box here."""

    def stand(self, incident: str) -> wire.Stack:
        return wire.Stack(incident, "", "")


class Server:
    """A port on this machine, driven by the test."""

    def __init__(self, authority: trustme.CA, *names: str) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(30)
        self.place = address.TlsAddress("localhost", self.listener.getsockname()[1])
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(self.context)
        self.splitter = wire.Splitter()
        self.received: list[wire.FromRank | wire.Unknown] = []

    def accept(self) -> ssl.SSLSocket:
        connection, _ = self.listener.accept()
        connection.settimeout(30)
        return self.context.wrap_socket(connection, server_side=True)

    def read_until(self, connection: ssl.SSLSocket, kind: type[wire.FromRank]) -> None:
        while not any(isinstance(one, kind) for one in self.received):
            data = connection.recv(65536)
            assert data, f"hung up after {self.received[-3:]}"
            self.received += map(wire.decode_from_rank, self.splitter.feed(data))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s"
        threading.Event().wait(0.01)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The one that is trusted."""
    return trustme.CA()


@pytest.fixture(autouse=True)
def _environment(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SENTINEL_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SENTINEL_TOKEN", SECRET)
    monkeypatch.delenv("SENTINEL_TOKEN_FILE", raising=False)


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Server]:
    """One that can be trusted."""
    made = Server(authority, "localhost")
    yield made
    made.listener.close()


@contextlib.contextmanager
def sending(place: address.Address) -> Iterator[tuple[Emitter, Rank]]:
    """A rank that looks for its daemon there."""
    rank = Rank(place)
    emitter = Emitter(rank, capacity=64)
    emitter._interval = 0.05
    emitter.start()
    try:
        yield emitter, rank
    finally:
        emitter.close(wire.Goodbye("finished"))


def test_credentials_come_first_and_the_goodbye_arrives_though_much_is_left_unread(
    server: Server,
) -> None:
    with sending(server.place) as (emitter, rank):
        connection = server.accept()
        server.read_until(connection, wire.Hello)
        order = wire.ResumeOrder(1, "user")
        for message in (wire.Welcome(wire.VERSION), order):
            connection.sendall(wire.encode(message))
        wait_for(lambda: rank.orders == [order])
        for number in range(1, 51):
            emitter.put(wire.Frame(number, number, 0.0, bytes(8000)))
        # What this side still has to say when it ends is not read by the rank any more.
        connection.sendall(wire.encode(wire.Capture("1")) * 1000)
        closing = threading.Thread(target=emitter.close, args=(wire.Goodbye("finished"),))
        closing.start()
        server.read_until(connection, wire.Goodbye)
        connection.close()
        closing.join(30)
    assert server.received[0] == wire.Credentials(SECRET)
    assert isinstance(server.received[1], wire.Hello)
    frames = [one.sequence for one in server.received if isinstance(one, wire.Frame)]
    assert frames == list(range(1, 51))


def hear_nothing(server: Server) -> None:
    """Accept until the other side breaks off. Fails when it says anything."""
    while True:
        with server.accept() as connection:
            assert connection.recv(65536) == b""


@pytest.mark.parametrize("fault", ["another authority", "another name"])
def test_a_server_that_cannot_be_trusted_gets_no_token(
    authority: trustme.CA, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    false = (
        Server(trustme.CA(), "localhost")
        if fault == "another authority"
        else Server(authority, "elsewhere.example")
    )
    with sending(false.place) as (emitter, rank):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            hear_nothing(false)
        wait_for(lambda: "certificate is not to be trusted" in caplog.text)
        beats = rank.refreshed
        wait_for(lambda: rank.refreshed > beats + 2)
        assert emitter.absent() > 0
    assert caplog.text.count("training goes on unwatched") == 1
    assert SECRET not in caplog.text
    false.listener.close()


def test_a_server_that_accepts_and_says_nothing_costs_no_time(server: Server) -> None:
    """The handshake never comes: frames are dropped, the control state is looked at, and the end
    of the process waits for nobody."""
    with sending(server.place) as (emitter, rank):
        plain, _ = server.listener.accept()
        beats = rank.refreshed
        wait_for(lambda: rank.refreshed > beats + 3)
        for number in range(1, 101):
            emitter.put(wire.Frame(number, number, 0.0, b""))
        assert emitter.waiting <= 64
        assert emitter.dropped["no daemon"] >= 36
        closed = threading.Event()

        def close() -> None:
            emitter.close(wire.Goodbye("finished"))
            closed.set()

        threading.Thread(target=close).start()
        assert closed.wait(tls.CONNECT_TIMEOUT)  # far sooner, but no clock is trusted here
        plain.close()


def test_a_name_that_takes_for_ever_to_be_looked_up_costs_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a resolver is black-holed."""
    asked, answered = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> socket.socket:
        asked.set()
        answered.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", slow)
    with sending(address.TlsAddress("black-hole.example", 9476)) as (_, rank):
        assert asked.wait(30)
        beats = rank.refreshed
        wait_for(lambda: rank.refreshed > beats + 3)
        answered.set()


def test_a_daemon_that_never_welcomes_is_left_and_counts_as_absent(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(emitters, "WELCOME_WITHIN", 0.1)
    with sending(server.place) as (emitter, _):
        first = server.accept()
        wait_for(lambda: "takes the connection and says nothing" in caplog.text)
        second = server.accept()  # it comes back
        since = time.monotonic() - emitter._last_contact
        wait_for(lambda: emitter._connection is None)
        assert emitter.absent() >= since
        first.close()
        second.close()


def test_a_final_refusal_ends_the_attempts_and_a_missing_token_does_not(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SENTINEL_TOKEN")
    with sending(server.place) as (emitter, _):
        wait_for(lambda: "no token: put the one" in caplog.text)
        monkeypatch.setenv("SENTINEL_TOKEN", SECRET)
        connection = server.accept()
        server.read_until(connection, wire.Hello)
        connection.sendall(wire.encode(wire.Refusal("token ann was revoked", final=True)))
        wait_for(lambda: emitter._refused and emitter.absent() > 0)
        connection.close()


def test_the_kernel_is_asked_to_notice_a_host_that_is_gone(server: Server) -> None:
    accepted: list[ssl.SSLSocket] = []
    accepting = threading.Thread(target=lambda: accepted.append(server.accept()))
    accepting.start()
    line, opening = lines.connect(server.place)
    accepting.join(30)
    connection = line._connection
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert not connection.getblocking()
    assert opening == wire.encode(wire.Credentials(SECRET))
    assert line.receive() is None
    line.close()
    accepted[0].close()
