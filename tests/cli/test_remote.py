"""The command line and a daemon elsewhere, and who may reach one."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from sentinel import bearer
from sentinel.cli.main import execute
from sentinel.store.tokens import Tokens
from tests.daemon.fake_job import FakeJob
from tests.daemon.guarded import Authority, Guarded
from tests.daemon.process import eventually
from tests.daemon.scenes import in_state, status


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A daemon under TLS for all tests of this file."""
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    yield made
    made.daemon.kill()


@pytest.fixture(autouse=True)
def _environment(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SENTINEL_STATE", "SENTINEL_DAEMON", "SENTINEL_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SENTINEL_CA", str(guarded.authority.ca))
    monkeypatch.setenv("SENTINEL_TOKEN", guarded.tokens["operator"])


def test_a_run_elsewhere_is_seen_and_ordered_about(
    guarded: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = FakeJob(guarded.place, run="far", token=guarded.tokens["trainer"]).connect()
    job.train()
    assert execute(["pause", "far", "--daemon", guarded.url, "--wait", "0"]) == 0
    assert capsys.readouterr().out == "far: pause asked for\n"
    job.train_until_stand()
    in_state(guarded.daemon, job, "held", "far")
    file = tmp_path / "token"
    file.write_text(guarded.tokens["viewer"])
    viewer = ["--daemon", guarded.url, "--token-file", str(file)]
    assert execute(["status", "far", "--json", *viewer]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["hold"]["by"] == "token operator"
    assert execute(["incidents", *viewer]) == 0
    assert execute(["status", "--coverage", *viewer]) == 0
    capsys.readouterr()
    assert execute(["resume", "far", *viewer]) == 1
    assert "has the role viewer: this takes operator or admin" in capsys.readouterr().err
    ca = ["--ca", str(guarded.authority.ca)]
    assert execute(["resume", "far", "--daemon", guarded.url, "--wait", "0", *ca]) == 0
    job.await_verdict()
    job.goodbye()
    eventually(lambda: status(guarded.daemon, "far")["state"] == "finished")


@pytest.mark.parametrize(
    ("who", "code", "reason"),
    [
        ("trainer", 1, "has the role trainer"),
        ("expired", 1, "token expired has expired"),
        ("unknown", 1, "does not know this token"),
        ("none", 1, "no token: put the one"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    guarded: Guarded,
    who: str,
    code: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SENTINEL_TOKEN", guarded.tokens.get(who, ""))
    assert execute(["status", "--daemon", guarded.url]) == code
    said = capsys.readouterr()
    assert reason in said.err
    assert "sntl_" not in said.err


def test_a_token_on_the_command_line_is_refused_wherever_it_stands(
    guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = guarded.tokens["operator"]
    for options in (
        ["--daemon", guarded.url, "--token", secret],
        ["--daemon", guarded.url, "--token-file", secret],
        ["--daemon", f"https://{secret}@localhost:{guarded.port}"],
    ):
        assert execute(["status", *options]) == 2
        said = capsys.readouterr().err
        assert "no token belongs on a command line" in said
        assert secret not in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--daemon", "localhost:1"], "expected https://HOST:PORT"),
        (["--daemon", "ftp://localhost:1"], "expected https://HOST:PORT"),
        (["--daemon", "https://localhost"], "expected https://HOST:PORT"),
        (["--daemon", "http://node-1:9475"], "use https://"),
        (["--daemon", "https://localhost:1", "--state", "x"], "give one of them"),
        (["--token-file", "x"], "go with --daemon"),
        (["--daemon", "https://localhost:1", "--ca", "/dev/null"], "expected a PEM file"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["status", *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_daemon_that_cannot_be_trusted_or_is_not_there_is_told_apart(
    guarded: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    for options, reason in (
        (["--daemon", guarded.url, "--ca", str(other)], "certificate is not to be trusted"),
        (["--daemon", f"https://127.0.0.2:{guarded.port}"], "certificate is not to be trusted"),
        (["--daemon", "https://localhost:1"], "Connection refused"),
        (["--daemon", f"http://localhost:{guarded.port}"], "no daemon answers at http://"),
    ):
        assert execute(["status", *options]) == 1
        assert reason in capsys.readouterr().err


def test_tokens_are_made_listed_and_revoked_without_a_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    where = ["--state", str(state)]
    assert execute(["token", "add", "ann", "--role", "operator", "--expires", "30d", *where]) == 0
    said = capsys.readouterr()
    secret = said.out.strip()
    assert bearer.looks_like(secret)
    assert secret not in said.err
    assert stat.S_IMODE((state / "tokens.json").stat().st_mode) == 0o600
    assert execute(["token", "list", "--json", *where]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert set(shown) == {
        *("name", "role", "state", "made", "made_by", "expires", "revoked", "revoked_by")
    }
    assert (shown["name"], shown["role"], shown["state"]) == ("ann", "operator", "good")
    assert shown["made_by"].startswith("user ")
    assert execute(["token", "revoke", "ann", *where]) == 0
    assert execute(["token", "add", "ann", "--role", "viewer", *where]) == 1
    assert "choose another name" in capsys.readouterr().err
    assert execute(["token", "list", *where]) == 0
    assert "ann: operator, revoked" in capsys.readouterr().out
    (kept,) = Tokens(state).all()
    assert kept.expires is not None
    assert kept.expires - kept.made == 30 * 86400


def test_tokens_of_a_daemon_elsewhere_take_an_admin(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--daemon", guarded.url]
    assert execute(["token", "add", "eve", "--role", "viewer", *where]) == 1
    assert "this takes admin" in capsys.readouterr().err
    monkeypatch.setenv("SENTINEL_TOKEN", guarded.tokens["admin"])
    assert execute(["token", "add", "eve", "--role", "viewer", "--expires", "1h", *where]) == 0
    secret = capsys.readouterr().out.strip()
    assert guarded.ask("GET", "/api/v1/status", secret)[0] == 200
    assert execute(["token", "revoke", "eve", *where]) == 0
    assert guarded.ask("GET", "/api/v1/status", secret)[0] == 401
    assert execute(["token", "list", *where]) == 0
    assert "revoked by token admin" in capsys.readouterr().out
    assert execute(["audit", "--state", str(guarded.daemon.state)]) == 0
    shown = capsys.readouterr().out
    assert "token operator from 127.0.0.1" in shown
    assert "POST /api/v1/tokens" in shown


@pytest.mark.parametrize("text", ["30", "0d", "-1d", "1w", "1.5d", "99999d", ""])
def test_a_time_that_is_none_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--role", "viewer", "--expires", text, "--state", str(tmp_path / "state")]
    assert execute(["token", "add", "ann", *options]) == 2
    assert "expected a time such as" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates, and files that are none."""
    made = Authority(tmp_path_factory.mktemp("tls"))
    (made.ca.parent / "text").write_text("no PEM")
    return made


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--http 0.0.0.0:0", "under TLS only"),
        ("--http node-1:0", "under TLS only"),
        ("--http off --listen tls://127.0.0.1:0", "needs a certificate, on loopback too"),
        ("--http off --listen tcp://127.0.0.1:0 {pair}", "expected unix"),
        ("--http off --listen unix:///x {pair}", "TCP listens with TLS only"),
        ("--http off --listen tls://127.0.0.1 {pair}", "expected tls://HOST:PORT"),
        ("--http off --tls-cert {tls}/certificate.pem", "go together"),
        ("--http off --tls-key {tls}/key.pem", "go together"),
        ("--http off --tls-cert {tls}/none --tls-key {tls}/key.pem", "none cannot be read"),
        ("--http off --tls-cert {tls}/text --tls-key {tls}/key.pem", "no certificate and its key"),
        ("--http off --tls-cert {tls}/ca.pem --tls-key {tls}/key.pem", "no certificate and its"),
    ],
)
def test_a_daemon_that_would_listen_in_the_clear_does_not_start(
    options: str,
    reason: str,
    authority: Authority,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = " ".join(authority.options())
    words = options.format(pair=pair, tls=authority.ca.parent).split()
    assert execute(["daemon", "--state", str(tmp_path / "state"), *words]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_key_with_a_password_is_refused_without_asking_for_it(
    authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    options = ["--tls-cert", str(authority.certificate), "--tls-key", str(locked)]
    assert execute(["daemon", "--state", str(tmp_path / "state"), "--http", "off", *options]) == 2
    assert "the key without a password" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(
    guarded: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = f"tls://127.0.0.1:{guarded.training}"
    options = ["--http", "off", "--listen", taken, *guarded.authority.options()]
    assert execute(["daemon", "--state", str(tmp_path / "state"), *options]) == 1
    assert "choose another address with --listen" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "state" / "sentinel.sock")
