"""HTTP over the network: who may ask for what, and what is on record of those who may not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from sentinel import tls
from sentinel.control.barrier import Verdict
from sentinel.daemon.listener import Listener, bind
from sentinel.daemon.patience import Patience
from tests.daemon.fake_job import FakeJob
from tests.daemon.guarded import Guarded, on_record, refusals
from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import in_state, status


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A daemon under TLS for all tests of this file."""
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTINEL_CA", str(made.authority.ca))
        yield made
    made.daemon.kill()


READ = ("GET", "/api/v1/status")
ORDER = ("POST", "/api/v1/runs/nobody/pause")
MANAGE = ("GET", "/api/v1/tokens")
METRICS = ("GET", "/metrics")
NOWHERE = ("GET", "/api/v1/nowhere")
STRANGER = "the daemon does not know this token"


@pytest.mark.parametrize(
    ("who", "request_", "code", "reason"),
    [
        (None, READ, 401, "a token is needed here"),
        (None, METRICS, 401, "a token is needed here"),
        (None, NOWHERE, 401, "a token is needed here"),
        ("unknown", READ, 401, STRANGER),
        ("unknown", MANAGE, 401, STRANGER),
        ("expired", READ, 401, "token expired has expired"),
        ("revoked", READ, 401, "token revoked was revoked"),
        ("viewer", READ, 200, ""),
        ("viewer", METRICS, 200, ""),
        ("viewer", ORDER, 403, "has the role viewer: this takes operator or admin"),
        ("viewer", MANAGE, 403, "this takes admin"),
        ("operator", READ, 200, ""),
        ("operator", ORDER, 404, "no run 'nobody'"),
        ("operator", MANAGE, 403, "this takes admin"),
        ("operator", ("POST", "/api/v1/tokens"), 403, "this takes admin"),
        ("operator", ("DELETE", "/api/v1/tokens/viewer"), 403, "this takes admin"),
        ("admin", ORDER, 404, "no run 'nobody'"),
        ("admin", MANAGE, 200, ""),
        ("admin", NOWHERE, 404, "Not Found"),
        ("trainer", READ, 403, "has the role trainer"),
        ("trainer", METRICS, 403, "has the role trainer"),
        ("trainer", ORDER, 403, "has the role trainer"),
        ("trainer", MANAGE, 403, "has the role trainer"),
    ],
)
def test_each_role_may_do_what_is_its_own(
    guarded: Guarded, who: str | None, request_: tuple[str, str], code: int, reason: str
) -> None:
    got, answer = guarded.ask(*request_, guarded.tokens[who] if who else None)
    assert got == code, answer
    if code != 200:
        assert reason in answer["error"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic {admin}",
        "{admin}",
        "Bearer {admin} {admin}",
        "Bearer {admin}x",
        "Bearer " + "x" * 5000,
    ],
)
def test_a_token_in_another_form_is_none(guarded: Guarded, header: str) -> None:
    given = header.format(admin=guarded.tokens["admin"])
    assert guarded.ask(*READ, None, Authorization=given)[0] == 401


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://localhost"])
def test_a_page_of_another_site_orders_nothing_even_with_a_token(
    guarded: Guarded, origin: str
) -> None:
    code, answer = guarded.ask(*READ, guarded.tokens["admin"], Origin=origin)
    assert (code, answer) == (403, {"error": "asked for by a page of another site"})
    own = f"https://localhost:{guarded.port}"
    assert guarded.ask(*READ, guarded.tokens["admin"], Origin=own)[0] == 200


def test_a_refusal_names_who_is_known_and_from_where(guarded: Guarded) -> None:
    guarded.tokens["nosy"] = guarded.add("nosy", "viewer")
    assert guarded.ask(*ORDER, guarded.tokens["nosy"])[0] == 403
    (found,) = eventually(
        lambda: [one for one in guarded.refusals() if one["by"] == "token nosy from 127.0.0.1"]
    )
    assert (found["action"], found["order"]) == ("pause", {"run": "nobody"})
    assert found["detail"] == "token nosy has the role viewer: this takes operator or admin"
    assert guarded.daemon.metrics()['sentinel_daemon_refusals_total{kind="role"}'] >= 1


def test_orders_by_token_reach_ranks_over_tls_and_are_on_record_by_its_name(
    guarded: Guarded,
) -> None:
    job = FakeJob(guarded.place, run="far", token=guarded.tokens["trainer"]).connect()
    job.train()
    on_record(guarded.daemon, "far")
    refused, _ = guarded.ask("POST", "/api/v1/runs/far/pause", guarded.tokens["viewer"], {})
    code, given = guarded.ask(
        "POST", "/api/v1/runs/far/pause", guarded.tokens["operator"], {"by": "somebody else"}
    )
    assert (refused, code) == (403, 200)
    job.train_until_stand()
    in_state(guarded.daemon, job, "held", "far")
    assert status(guarded.daemon, "far")["hold"]["by"] == "token operator"
    code, _ = guarded.ask("POST", "/api/v1/runs/far/resume", guarded.tokens["admin"], {})
    assert code == 200
    assert job.await_verdict() is Verdict.GO
    job.train()
    job.goodbye()
    eventually(lambda: status(guarded.daemon, "far")["state"] == "finished")
    shown, became = guarded.ask("GET", f"/api/v1/actions/{given['id']}", guarded.tokens["viewer"])
    assert (shown, became["state"], became["by"]) == (200, "done", "token operator")
    (row,) = guarded.refusals("far")
    assert (row["action"], row["by"]) == ("pause", "token viewer from 127.0.0.1")


