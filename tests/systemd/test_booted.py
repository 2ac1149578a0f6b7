"""The unit as systemd runs it: installed, started, watched, killed, and stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.address import TlsAddress
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.store.tokens import Tokens
from tests.daemon.fake_job import FakeJob
from tests.daemon.guarded import Authority
from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import broken, in_state, incidents, status
from tests.package.tools import ROOT
from tests.systemd.booted import Booted, as_user

ALICE, BOB = 4242, 4343
UNIT = "sentinel.service"
WRITTEN = Path("etc/systemd/system") / UNIT


def command(system: Booted, *words: str) -> str:
    """`sentinel systemd ...` in the system, as root; it must go well."""
    ran = system.run(sys.executable, "-m", "sentinel", "systemd", *words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def drop_in(system: Booted, name: str, *lines: str) -> None:
    """As `systemctl edit` does it."""
    folder = system.root / f"{WRITTEN}.d"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["[Service]", *lines, ""]))
    system.systemctl("daemon-reload")


def process(system: Booted) -> int:
    """The daemon's process, as this machine counts; 0 when there is none."""
    inner = system.property(UNIT, "MainPID")
    if inner == "0":
        return 0
    for child in Path(f"/proc/{system.pid}/task/{system.pid}/children").read_text().split():
        lines = Path(f"/proc/{child}/status").read_text().splitlines()
        if next(line for line in lines if line.startswith("NSpid:")).split()[-1] == inner:
            return int(child)
    return 0


@pytest.fixture(scope="module")
def http() -> str:
    """An address that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who vouches for the daemon."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def installed(system: Booted, slack: LoopbackSlack, http: str, authority: Authority) -> Booted:
    """The system with what an administrator has set up, and nothing running yet."""
    for name, uid in (("alice", ALICE), ("bob", BOB)):
        ran = system.run("useradd", "--no-create-home", f"--uid={uid}", name)
        assert ran.returncode == 0, ran.stderr
    secret = system.root / "etc/slack-token"
    secret.write_text(f"{slack.token}\n")
    secret.chmod(0o600)
    for part in (authority.certificate, authority.key):
        shutil.copyfile(part, system.root / "etc" / part.name)
    (system.root / "etc" / authority.key.name).chmod(0o600)
    said = command(system, *options(http))
    assert f"/{WRITTEN}: written" in said
    assert "next: systemctl enable --now sentinel" in said
    settings = system.root / "etc/sentinel/environment"
    assert settings.stat().st_mode & 0o777 == 0o600
    with settings.open("a") as file:
        file.write(f"SLACK_CHANNEL=training\nSLACK_BASE_URL={slack.url}\n")
    source = f"PYTHONPATH={ROOT}:{ROOT / 'hooks'}"
    log = "append:/var/log/sentinel.log"
    drop_in(
        system, "here.conf", f"Environment={source}", f"StandardOutput={log}", "RestartSec=100ms"
    )
    return system


def options(http: str) -> list[str]:
    """How the unit is installed: the key of its certificate, which only root can read, too."""
    given = ["--user-name", "alice", "--credential", "SLACK_BOT_TOKEN=/etc/slack-token"]
    given += ["--credential", "key.pem=/etc/key.pem"]
    listen = ["--listen", "tls://127.0.0.1:0", "--tls-cert", "/etc/certificate.pem"]
    return ["install", *given, "--", "--http", http, *listen, "--tls-key", "%d/key.pem"]


@pytest.fixture
def daemon(installed: Booted) -> Iterator[Daemon]:
    """The daemon, started by systemd and ready, as those see it who may open its directory."""
    installed.systemctl("enable", "--now", UNIT)
    folder = os.open(installed.root / "var/lib/sentinel", os.O_PATH | os.O_DIRECTORY)
    try:
        yield Daemon(Path(f"/proc/self/fd/{folder}"))
    finally:
        os.close(folder)


def says(system: Booted, wanted: str) -> None:
    """Wait for this in the unit's status line."""
    eventually(lambda: wanted in system.property(UNIT, "StatusText"), f"its saying {wanted!r}")


def test_to_install_again_changes_nothing_and_what_was_edited_is_not_overwritten(
    installed: Booted, http: str
) -> None:
    before = (installed.root / WRITTEN).read_text()
    assert "as it should be already" in command(installed, *options(http))
    assert (installed.root / WRITTEN).read_text() == before
    (installed.root / WRITTEN).write_text(before.replace("WatchdogSec=30", "WatchdogSec=31"))
    for words in (options(http), ["uninstall"]):
        ran = installed.run(sys.executable, "-m", "sentinel", "systemd", *words)
        assert ran.returncode == 1
        assert "somebody has changed it" in ran.stderr
    said = command(installed, "install", "--force", *options(http)[1:])
    assert "-WatchdogSec=31" in said
    assert (installed.root / WRITTEN).read_text() == before


