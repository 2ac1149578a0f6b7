"""`sentinel doctor`: it finds what is broken, says what to do, and is held up by nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from sentinel import __version__, address
from sentinel.cli.doctor import versions
from sentinel.cli.doctor.check import Check, Finding, Setup, make, ok
from sentinel.cli.doctor.checks import checks
from sentinel.notify.loopback_slack import SCOPES, LoopbackSlack
from sentinel.store.store import Store
from tests.daemon.process import Daemon, sentinel
from tests.notify.loopbacks import Loopback, LoopbackGrafana
from tests.package.tools import ROOT

SECRET = "xoxb-5ecret-not-to-be-shown"
HANGS = 0.5  # s that a server is given which never answers


def look(name: str, setup: Setup) -> list[Finding]:
    """What one check finds."""
    (one,) = (each for each in checks() if each.name == name)
    return [finding for _, finding in make([one], setup)]


def worst(name: str, setup: Setup) -> Finding:
    """The most important of what one check finds."""
    return max(look(name, setup), key=lambda one: ["ok", "note", "problem"].index(one.level))


def is_sound(finding: Finding) -> bool:
    """Whether there is something to do exactly where something is not right."""
    return bool(finding.text) and bool(finding.advice) == (finding.level != "ok")


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A state directory as it should be, and nothing else."""
    for name in ("SLACK_BOT_TOKEN", "SLACK_CHANNEL", "SLACK_BASE_URL", "GRAFANA_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "state").mkdir(mode=0o700)
    return Setup(tmp_path / "state")


@pytest.fixture
def refused() -> Iterator[str]:
    """The address of a port where nobody listens, and nobody will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_sound_state_directory_is_ok(setup: Setup) -> None:
    Store.open(setup.state).close()
    for name in ("state directory", "file system", "disk space", "record"):
        assert worst(name, setup).level == "ok"
    (setup.state / "sentinel.db").chmod(0o600)


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_directory_that_others_can_open_is_a_problem(setup: Setup, mode: int) -> None:
    setup.state.chmod(mode)
    found = worst("state directory", setup)
    assert (found.level, found.advice) == ("problem", f"chmod 700 {setup.state}")


def test_what_is_no_directory_and_what_is_not_there_are_told_apart(setup: Setup) -> None:
    file = setup.state / "file"
    file.touch()
    assert "is no directory" in worst("state directory", replace(setup, state=file)).text
    missing = replace(setup, state=setup.state / "new")
    for name in ("state directory", "file system", "disk space", "record"):
        assert worst(name, missing).level in ("ok", "note")
    assert not missing.state.exists()


def test_a_record_that_cannot_be_read_is_a_problem(setup: Setup) -> None:
    with sqlite3.connect(setup.state / "sentinel.db") as database:
        database.execute("PRAGMA user_version = 9999")
    database.close()
    assert worst("record", setup).level == "problem"
    (setup.state / "sentinel.db").write_bytes(b"no database" * 1000)
    assert worst("record", setup).level == "problem"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str]]:
    """A daemon, and where its HTTP is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        http = f"127.0.0.1:{free.getsockname()[1]}"
    daemon = Daemon(tmp_path_factory.mktemp("served") / "state", http=http).start()
    yield daemon, http
    daemon.kill()


def test_a_daemon_that_serves_is_ok(served: tuple[Daemon, str]) -> None:
    daemon, http = served
    setup = Setup(daemon.state, http=http)
    assert __version__ in worst("sockets", setup).text
    assert worst("sockets", setup).level == worst("page", setup).level == "ok"


def test_the_page_of_another_daemon_is_not_taken_for_ours(
    served: tuple[Daemon, str], setup: Setup, refused: str
) -> None:
    found = worst("page", replace(setup, http=served[1]))
    assert (found.level, "another directory" in found.text) == ("note", True)
    found = worst("page", Setup(served[0].state, http=refused))
    assert (found.level, "Connection refused" in found.text) == ("note", True)


def test_no_daemon_and_a_dead_one_are_told_apart(setup: Setup) -> None:
    assert worst("sockets", setup).level == "note"
    address.listen(setup.state / "api.sock").close()
    found = worst("sockets", setup)
    assert (found.level, "is gone" in found.text) == ("problem", True)


def test_a_daemon_of_another_version_is_to_be_restarted(setup: Setup) -> None:
    listener = address.listen(setup.state / "api.sock")
    body = json.dumps({"status": "ok", "pid": 1, "version": "0.0.1"})

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())

    thread = threading.Thread(target=answer)
    thread.start()
    found = worst("sockets", setup)
    thread.join()
    listener.close()
    assert "the daemon is version 0.0.1" in found.text
    assert "restart" in found.advice


