"""How a daemon starts, what it refuses to start on, what it tells systemd, and how it ends."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

from sentinel import address
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, environment, eventually, sentinel
from tests.daemon.scenes import status


def test_a_directory_with_a_daemon_is_refused_naming_its_process(daemon: Daemon) -> None:
    assert daemon.process is not None
    for command in (["daemon", "--http", "off"], ["run", "--", "true"]):
        done = sentinel(command[0], "--state", daemon.state, *command[1:])
        assert done.returncode == 1
        assert f"in use by another daemon (process {daemon.process.pid})" in done.stderr
        assert "Traceback" not in done.stderr
    job = FakeJob(daemon.place).connect()  # and the living one is none the worse
    job.train()
    eventually(lambda: status(daemon)["step"] == 1)
    job.goodbye()


def test_a_socket_that_another_process_listens_on_is_not_taken(tmp_path: Path) -> None:
    listener = address.listen(tmp_path / "sentinel.sock")
    with listener:
        done = sentinel("daemon", "--http", "off", "--state", tmp_path)
        assert done.returncode == 1
        assert f"sentinel.sock is in use by process {os.getpid()}" in done.stderr
        address.connect(address.UnixAddress(tmp_path / "sentinel.sock"), 5).close()


def test_a_socket_left_by_the_dead_is_taken_over(daemon: Daemon) -> None:
    daemon.kill()
    assert (daemon.state / "sentinel.sock").exists()
    daemon.start()
    assert daemon.get("/healthz")[0] == 200


def test_what_is_in_the_way_and_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sentinel.sock").write_text("precious")
    done = sentinel("daemon", "--http", "off", "--state", tmp_path)
    assert done.returncode == 1
    assert "is no socket" in done.stderr
    assert (tmp_path / "sentinel.sock").read_text() == "precious"


@pytest.mark.parametrize("command", [["daemon", "--http", "off"], ["run", "--", "true"]])
def test_a_state_directory_that_cannot_be_made_is_refused(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    state = tmp_path / "file" / "state"
    done = sentinel(command[0], "--state", state, *command[1:])
    assert done.returncode == 1
    assert str(state) in done.stderr
    assert done.stderr.startswith("sentinel: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_newer_schema_is_refused_and_left_as_it_is(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    file = daemon.state / "sentinel.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = file.read_bytes()
    done = sentinel("daemon", "--http", "off", "--state", daemon.state)
    assert done.returncode == 1
    assert "newer" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == before
    for command in ("status", "incidents"):
        done = sentinel(command, "--state", daemon.state)
        assert done.returncode == 1
        assert "newer" in done.stderr


def test_metrics_on_a_port_that_is_taken_are_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = sentinel("daemon", "--http", place, "--state", tmp_path / "state")
        assert done.returncode == 1
        assert f"cannot listen on {place}" in done.stderr
        assert "--http off" in done.stderr


def test_rules_that_cannot_be_used_are_refused_before_anything_else(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "groups:\n  - name: g\n    rules:\n      - alert: A\n        expr: grad_nrom > 1\n"
    )
    done = sentinel("daemon", "--rules", rules, "--state", tmp_path / "state")
    assert done.returncode == 1
    assert f"{rules}:5" in done.stderr
    assert "did you mean 'grad_norm'" in done.stderr
    assert not (tmp_path / "state").exists()


def test_systemd_is_told_that_it_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    place = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(place))
        systemd.settimeout(30)
        env = {"NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "200000"}
        daemon = Daemon(tmp_path / "state", env=env).start()
        assert systemd.recv(4096).decode().startswith("READY=1\nSTATUS=")
        assert [systemd.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        assert daemon.stop() == 0
        said = [systemd.recv(4096)]
        while said[-1] == b"WATCHDOG=1":
            said.append(systemd.recv(4096))
        assert said[-1] == b"STOPPING=1"


def test_a_shutdown_tells_the_ranks_and_leaves_no_socket(daemon: Daemon) -> None:
    job = FakeJob(daemon.place).connect()
    job.train()
    assert daemon.stop() == 0
    for rank in job.ranks:
        last = rank.receive()
        assert last is not None
        assert not getattr(last, "final", True), "a rank must come back when the daemon does"
    assert not (daemon.state / "sentinel.sock").exists()
    assert not (daemon.state / "api.sock").exists()
    daemon.start()
    job.connect()
    job.train()
    eventually(lambda: status(daemon)["step"] == 2)
    job.goodbye()


def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state").start()
    assert daemon.process is not None
    daemon.process.send_signal(2)
    assert daemon.process.wait(30) == 0
    assert "Traceback" not in daemon.log()


def test_it_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys, sentinel.cli.daemon, sentinel.daemon.serving, sentinel.cli.setup\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [os.sys.executable, "-c", code],  # type: ignore[attr-defined]
        env=environment(),
        check=False,
        timeout=240,
    )
    assert done.returncode == 0