def test_ranks_of_its_user_are_served_and_the_status_line_says_so(
    installed: Booted, daemon: Daemon, http: str
) -> None:
    assert installed.property(UNIT, "ActiveState") == "active"
    status_of = Path(f"/proc/{process(installed)}/status").read_text()
    assert re.search(rf"^Uid:\s+{ALICE}\s+{ALICE}\s", status_of, re.MULTILINE)
    with urllib.request.urlopen(f"http://{http}/healthz", timeout=60) as answer:
        assert answer.status == 200
    with as_user(ALICE):
        job = FakeJob(daemon.place, run="calm").connect()
    job.train()
    says(installed, "serving 1 run with 2 ranks")
    assert "serving 1 run with 2 ranks" in installed.run("systemctl", "status", UNIT).stdout
    assert "says: serving 1 run with 2 ranks" in command(installed, "show")
    with as_user(BOB), pytest.raises(PermissionError):
        daemon.connect()
    job.goodbye()
    says(installed, "no run goes on")


def test_slack_is_told_with_a_credential_that_is_in_no_environment(
    installed: Booted, daemon: Daemon, slack: LoopbackSlack
) -> None:
    environment = Path(f"/proc/{process(installed)}/environ").read_bytes()
    assert b"CREDENTIALS_DIRECTORY=" in environment
    assert slack.token.encode() not in environment
    assert slack.token not in installed.systemctl("show", UNIT)
    with as_user(ALICE):
        job = broken(daemon, run="told")
    says(installed, "held: told")
    eventually(lambda: any("told" in message.as_text() for message in slack.messages))
    charted = eventually(lambda: [file for m in slack.messages for file in m.files], "a chart")
    assert charted[0].data.startswith(b"\x89PNG")
    job.goodbye()


def test_a_rank_of_another_machine_comes_over_tls_whose_key_is_a_credential(
    installed: Booted, daemon: Daemon, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_CA", str(authority.ca))
    log = (installed.root / "var/log/sentinel.log").read_text()
    port = int(re.findall(r"training connections on tls://127\.0\.0\.1:(\d+)", log)[-1])
    with as_user(ALICE):
        token = Tokens(daemon.state).add("cluster", "trainer", by="user", now=1.0, expires=None)
    with pytest.raises(PermissionError), as_user(ALICE):
        (installed.root / "etc/key.pem").read_bytes()
    job = FakeJob(TlsAddress("localhost", port), run="afar", token=token).connect()
    job.train()
    says(installed, "serving 1 run with 2 ranks")
    job.goodbye()
    says(installed, "no run goes on")


def test_after_kill_9_and_after_being_stuck_it_is_back_and_has_the_incident(
    installed: Booted, daemon: Daemon
) -> None:
    with as_user(ALICE):
        job = broken(daemon, run="survivor")
    (before,) = incidents(daemon, "survivor")
    drop_in(installed, "watchdog.conf", "WatchdogSec=5")
    killed = process(installed)
    os.kill(killed, signal.SIGKILL)
    back(installed, daemon, killed)
    stuck = process(installed)
    os.kill(stuck, signal.SIGSTOP)  # from here on nobody but the watchdog can end it
    back(installed, daemon, stuck)
    (installed.root / f"{WRITTEN}.d" / "watchdog.conf").unlink()
    installed.systemctl("daemon-reload")
    assert int(installed.property(UNIT, "NRestarts")) >= 2
    with as_user(ALICE):
        job.connect()
    in_state(daemon, job, "held", "survivor")
    (after,) = incidents(daemon, "survivor")
    assert (after["id"], after["state"]) == (before["id"], "open")
    says(installed, "held: survivor")
    job.goodbye()


def back(system: Booted, daemon: Daemon, old: int) -> None:
    """Wait until another process than the old one serves."""

    def serves() -> bool:
        now = process(system)
        try:
            return now not in (0, old) and daemon.get("/healthz")[0] == 200
        except OSError:
            return False

    eventually(serves, "the daemon's return")


def test_it_stops_cleanly_and_tells_the_ranks(installed: Booted, daemon: Daemon) -> None:
    with as_user(ALICE):
        job = FakeJob(daemon.place, run="last").connect()
    job.train()
    eventually(lambda: status(daemon, "last")["step"] == 1)
    installed.systemctl("stop", UNIT)
    for rank in job.ranks:
        last = rank.receive()
        assert last is not None
        assert not getattr(last, "final", True), "a rank must come back when the daemon does"
    assert installed.property(UNIT, "Result") == "success"
    assert installed.property(UNIT, "ExecMainStatus") == "0"
    assert not (daemon.state / "sentinel.sock").exists()
    installed.systemctl("start", UNIT)
    with as_user(ALICE):
        job.connect()
    job.train()
    eventually(lambda: status(daemon, "last")["step"] == 2)
    job.goodbye()


def test_it_is_as_locked_down_as_the_file_that_ships(installed: Booted, daemon: Daemon) -> None:
    ran = installed.run("systemd-analyze", "security", "--no-pager", UNIT)
    found = re.search(r"exposure level for \S+: ([\d.]+)", ran.stdout)
    assert found, ran.stdout + ran.stderr
    assert float(found[1]) <= 1.3


def test_to_uninstall_stops_it_and_leaves_the_record(installed: Booted, daemon: Daemon) -> None:
    said = command(installed, "uninstall")
    assert f"/{WRITTEN}: taken away" in said
    assert not (installed.root / WRITTEN).exists()
    assert installed.property(UNIT, "ActiveState") == "inactive"
    assert (daemon.state / "sentinel.db").exists()
    assert (installed.root / "etc/sentinel/environment").exists()
    assert "is not there" in command(installed, "uninstall")
