"""What a check looks at: a state directory, and servers that do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.cli.doctor.check import Setup


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
