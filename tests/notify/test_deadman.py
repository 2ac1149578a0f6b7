"""The dead man's switch against a real HTTP server: what it says, when, and when it is silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from sentinel.errors import SentinelError
from sentinel.notify.deadman import DeadMan, Ping
from tests.daemon.process import eventually
from tests.notify.loopback_ping import SECRET, LoopbackPing


class Signs:
    """What is wrong."""

    def __init__(self) -> None:
        self.wrong: Sequence[str] = ()
        self.looks = 0

    async def look(self) -> Sequence[str]:
        self.looks += 1
        if self.wrong == ("raise",):
            raise ValueError("not this time")
        return self.wrong


@asynccontextmanager
async def pinging(server: LoopbackPing, signs: Signs, timeout: float = 30.0) -> AsyncIterator[None]:
    """Every 10 ms, which nobody may set it to."""
    ping = Ping(server.url)
    object.__setattr__(ping, "every", 0.01)
    task = asyncio.create_task(DeadMan(ping, signs.look, timeout=timeout).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, condition)


async def looks(signs: Signs, more: int = 5) -> None:
    """Wait for so many more looks."""
    wanted = signs.looks + more
    await until(lambda: signs.looks >= wanted)


async def test_it_starts_pings_fails_once_and_is_silent_until_all_is_well() -> None:
    signs = Signs()
    with LoopbackPing() as server:
        async with pinging(server, signs):
            await until(lambda: len(server.events) >= 4)
            assert server.events[:4] == ["start", "", "", ""]
            signs.wrong = ("run gpt is lost", "the record cannot be written")
            await until(lambda: "fail" in server.events)
            assert server.pings[-1] == ("fail", "run gpt is lost\nthe record cannot be written")
            await looks(signs)
            signs.wrong = ("run gpt is lost",)  # better, but not well
            await looks(signs)
            assert server.events[-1] == "fail"
            assert server.events.count("fail") == 1
            signs.wrong = ("run gpt is lost", "run läuft is lost")
            await until(lambda: server.events.count("fail") == 2)
            assert "läuft" in server.pings[-1][1]
            signs.wrong = ()
            await until(lambda: server.events[-1] == "")
        assert server.methods == {"GET", "POST"}


async def test_a_look_that_fails_is_no_ping(caplog: pytest.LogCaptureFixture) -> None:
    signs = Signs()
    signs.wrong = ("raise",)
    with LoopbackPing() as server:
        async with pinging(server, signs):
            await looks(signs)
        assert server.pings == [("start", ""), ("fail", "the daemon cannot look at itself")]


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_what_is_not_heard_is_said_once_without_the_url(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    signs = Signs()
    signs.wrong = ("run gpt is lost",)
    with LoopbackPing() as server:
        server.status = status
        async with pinging(server, signs):
            await until(lambda: server.events.count("fail") > 3)  # it goes on trying
            server.status = 200
            fails = server.events.count("fail")
            await looks(signs)
            assert server.events.count("fail") <= fails + 1
        assert caplog.text.count("was not heard") == 1
        assert caplog.text.count("run gpt is lost") == 1
        assert SECRET not in caplog.text
        assert str(server._server.server_port) not in caplog.text


async def test_a_url_that_does_not_answer_delays_nobody() -> None:
    signs = Signs()
    with LoopbackPing() as server:
        server.open.clear()
        async with pinging(server, signs, timeout=0.05):
            await looks(signs)  # each ping was given up
        async with pinging(server, signs):
            pass  # nor the end


async def test_nobody_there_is_no_harm() -> None:
    signs = Signs()
    with LoopbackPing() as server:
        gone = server
    async with pinging(gone, signs):
        await looks(signs)


@pytest.mark.parametrize(
    ("url", "event", "expected"),
    [
        ("https://hc-ping.com/uuid", "", "https://hc-ping.com/uuid"),
        ("https://hc-ping.com/uuid", "start", "https://hc-ping.com/uuid/start"),
        ("https://hc-ping.com/key/slug/", "fail", "https://hc-ping.com/key/slug/fail"),
        ("https://h/uuid?create=1", "fail", "https://h/uuid/fail?create=1"),
        ("https://h", "start", "https://h/start"),
    ],
)
def test_where_each_ping_goes(url: str, event: str, expected: str) -> None:
    assert Ping(url).to(event) == expected


@pytest.mark.parametrize(
    ("variables", "every"),
    [
        ({}, None),
        ({"SENTINEL_PING_URL": " "}, None),
        ({"SENTINEL_PING_URL": "https://h/u\n"}, 60.0),
        ({"SENTINEL_PING_URL": "https://h/u", "SENTINEL_PING_EVERY": "5m"}, 300.0),
    ],
)
def test_the_environment_says_where_and_how_often(
    variables: dict[str, str], every: float | None
) -> None:
    ping = Ping.from_environment(variables)
    assert (ping and ping.every) == every


@pytest.mark.parametrize(
    "variables",
    [
        {"SENTINEL_PING_URL": "secret"},
        {"SENTINEL_PING_URL": "ftp://secret/"},
        {"SENTINEL_PING_URL": "https://secret/", "SENTINEL_PING_EVERY": "often"},
        {"SENTINEL_PING_URL": "https://secret/", "SENTINEL_PING_EVERY": "10ms"},
    ],
)
def test_what_cannot_be_used_is_told_without_the_url(variables: dict[str, str]) -> None:
    with pytest.raises(SentinelError) as caught:
        Ping.from_environment(variables)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Ping("https://secret/"))
