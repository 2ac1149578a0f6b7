"""Links to the pages: `sentinel page`, `--page-url`, and what messages say of it."""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel.cli.main import execute
from sentinel.daemon.page_link import parse_page_url
from sentinel.errors import AddressError
from sentinel.store.tokens import LONGEST_LINK, Tokens
from tests.daemon.process import PATIENCE, Daemon, eventually, sentinel
from tests.daemon.scenes import broken, incidents

PUBLIC = "https://watch.example.org"
NOTIFY = "receivers:\n- name: log\n  stdout: {}\nroute:\n  receivers: [log]\n"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that a proxy serves to people."""
    folder = tmp_path_factory.mktemp("public")
    (folder / "notify.yaml").write_text(NOTIFY)
    options = ("--page-url", f"{PUBLIC}/", "--notify", str(folder / "notify.yaml"))
    daemon = Daemon(folder / "state", options, http="127.0.0.1:0").start()
    yield daemon
    daemon.kill()


def ask(daemon: Daemon, method: str, path: str, token: str, **headers: str) -> tuple[int, Any]:
    """Over TCP."""
    found = re.search(r"metrics on http://127\.0\.0\.1:(\d+)/", daemon.log())
    assert found
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=PATIENCE)
    given = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request(method, path, headers={**given, **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def link(capsys: pytest.CaptureFixture[str], *options: str, state: Path) -> str:
    """What `sentinel page` prints."""
    status = execute(["page", "--state", str(state), *options])
    out, err = capsys.readouterr()
    assert (status, "sntl_" in err) == (0, False), err
    return str(out).strip()


def test_a_link_lets_in_whoever_has_it_as_what_was_said_until_it_is_withdrawn(
    public: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, role in (((), "viewer"), (("--role", "operator", "--for", "2h"), "operator")):
        base, _, token = link(capsys, *options, state=public.state).partition("/#token=")
        assert base == PUBLIC
        code, body = ask(public, "GET", "/api/v1/whoami", token)
        me = json.loads(body)
        assert (code, me["role"]) == (200, role)
        name = me["by"].removeprefix("token ")
        assert re.fullmatch("page-[0-9a-f]{10}", name)
        (known,) = [one for one in Tokens(public.state).all() if one.name == name]
        assert (known.role, known.expires is not None) == (role, True)
        assert execute(["token", "revoke", name, "--state", str(public.state)]) == 0
        capsys.readouterr()
        assert ask(public, "GET", "/api/v1/whoami", token)[0] == 401


def test_behind_a_proxy_the_name_that_people_use_is_known_and_no_other(
    public: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    token = link(capsys, "--role", "operator", state=public.state).partition("#token=")[2]
    by_name = {"Host": "watch.example.org", "Origin": PUBLIC}
    order = ("POST", "/api/v1/runs/nobody/pause")
    assert ask(public, *order, token, **by_name)[0] == 404
    assert ask(public, *order, token, Origin=PUBLIC)[0] == 404
    assert ask(public, *order, token, **{**by_name, "Origin": "https://evil.example"})[0] == 403
    assert ask(public, *order, token, Host="evil.example")[0] == 403
    assert ask(public, "GET", "/metrics", "", Host="watch.example.org")[0] == 401
    assert ask(public, "GET", "/metrics", "")[0] == 200


def test_messages_lead_to_the_incidents_page_where_that_is_known(public: Daemon) -> None:
    job = broken(public)
    (incident,) = incidents(public)
    wanted = f'"page":"{PUBLIC}/incidents/{incident["id"]}"'
    eventually(lambda: wanted in public.log(), "a message with a link")
    job.vanish()


def test_without_pages_there_is_no_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(tmp_path / "state").start()
    try:
        assert execute(["page", "--state", str(daemon.state)]) == 1
        out, err = capsys.readouterr()
        assert (out, "serves no pages: start it with --http" in err) == ("", True)
    finally:
        daemon.kill()


@pytest.mark.parametrize("wrong", ["10s", "31d", "soon", ""])
def test_a_link_is_good_for_a_time_that_makes_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    assert execute(["page", "--state", str(tmp_path), "--for", wrong]) == 2
    assert "expected a time such as 90m" in capsys.readouterr().err


def test_a_run_that_serves_http_begins_with_a_link_that_ends_with_it(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "print('trained')")
    done = sentinel("run", "--state", tmp_path, "--http", "127.0.0.1:0", "--", *command)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout
    found = re.search(r"page http://127\.0\.0\.1:\d+/#token=(sntl_\S+)", done.stderr)
    assert found
    (token,) = Tokens(tmp_path).all()
    assert (token.role, token.revoked is not None) == ("viewer", True)


def test_tokens_of_old_links_are_forgotten_and_no_others(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    for name in ("page-0123456789", "page-0000000000", "page-ann", "ann"):
        expires = None if name == "page-0000000000" else 100.0
        tokens.add(name, "viewer", by="user test", now=0.0, expires=expires)
    tokens.add("bob", "viewer", by="user test", now=99.0 + LONGEST_LINK, expires=None)
    assert len(tokens.all()) == 5
    tokens.add("eve", "viewer", by="user test", now=101.0 + LONGEST_LINK, expires=None)
    assert [one.name for one in tokens.all()] == [
        "page-0000000000",
        "page-ann",
        "ann",
        "bob",
        "eve",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "watch.example.org",
        "ftp://watch.example.org",
        "https://",
        "https://watch.example.org/sentinel",
        "https://ann:secret@watch.example.org",
        "https://watch.example.org?x",
        "https://watch.example.org:99999",
        "https://wat ch",
        "https://" + "x" * 300,
    ],
)
def test_an_address_of_pages_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(AddressError, match="no address of pages: expected https://HOST"):
        parse_page_url(wrong)


@pytest.mark.parametrize("url", ["https://watch.example.org", "http://[::1]:81", "http://a:9475"])
def test_an_address_of_pages_is_taken_as_it_is(url: str) -> None:
    assert parse_page_url(url) == parse_page_url(f"{url}/") == url


@pytest.mark.parametrize(
    ("url", "as_browsers_do"),
    [
        ("https://Sentinel.Example:443/", "https://sentinel.example"),
        ("http://[2001:DB8::1]:80", "http://[2001:db8::1]"),
        ("http://sentinel.example:443", "http://sentinel.example:443"),
    ],
)
def test_an_address_of_the_pages_is_compared_as_browsers_spell_it(
    url: str, as_browsers_do: str
) -> None:
    assert parse_page_url(url) == as_browsers_do
