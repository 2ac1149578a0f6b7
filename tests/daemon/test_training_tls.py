"""Training connections over TLS: a trainer's token, and nothing that a rank may not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel import tls, wire
from sentinel.daemon import listener as listening
from sentinel.daemon.listener import Listener
from tests.daemon.fake_job import FakeJob, FakeRank, Register
from tests.daemon.guarded import Guarded, on_record, refusals
from tests.daemon.process import eventually
from tests.daemon.scenes import status
from tests.vocabulary.wire_strategies import FROM_DAEMON


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A daemon under TLS for all tests of this file."""
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTINEL_CA", str(made.authority.ca))
        yield made
    made.daemon.kill()


def answers(guarded: Guarded, *messages: bytes) -> list[wire.FromDaemon | wire.Unknown]:
    """All that the daemon says to these messages over TLS, until it hangs up."""
    splitter, said = wire.Splitter(), []
    with tls.connect(guarded.place) as connection:
        connection.sendall(b"".join(messages))
        while data := connection.recv(65536):
            said += [wire.decode_from_daemon(body) for body in splitter.feed(data)]
    return said


def credentials(guarded: Guarded, who: str) -> bytes:
    return wire.encode(wire.Credentials(guarded.tokens[who]))


def hello(run: str = "run") -> bytes:
    return wire.encode(FakeRank(Path("/"), Register(), run=run).hello())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("unknown", "does not know this token"),
        ("expired", "token expired has expired"),
        ("revoked", "token revoked was revoked"),
        ("viewer", "has the role viewer: this takes trainer"),
        ("operator", "has the role operator: this takes trainer"),
        ("admin", "has the role admin: this takes trainer"),
    ],
)
def test_only_a_good_token_of_a_trainer_is_let_in(guarded: Guarded, who: str, reason: str) -> None:
    (refusal,) = answers(guarded, credentials(guarded, who), hello())
    assert isinstance(refusal, wire.Refusal)
    assert refusal.final
    assert reason in refusal.reason
    by = "somebody" if who == "unknown" else f"token {who}"
    eventually(
        lambda: any(
            one["by"] == f"{by} from 127.0.0.1" and reason in one["detail"]
            for one in guarded.refusals()
        )
    )


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (hello(), "a token is needed here"),
        (wire.encode(wire.Credentials("")), "does not know this token"),
        (b"\x00\x00\x04\x01" + b"x" * 1025, "limit is 1024"),
        (b"\xff\xff\xff\xff", "limit is 1024"),
        (b"\x00\x00\x00\x01\xc1", "malformed"),
        (wire.encode(wire.Goodbye("finished")), "a token is needed here"),
        (b"GET / HTTP/1.1\r\n\r\n", "limit is 1024"),
    ],
    ids=["no token", "empty", "oversize", "huge", "malformed", "goodbye", "HTTP"],
)
def test_who_opens_without_a_token_is_told_why(
    guarded: Guarded, opening: bytes, reason: str
) -> None:
    (refusal,) = answers(guarded, opening)
    assert isinstance(refusal, wire.Refusal)
    assert reason in refusal.reason


def test_a_token_comes_once_and_first(guarded: Guarded) -> None:
    mine = credentials(guarded, "trainer")
    (refusal,) = answers(guarded, mine, mine)
    assert isinstance(refusal, wire.Refusal)
    assert "expected hello first" in refusal.reason
    welcome, refusal = answers(guarded, mine, hello("twice"), mine)
    assert isinstance(welcome, wire.Welcome)
    assert isinstance(refusal, wire.Refusal)
    assert "come first" in refusal.reason


def test_a_rank_over_tls_is_watched_like_any_other_and_its_token_is_written_nowhere(
    guarded: Guarded,
) -> None:
    job = FakeJob(guarded.place, run="watched", token=guarded.tokens["trainer"]).connect()
    for _ in range(3):
        job.train()
    eventually(lambda: status(guarded.daemon, "watched")["step"] == 3)
    job.goodbye()
    eventually(lambda: status(guarded.daemon, "watched")["state"] == "finished")
    secret = guarded.tokens["trainer"].encode()
    for file in guarded.daemon.state.rglob("*"):
        if file.is_file():
            assert secret not in file.read_bytes(), file


