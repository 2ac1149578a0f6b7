"""The unit that ships is right in every line, and locked down."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.tools import ROOT, tool

UNIT = ROOT / "systemd" / "sentinel.service"
USER_UNIT = ROOT / "systemd" / "user" / "sentinel.service"


def verify(unit: Path, *options: str) -> str:
    """What `systemd-analyze verify` says; its exit status is 0 even for misspelled keys."""
    ran = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *options, str(unit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return ran.stdout


def exposure(unit: Path) -> float:
    """systemd's own measure of what the unit may do to the machine, from 0 to 10."""
    ran = subprocess.run(
        [tool("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", ran.stdout)
    assert found, ran.stdout + ran.stderr
    return float(found[1])


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """A copy that a test may change; the file's name is part of what is verified."""
    return Path(shutil.copy(UNIT, tmp_path))


def test_systemd_finds_nothing_to_say_about_the_unit() -> None:
    assert verify(UNIT) == ""


def test_systemd_finds_nothing_to_say_about_the_unit_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert verify(USER_UNIT, "--user") == ""


def test_systemd_would_say_something_about_a_misspelled_key(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchDogSeconds="))
    assert "WatchDogSeconds" in verify(unit)


def test_the_exposure_is_at_most_1_3() -> None:
    assert exposure(UNIT) <= 1.3


def test_the_exposure_notices_a_lost_protection(unit: Path) -> None:
    before = exposure(unit)
    unit.write_text(unit.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert exposure(unit) > before


def test_the_unit_keeps_what_the_daemon_needs_to_see() -> None:
    """Without other users nobody could say who asked, and a dynamic user's sockets nobody reach."""
    keys = {line.partition("=")[0] for line in UNIT.read_text().splitlines()}
    assert keys.isdisjoint({"PrivateUsers", "ProcSubset", "PrivateNetwork", "DynamicUser"})


def settings() -> dict[str, list[str]]:
    """The unit's settings by key."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    """Stands where systemd listens to the services that it starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30.0)
        yield listener


def test_the_command_of_the_unit_reports_as_its_type_and_its_watchdog_ask(
    told: socket.socket, tmp_path: Path
) -> None:
    """A unit of type notify that never reports is killed as it starts, and one with a watchdog
    that is not fed later on."""
    unit = settings()
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) >= 10
    daemon = subprocess.Popen(
        [*shlex.split(unit["ExecStart"][0]), "--http", "off"],
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "SENTINEL_STATE": str(tmp_path / "state"),
            "NOTIFY_SOCKET": str(told.getsockname()),
            "WATCHDOG_USEC": "500000",
        },
        stdin=subprocess.DEVNULL,
    )
    try:
        while "READY=1" not in told.recv(4096).decode().splitlines():
            pass
        assert (tmp_path / "state" / "sentinel.sock").is_socket()
        for _ in range(2):
            while "WATCHDOG=1" not in told.recv(4096).decode().splitlines():
                pass
        daemon.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in told.recv(4096).decode().splitlines():
            pass
        assert daemon.wait(timeout=30) == 0
    finally:
        daemon.kill()
        daemon.wait()