def module(folder: Path, name: str, text: str) -> None:
    """A package that stands before the real one."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "raise ImportError('libcudart.so.12: cannot open')",
            "ImportError: libcudart.so.12: cannot open",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "its process was killed by signal 11",
        ),
        ("import time; time.sleep(600)", "it takes longer than 0.5 s"),
        ("import os; os._exit(0)", "exit status 0"),
    ],
)
def test_a_broken_torch_breaks_nothing_but_its_own_line(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    module(tmp_path / "path", "torch", text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    found = worst("torch", replace(setup, within=0.1) if "sleep" in text else setup)
    assert (found.level, found.text) == ("problem", f"torch cannot be imported: {said}")


def test_what_torch_and_nvml_see_is_said(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = "class cuda:\n  is_available = staticmethod(lambda: True)\n"
    cuda += "  device_count = staticmethod(lambda: 2)\n"
    cuda += "  get_device_name = staticmethod(lambda n: f'H100 {n}')\n"
    text = "print('a banner')\n__version__ = '2.9.1'\nclass version: cuda, hip = '13.0', None\n"
    module(tmp_path / "path", "torch", text + cuda)
    text = "class NVMLError(Exception): pass\ndef nvmlInit(): pass\n"
    text += (
        "def nvmlSystemGetDriverVersion(): return b'580.65'\ndef nvmlDeviceGetCount(): return 2\n"
    )
    module(tmp_path / "path", "pynvml", text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    assert look("torch", setup) == [ok("2.9.1, CUDA 13.0, 2 GPUs: H100 0")]
    assert look("NVML", setup) == [ok("driver 580.65, 2 device(s)")]


def test_versions_compare_as_numbers() -> None:
    assert versions.parts("0.19.8+cu130") == (0, 19, 8)
    assert versions.parts("0.9.0") < versions.parts("0.16") == versions.parts("0.16.0")
    assert ("msgspec", "0.19", "") in versions.promised()
    assert any(extra == "trainer" for *_, extra in versions.promised())
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"deepspeed=={versions.NEWEST_DEEPSPEED}" in pins


@pytest.mark.parametrize("name", ["Python", "packages", "DeepSpeed"])
def test_what_the_tests_run_with_is_what_was_promised(setup: Setup, name: str) -> None:
    assert worst(name, setup).level == "ok"


async def asked(name: str, setup: Setup) -> Finding:
    """As `worst`, beside a server in this loop."""
    found = await asyncio.to_thread(worst, name, setup)
    assert is_sound(found)
    assert SECRET not in f"{found}"
    return found


@pytest.mark.parametrize(
    ("channel", "scopes", "level", "said"),
    [
        ("#training", SCOPES, "ok", "sentinel in loopback"),
        ("C0LOOPBACK0", SCOPES, "ok", "sentinel in loopback"),
        ("training", SCOPES - {"chat:write"}, "problem", "lacks the scope chat:write"),
        ("training", SCOPES - {"files:write"}, "note", "lacks the scope files:write"),
        ("training", SCOPES - {"channels:read"}, "note", "cannot be looked at"),
        ("trainign", SCOPES, "problem", "sees no channel trainign"),
        ("C0NOWHERE99", SCOPES, "problem", "channel_not_found"),
        ("closed", SCOPES, "problem", "not_in_channel"),
        ("", SCOPES, "problem", "half set up"),
    ],
)
async def test_slack_is_asked_for_scopes_and_channel(
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    channel: str,
    scopes: frozenset[str],
    level: str,
    said: str,
) -> None:
    channels = ("training", "closed")
    async with LoopbackSlack(token=SECRET, channels=channels, scopes=scopes) as slack:
        slack.closed["closed"] = "not_in_channel"
        monkeypatch.setenv("SLACK_BOT_TOKEN", SECRET)
        monkeypatch.setenv("SLACK_CHANNEL", channel)
        monkeypatch.setenv("SLACK_BASE_URL", slack.url)
        found = await asked("Slack", setup)
        assert (found.level, said in found.text) == (level, True), found
        assert not slack.messages


async def test_a_token_that_slack_does_not_take_is_a_problem(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, refused: str, hanging: str
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", SECRET)
    monkeypatch.setenv("SLACK_CHANNEL", "training")
    async with LoopbackSlack() as slack:
        monkeypatch.setenv("SLACK_BASE_URL", slack.url)
        assert "refuses the token: invalid_auth" in (await asked("Slack", setup)).text
    monkeypatch.setenv("SLACK_BASE_URL", f"http://{refused}/api/")
    assert "Connection refused" in (await asked("Slack", setup)).text
    monkeypatch.setenv("SLACK_BASE_URL", f"http://{hanging}/api/")
    found = await asked("Slack", replace(setup, within=HANGS))
    assert (found.level, "timed out" in found.text) == ("problem", True)


class Prometheus(Loopback):
    """As much of its HTTP interface as is asked."""

    targets: tuple[dict[str, str], ...] = ()

    def routes(self, router: web.UrlDispatcher) -> None:
        async def active(_: web.Request) -> web.Response:
            data = {"activeTargets": self.targets, "droppedTargets": []}
            return web.json_response({"status": "success", "data": data})

        router.add_get("/api/v1/targets", active)


@pytest.mark.parametrize(
    ("url", "health", "level", "said"),
    [
        ("http://node-1:9475/metrics", "up", "ok", "it scrapes http://node-1:9475"),
        ("http://node-1:9475/metrics", "down", "problem", "cannot scrape http://node-1:9475: 401"),
        ("http://node-1:9475/metrics", "unknown", "note", "not scraped this daemon yet"),
        ("http://node-1:9100/metrics", "up", "problem", "none on port 9475"),
    ],
)
async def test_prometheus_is_asked_whether_it_scrapes_this_daemon(
    setup: Setup, url: str, health: str, level: str, said: str
) -> None:
    async with Prometheus() as server:
        server.targets = ({"scrapeUrl": url, "health": health, "lastError": "401"},)
        found = await asked("Prometheus", replace(setup, prometheus=server.url))
    assert (found.level, said in found.text) == (level, True), found


async def test_servers_that_are_none_are_problems_without_their_passwords(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, refused: str, hanging: str
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", SECRET)
    quick = replace(setup, within=HANGS)
    for name in ("prometheus", "grafana"):
        for where, said in ((refused, "Connection refused"), (hanging, "no answer in time")):
            changed = replace(
                quick, prometheus=f"http://me:{SECRET}@{where}", grafana=f"http://{where}"
            )
            found = await asked(name.capitalize(), changed)
            assert (found.level, said in found.text) == ("problem", True), found
        async with LoopbackGrafana("another") as server:  # it knows neither of the two paths
            changed = replace(setup, prometheus=server.url, grafana=server.url)
            found = await asked(name.capitalize(), changed)
            assert (found.level, "HTTP 404" in found.text) == ("problem", True), found
    found = await asked("Grafana", replace(quick, grafana=f"http://me:{SECRET}@{refused}"))
    assert (found.level, "holds a password" in found.text) == ("problem", True), found


class Grafana(Loopback):
    """As much of its HTTP interface as is asked."""

    def routes(self, router: web.UrlDispatcher) -> None:
        async def organization(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {SECRET}":
                return web.json_response({"message": "Invalid API key"}, status=401)
            return web.json_response({"id": 1, "name": "Main Org."})

        router.add_get("/api/org", organization)


async def test_grafana_is_asked_whether_it_takes_the_token(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Grafana() as server:
        chosen = replace(setup, grafana=server.url)
        assert (await asked("Grafana", chosen)).level == "note"
        monkeypatch.setenv("GRAFANA_TOKEN", SECRET)
        assert "Main Org." in (await asked("Grafana", chosen)).text
        monkeypatch.setenv("GRAFANA_TOKEN", "glsa_wrong")
        found = await asked("Grafana", chosen)
        assert (found.level, "does not take the token" in found.text) == ("problem", True)


async def test_receivers_of_a_file_are_asked_and_webhooks_never_called(
    setup: Setup, tmp_path: Path, refused: str
) -> None:
    async with Grafana() as server:
        file = tmp_path / "notify.yaml"
        file.write_text(
            "receivers:\n"
            f"- {{name: hook, webhook: {{url: '{server.url}/hook'}}}}\n"
            f"- {{name: pager, alertmanager: {{url: 'http://{refused}'}}}}\n"
            "route: {receivers: [hook, pager]}\n"
        )
        chosen = replace(setup, notify=file)
        assert (await asked("notifications", chosen)).level == "ok"
        found = await asyncio.to_thread(look, "other receivers", chosen)
        assert [one.level for one in found] == ["note", "problem"]
        assert "sentinel notify test hook" in found[0].advice
        assert not server.bodies
        file.write_text("receivers: [{name: hook, webhok: {}}]\nroute: {receivers: [hook]}\n")
        found = [await asked("notifications", chosen)]
        assert (found[0].level, "notify.yaml:1:" in found[0].text) == ("problem", True)


def test_a_check_that_hangs_or_fails_holds_up_no_other(
    setup: Setup, capfd: pytest.CaptureFixture[str]
) -> None:
    never = threading.Event()

    def hangs(_: Setup) -> Iterator[Finding]:
        never.wait()
        yield ok("at last")

    def fails(_: Setup) -> Iterator[Finding]:
        yield ok("so far")
        raise PermissionError(13, "Permission denied")

    def works(_: Setup) -> Iterator[Finding]:
        yield ok("well")

    made = [Check("g", "hangs", hangs, 1.0), Check("g", "fails", fails, 1.0)]
    made.append(Check("g", "works", works, 1.0))
    found = make(made, replace(setup, within=HANGS))
    never.set()
    assert [one.name for one, _ in found] == ["hangs", "fails", "works"]
    texts = [finding.text for _, finding in found]
    assert "no answer within" in texts[0]
    assert ("Permission denied" in texts[1], texts[2]) == (True, "well")


def test_each_check_has_a_name_of_its_own() -> None:
    names = [one.name for one in checks()]
    assert len(set(names)) == len(names) > 15


def test_the_command_ends_with_1_where_there_is_a_problem_and_shows_no_secret(
    setup: Setup, tmp_path: Path, refused: str
) -> None:
    module(tmp_path / "path", "torch", "raise ImportError('broken')")
    surroundings = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), str(ROOT), str(ROOT / "hooks")]),
        "SLACK_BOT_TOKEN": SECRET,
        "SLACK_CHANNEL": "training",
        "SLACK_BASE_URL": f"http://{refused}/api/",
        "GRAFANA_TOKEN": SECRET,
        "GRAFANA_URL": f"http://a:{SECRET}@{refused}",
    }
    done = sentinel("doctor", "--json", "--state", setup.state, **surroundings)
    assert (done.returncode, done.stderr) == (1, "")
    assert SECRET not in done.stdout
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert [*found["torch"]] == ["group", "check", "level", "text", "advice"]
    for name in ("torch", "Slack", "Grafana"):
        assert found[name]["level"] == "problem"
        assert found[name]["advice"]
    done = sentinel("doctor", "--state", setup.state, **{**surroundings, "GRAFANA_URL": ""})
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout
    assert "problem torch" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("2 problems, ")