def test_an_admin_makes_and_revokes_tokens(guarded: Guarded) -> None:
    admin = guarded.tokens["admin"]
    body = {"name": "made", "role": "operator", "expires_in": 3600}
    code, made = guarded.ask("POST", "/api/v1/tokens", admin, body)
    assert code == 200
    assert guarded.ask(*READ, made["token"])[0] == 200
    assert guarded.ask("POST", "/api/v1/tokens", admin, body)[0] == 409
    for wrong in ({"role": "root"}, {"expires_in": 0}, {"expires_in": 1e12}, {"only": "run"}):
        assert guarded.ask("POST", "/api/v1/tokens", admin, body | {"name": "n"} | wrong)[0] == 400
    assert guarded.ask("DELETE", "/api/v1/tokens/made", admin)[0] == 200
    assert guarded.ask(*READ, made["token"])[0] == 401
    (shown,) = [one for one in guarded.ask(*MANAGE, admin)[1] if one["name"] == "made"]
    assert (shown["state"], shown["made_by"], shown["revoked_by"]) == (
        *("revoked", "token admin", "token admin"),
    )
    assert made["token"] not in json.dumps(guarded.ask(*MANAGE, admin)[1])


def test_damaged_tokens_let_nobody_in_until_they_are_mended(guarded: Guarded) -> None:
    file = guarded.daemon.state / "tokens.json"
    before = file.read_bytes()
    name = 'sentinel_daemon_refusals_total{kind="token"}'
    counted = guarded.daemon.metrics().get(name, 0.0)
    file.write_bytes(before[:-20])
    try:
        code, answer = guarded.ask(*READ, guarded.tokens["admin"])
        assert code == 503
        assert "cannot read its tokens" in answer["error"]
        assert guarded.daemon.get("/api/v1/status")[0] == 200
    finally:
        file.write_bytes(before)
    assert guarded.ask(*READ, guarded.tokens["admin"])[0] == 200
    assert "nobody is let in over the network" in guarded.daemon.log()
    assert guarded.daemon.metrics()[name] > counted


def test_who_is_not_let_in_is_hung_up_on(guarded: Guarded) -> None:
    context = ssl.create_default_context(cafile=str(guarded.authority.ca))
    plain = socket.create_connection(("localhost", guarded.port), 30)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(b"POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"WWW-Authenticate: Bearer" in answer


@pytest.fixture
def old_tls() -> ssl.SSLContext:
    """Speaks TLS 1.1 and nothing newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("port", ["port", "training"])
def test_what_speaks_no_tls_or_an_old_one_is_refused_and_recorded(
    guarded: Guarded, port: str, request: pytest.FixtureRequest
) -> None:
    def refused() -> float:
        return guarded.daemon.metrics().get('sentinel_daemon_refusals_total{kind="tls"}', 0.0)

    before = refused()
    place = ("127.0.0.1", getattr(guarded, port))
    with socket.create_connection(place, 30) as plain:
        plain.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not plain.recv(65536).startswith(b"HTTP")
    eventually(lambda: refused() == before + 1)
    old: ssl.SSLContext = request.getfixturevalue("old_tls")
    with socket.create_connection(place, 30) as plain, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(plain)
    eventually(lambda: refused() == before + 2)


def test_a_flood_of_strangers_is_counted_in_full_and_recorded_in_a_few_rows(
    tmp_path: Path,
) -> None:
    daemon = Daemon(tmp_path / "state", http="127.0.0.1:0").start()
    found = re.search(r"metrics on http://127\.0\.0\.1:(\d+)/", daemon.log())
    assert found
    request = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", int(found[1])), 30) as connection:
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 401")
    assert daemon.metrics()['sentinel_daemon_refusals_total{kind="token"}'] == 60
    assert daemon.stop() == 0
    rows = [row["detail"] for row in refusals(daemon)]
    assert 10 <= len(rows) <= 12
    more = [re.search(r"and (\d+) more", row) for row in rows]
    assert len(rows) + sum(int(one[1]) for one in more if one) == 60


async def test_who_never_comes_to_the_point_is_hung_up_on_and_who_does_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sentinel.daemon.patience.REQUEST_WITHIN", 0.2)
    patience = Patience()
    runner = web.AppRunner(web.Application(middlewares=[patience.heard]))
    await runner.setup()
    server = runner.server
    assert server is not None
    bound = bind("127.0.0.1", 0, "")
    host, port = bound.getsockname()[:2]
    listener = Listener(bound, lambda: patience.begin(server()), None, lambda *_: None)
    try:
        prompt, slow = [await asyncio.open_connection(host, port) for _ in range(2)]
        prompt[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(prompt[0].readline(), 30)).startswith(b"HTTP/1.1 404")
        slow[1].write(b"GET / HTTP/1.1\r\nHost:")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(slow[0].read(), 30) == b""
        prompt[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"404" in await asyncio.wait_for(prompt[0].readuntil(b"HTTP/1.1 404"), 30)
    finally:
        for _, writer in (prompt, slow):
            writer.close()
        await listener.close()
        await runner.cleanup()


def test_a_context_for_clients_takes_no_old_tls_and_checks_names() -> None:
    context = tls.client_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
