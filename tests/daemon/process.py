"""A real daemon in a process of its own, and what a person would run beside it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sentinel import address

T = TypeVar("T")

PATIENCE = 120.0  # s, far more than anything here takes


def eventually(look: Callable[[], T | None], what: str = "it", within: float = PATIENCE) -> T:
    """What `look` finds, once it finds something. Fails when that takes too long."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} has not happened within {within:g} s"
        time.sleep(0.01)


def environment(**more: str) -> dict[str, str]:
    """The environment without what a person has set for Sentinel or Slack."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SENTINEL_", "SLACK_")) or name == "SENTINEL_BLACKBOX"
    }
    return {**kept, **more}


def sentinel(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "sentinel", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
        env=environment(**more),
        check=False,
    )


@dataclass
class Daemon:
    """`sentinel daemon` in a state directory; metrics over TCP are off unless asked for."""

    state: Path
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    http: str = "off"
    process: subprocess.Popen[str] | None = None

    def start(self) -> Daemon:
        """Start, and wait until it answers."""
        command = ["daemon", "--state", str(self.state), "--http", self.http, *self.options]
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "daemon.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sentinel", *command],
                stdout=log,
                stderr=log,
                text=True,
                env=environment(**self.env),
            )
        eventually(self._answers, "the daemon's start")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            return False

    def log(self) -> str:
        """What it has said."""
        return (self.state / "daemon.log").read_text()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """End it as systemd does; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    @property
    def place(self) -> address.UnixAddress:
        """Where ranks find it."""
        return address.UnixAddress(self.state / address.SOCKET_NAME)

    def request(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, bytes]:
        """A request over `api.sock`: status and answer."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        try:
            connection.sock = address.connect(
                address.UnixAddress(self.state / "api.sock"), PATIENCE
            )
            data = body if isinstance(body, bytes) else None
            if body is not None and data is None:
                data = json.dumps(body).encode()
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """A GET over `api.sock`."""
        return self.request("GET", path)

    def metrics(self) -> dict[str, float]:
        """All samples, by name with labels."""
        status, text = self.get("/metrics")
        assert status == 200
        lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def connect(self) -> socket.socket:
        """A connection such as a rank has."""
        return address.connect(self.place, PATIENCE)
