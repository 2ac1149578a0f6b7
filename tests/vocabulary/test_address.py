"""Addresses mean what they say, and sockets belong to one user, however long their path."""

from __future__ import annotations

import os
import re
import socket
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel import address
from sentinel.address import SOCKET_NAME, UnixAddress
from sentinel.errors import AddressError, SentinelError


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    """A folder whose path alone is longer than the kernel takes for a socket."""
    folder = tmp_path / ("f" * 120) / ("g" * 120)
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "text", ["unix:///run/sentinel/sentinel.sock", "/run/sentinel/sentinel.sock"]
)
def test_both_spellings_name_the_same_socket(text: str) -> None:
    assert address.parse(text) == UnixAddress(Path("/run/sentinel/sentinel.sock"))


@given(st.text().map(lambda name: f"/{name}").filter(lambda path: "\0" not in path))
def test_what_an_address_prints_parses_to_the_same_address(path: str) -> None:
    if "://" in path:
        return
    parsed = address.parse(path)
    assert address.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sentinel.sock",
        "./sentinel.sock",
        "unix:",
        "unix://",
        "unix://sentinel.sock",
        "unix:/run/sentinel.sock",
        "tcp://127.0.0.1:9000",
        "TLS://127.0.0.1:9000",
        "http://localhost/run/sentinel.sock",
        "127.0.0.1:9000",
        "UNIX:///run/sentinel.sock",
        "/run/\0/sentinel.sock",
        "unix:///run/\0",
    ],
)
def test_a_wrong_address_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        address.parse(text)
    assert repr(text) in str(caught.value)
    assert f"unix:///absolute/path/{SOCKET_NAME}" in str(caught.value)
    assert isinstance(caught.value, (SentinelError, ValueError))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tls://node-1.example.org:9476", "node-1.example.org", 9476),
        ("tls://127.0.0.1:0", "127.0.0.1", 0),
        ("tls://[::1]:65535", "::1", 65535),
    ],
)
def test_an_address_over_tls_reads_back_as_it_was(text: str, host: str, port: int) -> None:
    parsed = address.parse(text)
    assert parsed == address.TlsAddress(host, port)
    assert str(parsed) == text


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "host",
        "host:",
        ":9476",
        "host:port",
        "host:65536",
        "host:99999999",
        "host:-1",
        "::1:9476",
        "[host]:9476",
        "host:9476/",
        "user@host:9476",
        "host :9476",
        "hóst:9476",
        "host:٣",
        "host:1\n",
    ],
)
def test_what_is_no_host_and_port_is_refused(rest: str) -> None:
    with pytest.raises(AddressError, match=re.escape("expected tls://HOST:PORT")):
        address.parse(f"tls://{rest}")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SENTINEL_STATE": "/srv/state", "XDG_STATE_HOME": "/xdg"}, "/srv/state"),
        ({"XDG_STATE_HOME": "/xdg"}, "/xdg/sentinel"),
        ({"HOME": "/home/ann"}, "/home/ann/.local/state/sentinel"),
        ({"SENTINEL_STATE": "", "HOME": "/home/ann"}, "/home/ann/.local/state/sentinel"),
    ],
)
def test_the_state_directory_is_chosen_in_order(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SENTINEL_STATE", "XDG_STATE_HOME", "SENTINEL_DAEMON"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert address.default_state_dir() == Path(expected)
    assert address.default_address() == UnixAddress(Path(expected) / SOCKET_NAME)


def test_a_relative_state_directory_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINEL_STATE", "state")
    assert address.default_state_dir() == tmp_path / "state"


def test_the_daemon_named_in_the_environment_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SENTINEL_DAEMON", "unix:///srv/other.sock")
    assert address.default_address() == UnixAddress(Path("/srv/other.sock"))


def test_a_wrong_address_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_DAEMON", "localhost")
    with pytest.raises(AddressError, match="localhost"):
        address.default_address()


def exchange(path: Path) -> None:
    """Listen and connect at this path, and send a word each way."""
    with address.listen(path) as listener:

        def echo() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(peer.recv(16).upper())

        server = threading.Thread(target=echo)
        server.start()
        with address.connect(UnixAddress(path), timeout=5.0) as client:
            assert client.gettimeout() == 5.0
            client.sendall(b"word")
            assert client.recv(16) == b"WORD"
        server.join(5.0)


def test_a_socket_carries_bytes_both_ways(tmp_path: Path) -> None:
    exchange(tmp_path / SOCKET_NAME)


@pytest.mark.parametrize("length", [106, 107, 108, 109])
def test_paths_around_the_kernels_limit_work(length: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        path = Path(short) / ("f" * (length - len(short) - 3)) / "s"
        path.parent.mkdir()
        assert len(os.fsencode(path)) == length
        exchange(path)


def test_a_path_longer_than_the_kernels_limit_works(long_folder: Path) -> None:
    path = long_folder / SOCKET_NAME
    with pytest.raises(OSError, match="too long"), socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(path))
    exchange(path)
    assert path.is_socket()


def test_a_long_path_leaves_no_descriptor_open(long_folder: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    exchange(long_folder / SOCKET_NAME)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_this_user_can_reach_the_socket(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with address.listen(tmp_path / SOCKET_NAME):
            assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


def test_a_taken_path_is_refused_and_the_socket_there_still_works(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    with address.listen(path):
        with pytest.raises(OSError, match="in use"):
            address.listen(path)
        address.connect(UnixAddress(path), timeout=5.0).close()


def test_nobody_there_is_an_error_at_once(tmp_path: Path, long_folder: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent", long_folder, long_folder / "absent"):
        with pytest.raises(FileNotFoundError):
            address.connect(UnixAddress(folder / SOCKET_NAME), timeout=5.0)


def test_a_socket_whose_daemon_died_refuses(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    address.listen(path).close()
    with pytest.raises(ConnectionRefusedError):
        address.connect(UnixAddress(path), timeout=5.0)
