"""`sentinel doctor`: it finds what is broken, says what to do, and is held up by nothing."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel import __version__, address
from sentinel.cli.doctor import versions
from sentinel.cli.doctor.check import Check, Finding, Setup, make, ok
from sentinel.cli.doctor.checks import checks
from sentinel.store.store import Store
from tests.cli.doctor.looking import HANGS, SECRET, look, module, worst
from tests.daemon.process import Daemon, sentinel
from tests.package.tools import ROOT


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
