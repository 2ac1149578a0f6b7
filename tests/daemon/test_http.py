"""The JSON interface, the metrics, and who may use which."""

from __future__ import annotations

import http.client
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.daemon.web import HttpAddress, parse_http
from sentinel.errors import AddressError
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import broken, in_state, status


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "reason"),
    [
        ("POST", "/api/v1/runs/nope/pause", {}, 404, "there is no run 'nope'"),
        ("GET", "/api/v1/status?run=rum", None, 404, "did you mean 'run'"),
        ("GET", "/api/v1/incidents?run=rum", None, 404, "did you mean 'run'"),
        ("GET", "/api/v1/actions/99", None, 404, "no action 99"),
        ("GET", f"/api/v1/actions/{10**30}", None, 404, "no action 1000"),
        ("GET", "/api/v1/actions/%D9%A1", None, 404, "no action \u0661"),
        ("DELETE", "/api/v1/silences/%D9%A1", None, 409, "no silence \u0661"),
        ("POST", "/api/v1/runs/run/dance", {}, 404, "Not Found"),
        ("POST", "/api/v1/runs/run/resume", {}, 409, "not held"),
        ("POST", "/api/v1/runs/run/resume", b"{", 400, "malformed"),
        ("POST", "/api/v1/runs/run/resume", {"lr_scale": 0}, 400, "lr_scale"),
        ("POST", "/api/v1/runs/run/resume", {"skip": 1}, 400, "skip"),
        ("POST", "/api/v1/runs/run/resume", {"skip_batches": -1}, 400, "skip_batches"),
        ("POST", "/api/v1/runs/run/pause", [], 400, "malformed"),
        ("POST", "/api/v1/runs/run/pause", b"x" * 100_000, 413, ""),
        ("DELETE", "/api/v1/status", None, 405, "Not Allowed"),
        ("GET", "/etc/passwd", None, 404, "Not Found"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(
    shared: Daemon, method: str, path: str, body: object, code: int, reason: str
) -> None:
    if not json.loads(shared.get("/api/v1/status")[1]):
        FakeJob(shared.place).connect().train()
    got, answer = shared.request(method, path, body)
    assert got == code, answer
    assert reason in json.loads(answer)["error"]


def test_the_sockets_are_for_this_user_alone(shared: Daemon) -> None:
    for name in ("sentinel.sock", "api.sock"):
        assert stat.S_IMODE((shared.state / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(shared.state.stat().st_mode) & 0o077 in (0, 0o055)


def test_metrics_tell_how_a_held_run_is(daemon: Daemon) -> None:
    job = broken(daemon)
    metrics = daemon.metrics()
    run = status(daemon)
    expected = {
        'sentinel_run_step{run="run"}': run["step"],
        'sentinel_run_state{run="run",state="held"}': 1,
        'sentinel_run_state{run="run",state="running"}': 0,
        'sentinel_ranks{run="run",state="held"}': 2,
        'sentinel_ranks{run="run",state="connected"}': 0,
        'sentinel_loss{run="run",stat="mean"}': 2.0,
        'sentinel_loss{run="run",stat="max",rank="0"}': 2.0,
        'sentinel_alerts_firing{run="run",rule="NonFiniteUpdate",severity="critical"}': 1,
        'sentinel_incidents_total{run="run",severity="critical"}': 1,
        'sentinel_hold{run="run"}': 1,
        "sentinel_daemon_connections": 2,
        "sentinel_daemon_outbox_pending": 0,
        "sentinel_daemon_order_seconds_count": 1,
        "sentinel_daemon_faults_total": 0,
    }
    assert {name: metrics.get(name) for name in expected} == expected
    assert metrics["sentinel_daemon_frames_total"] == 2 * job.step
    assert metrics["sentinel_daemon_judge_seconds_count"] > 0
    job.vanish()
    eventually(lambda: daemon.metrics()['sentinel_ranks{run="run",state="lost"}'] == 2)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, int]]:
    """A daemon with metrics over TCP, and their port."""
    daemon = Daemon(tmp_path_factory.mktemp("public") / "state", http="127.0.0.1:0").start()
    found = re.search(r"metrics on http://127\.0\.0\.1:(\d+)/", daemon.log())
    assert found is not None
    yield daemon, int(found[1])
    daemon.kill()


def over_tcp(port: int, method: str, path: str, host: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "host", "code"),
    [
        ("GET", "/metrics", "127.0.0.1:{port}", 200),
        ("GET", "/healthz", "localhost", 200),
        ("HEAD", "/healthz", "[::1]:{port}", 200),
        ("GET", "/metrics", "evil.example", 403),
        ("GET", "/metrics", "evil.example:{port}", 403),
        ("GET", "/metrics", "127.0.0.1.evil.example", 403),
        ("GET", "/api/v1/status", "localhost", 401),
        ("POST", "/api/v1/runs/run/stop", "localhost", 401),
        ("POST", "/metrics", "localhost", 405),
    ],
)
def test_over_tcp_there_is_nothing_without_a_token_but_metrics_by_local_names(
    public: tuple[Daemon, int], method: str, path: str, host: str, code: int
) -> None:
    assert over_tcp(public[1], method, path, host.format(port=public[1]))[0] == code


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9475", "expected HOST:PORT"),
        ("127.0.0.1:port", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
        ("0.0.0.0:9475", "not this machine's loopback"),
        ("example.org:9475", "not this machine's loopback"),
        ("192.168.1.1:80", "not this machine's loopback"),
    ],
)
def test_an_http_address_that_is_none_or_not_local_is_refused(text: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        parse_http(text)


@pytest.mark.parametrize("text", ["127.0.0.1:9475", "localhost:0", "[::1]:80", "127.1.2.3:1"])
def test_an_http_address_reads_back_as_it_was(text: str) -> None:
    assert str(parse_http(text)) == text
    assert isinstance(parse_http(text), HttpAddress)


def test_a_run_with_odd_characters_in_its_name_can_be_addressed(daemon: Daemon) -> None:
    name = "größe 50% & more?#"
    job = FakeJob(daemon.place, run=name).connect()
    job.train()
    quoted = "gr%C3%B6%C3%9Fe%2050%25%20%26%20more%3F%23"
    assert daemon.request("POST", f"/api/v1/runs/{quoted}/pause", {})[0] == 200
    job.train_until_stand()
    in_state(daemon, job, "held", quoted)
    job.vanish()


def test_it_serves_from_a_directory_with_a_very_long_name(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / ("x" * 120) / "state").start()
    try:
        job = FakeJob(daemon.place).connect()
        job.train()
        eventually(lambda: status(daemon)["step"] == 1)
        job.goodbye()
    finally:
        daemon.kill()