def test_a_token_that_is_revoked_ends_its_connections(guarded: Guarded) -> None:
    guarded.tokens["gone"] = guarded.add("gone", "trainer")
    rank = FakeRank(guarded.place, Register(), run="cut", token=guarded.tokens["gone"]).connect()
    guarded.store.revoke("gone", by="user", now=2.0)
    refusal = rank.receive(30.0)
    assert refusal == wire.Refusal("token gone was revoked", True)
    assert rank.receive(30.0) is None
    eventually(lambda: any(one["by"].startswith("token gone") for one in guarded.refusals()))
    rank.close()


ORDERS: dict[str, wire.FromDaemon] = {
    "hold": wire.HoldOrder(1, 1, 10, 2, 60.0, "user", ""),
    "resume": wire.ResumeOrder(1, "user"),
    "stop": wire.StopOrder(1, "user"),
    "capture": wire.Capture("1"),
    "stack_request": wire.StackRequest("1"),
    "welcome": wire.Welcome(wire.VERSION),
    "refusal": wire.Refusal("no"),
}


def test_every_message_of_the_daemon_is_among_those_that_are_tried() -> None:
    assert {type(order) for order in ORDERS.values()} == set(FROM_DAEMON)


@pytest.mark.parametrize("over", ["tls", "unix"])
def test_a_rank_that_commands_is_refused_and_it_is_on_the_runs_record(
    guarded: Guarded, over: str
) -> None:
    daemon, run = guarded.daemon, f"mutiny-{over}"
    place = guarded.place if over == "tls" else daemon.place
    job = FakeJob(place, run=run, token=guarded.tokens["trainer"]).connect()
    job.train()
    on_record(daemon, run)
    good, bad = job.ranks
    for tag, order in ORDERS.items():
        assert bad._socket is not None
        bad._socket.sendall(wire.encode(order))
        refusal = bad.receive()
        assert isinstance(refusal, wire.Refusal), refusal
        assert f"it sent a {tag} message" in refusal.reason
        bad.close()
        bad.connect()
    job.train()
    assert good.orders == []
    assert status(daemon, run)["state"] == "running"
    rows = eventually(lambda: (found := refusals(daemon, run))[len(ORDERS) - 1 :] and found)
    assert [row["action"] for row in rows] == [
        "pause",
        "resume",
        "stop",
        "capture",
        "stack_request",
        "welcome",
        "refusal",
    ]
    who = "rank 1 (token trainer from 127.0.0.1)" if over == "tls" else "rank 1 (process "
    assert all(row["by"].startswith(who) for row in rows)
    job.goodbye()


def test_a_stranger_who_opens_with_an_order_is_refused_and_recorded(guarded: Guarded) -> None:
    with guarded.daemon.connect() as connection:
        connection.sendall(wire.encode(ORDERS["stop"]))
        (refusal,) = [
            wire.decode_from_daemon(body) for body in wire.Splitter().feed(connection.recv(65536))
        ]
    assert isinstance(refusal, wire.Refusal)
    eventually(
        lambda: any(
            one["action"] == "stop" and one["by"].startswith("process ")
            for one in guarded.refusals()
        )
    )


def test_a_verified_name_is_asked_for(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentinel.address import TlsAddress

    with pytest.raises(ssl.SSLCertVerificationError):
        tls.connect(TlsAddress("127.0.0.2", guarded.training))
    monkeypatch.delenv("SENTINEL_CA")
    with pytest.raises(ssl.SSLCertVerificationError):
        tls.connect(guarded.place)


async def test_who_dawdles_over_a_handshake_holds_nobody_up(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent ones take every place that there is; one who means it is served all the same."""
    monkeypatch.setattr(listening, "HANDSHAKE_WITHIN", 0.2)
    monkeypatch.setattr(listening, "MAX_HANDSHAKES", 2)
    told: list[str] = []
    served = asyncio.Event()

    class Served(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            served.set()

    bound = listening.bind("127.0.0.1", 0, "")
    place = bound.getsockname()
    context = tls.server_context(str(guarded.authority.certificate), str(guarded.authority.key))
    server = Listener(bound, Served, context, lambda _, why: told.append(why))
    silent = [socket.create_connection(place, 30) for _ in range(4)]
    try:
        trusting = ssl.create_default_context(cafile=str(guarded.authority.ca))
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(*place[:2], ssl=trusting, server_hostname="localhost"), 30
        )
        await asyncio.wait_for(served.wait(), 30)
        writer.close()
        assert told == ["only TLS is spoken here: no handshake within 0.2 s"] * len(told)
        assert len(told) >= 3
    finally:
        await server.close()
        for connection in silent:
            connection.close()
