"""The connection over which presses come: told in time, once, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sentinel.notify.buttons import Situation, actions_block
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import Fault, LoopbackSlack
from sentinel.notify.loopback_socket import Clicked, LoopbackSocket
from sentinel.notify.press import Press
from sentinel.notify.socket_mode import SocketMode, Work, whisper

OPEN = "apps.connections.open"
UNDER = Message(
    "C0LOOPBACK0",
    "training",
    "1.0",
    "text",
    (actions_block(Situation("i1", "gpt", "LossSpike", "1/1", "held")),),
)


async def until(look: Callable[[], object], what: str = "it") -> None:
    async def wait() -> None:
        while not look():
            await asyncio.sleep(0.005)

    try:
        await asyncio.wait_for(wait(), 60)
    except asyncio.TimeoutError:
        raise AssertionError(f"{what} has not happened") from None


class Taker:
    """Takes presses, and lets a test say when."""

    def __init__(self, socket: LoopbackSocket) -> None:
        self.taken: list[Press] = []
        self.worked: list[bool] = []  # whether Slack had been told by then
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self._socket = socket

    async def take(self, press: Press) -> Work:
        await self.may_take.wait()
        self.taken.append(press)

        async def work() -> None:
            clicked = self._socket.clicks[len(self.worked)]
            await until(lambda: clicked.acknowledged is not None)
            self.worked.append(True)
            await self.may_finish.wait()

        return work


@asynccontextmanager
async def connected(
    *, token: str = "xapp-loopback", count: int = 1, wait: bool = True, **options: object
) -> AsyncIterator[tuple[LoopbackSocket, Taker, SocketMode, LoopbackSlack]]:
    slack = LoopbackSlack()
    socket = LoopbackSocket(slack, **options)  # type: ignore[arg-type]
    taker = Taker(socket)
    async with slack:
        modes = [SocketMode(token, taker, base_url=slack.url, ping=1.0) for _ in range(count)]
        for mode in modes:
            await mode.open()
        try:
            if wait:
                await until(lambda: len(socket.connections) == count, "connecting")
            yield socket, taker, modes[0], slack
        finally:
            for mode in modes:
                await mode.close()


async def acknowledged(clicked: Clicked) -> float:
    await until(lambda: clicked.acknowledged is not None, "an acknowledgment")
    assert clicked.acknowledged is not None
    return clicked.acknowledged


async def test_slack_is_told_before_the_work_is_done_however_long_that_takes() -> None:
    async with connected() as (socket, taker, mode, _):
        taker.may_finish.clear()
        clicked = socket.press("Resume", message=UNDER)
        assert await acknowledged(clicked) < 3.0
        await until(lambda: taker.worked)
        assert [(one.user, one.kind, one.app) for one in taker.taken] == [
            ("U0ANN", "resume", "A0LOOPBACK")
        ]
        assert mode.app == "A0LOOPBACK"
        taker.may_finish.set()


async def test_slack_is_told_in_time_though_the_record_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sentinel.notify.socket_mode.TAKE_WITHIN", 0.1)
    async with connected() as (socket, taker, _, _):
        taker.may_take.clear()
        clicked = socket.press("Resume", message=UNDER)
        assert await acknowledged(clicked) < 3.0
        assert taker.worked == []
        taker.may_take.set()
        await until(lambda: taker.worked)


@pytest.mark.parametrize("sticky", [True, False], ids=["same envelope", "another envelope"])
async def test_a_press_whose_acknowledgment_is_lost_comes_again_as_the_same_press(
    sticky: bool,
) -> None:
    options = {"redeliver_after": 0.1, "sticky_envelopes": sticky}
    async with connected(**options) as (socket, taker, _, _):  # type: ignore[arg-type]
        socket.deaf = 1
        clicked = socket.press("Resume", message=UNDER)
        await acknowledged(clicked)
        assert len(set(clicked.deliveries)) == (1 if sticky else 2)
        await until(lambda: len(taker.taken) == 2)
        assert len({press.id for press in taker.taken}) == 1


async def test_a_connection_that_is_lost_in_the_middle_of_a_press_is_replaced() -> None:
    async with connected(redeliver_after=0.1) as (socket, taker, _, _):
        socket.deaf = 1
        clicked = socket.press("Resume", message=UNDER)
        await until(lambda: taker.taken)
        socket.drop()
        await acknowledged(clicked)
        assert socket.opened == 2


async def test_slack_may_move_the_connection_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinel.notify.socket_mode._backoff", lambda failures: 0.01)
    async with connected() as (socket, _, mode, slack):
        await socket.disconnect("warning")
        await until(lambda: socket.opened == 2 and len(socket.connections) == 1, "a new one")
        faults = ("rate_limit", "html", "http_500", "drop")
        slack.fail_next(*(Fault(kind, method=OPEN) for kind in faults))  # type: ignore[arg-type]
        await socket.disconnect("refresh_requested")
        await until(lambda: socket.opened == 3 and len(socket.connections) == 1, "a third")
        await acknowledged(socket.press("Resume", message=UNDER))
        assert mode.usable


async def test_each_press_goes_to_one_of_several_connections_at_random() -> None:
    async with connected(count=3) as (socket, taker, _, _):
        clicks = [socket.press("Resume", message=UNDER) for _ in range(60)]
        for clicked in clicks:
            await acknowledged(clicked)
        assert len({press.id for press in taker.taken}) == 60
        assert all(socket.connections)


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What Sentinel has warned of; the server it talks to logs too."""
    ours = [one for one in caplog.records if one.name.startswith("sentinel")]
    return [one.message for one in ours if one.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("token", "said"),
    [("xapp-wrong", "invalid_auth"), ("xoxb-loopback", "not_allowed_token_type")],
)
async def test_a_token_that_slack_does_not_take_is_told_once_and_there_are_no_buttons(
    token: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(token=token, wait=False) as (_, _, mode, slack):
        await until(lambda: not mode.usable)
        assert slack.requests == [OPEN]
    (message,) = _said(caplog)
    assert said in message


async def test_a_token_that_ends_while_it_is_used_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinel.notify.socket_mode._REFUSED", 0.02)
    monkeypatch.setattr("sentinel.notify.socket_mode.SETTLED", 0.02)
    async with connected() as (socket, _, mode, slack):
        slack.fail_next(*[Fault("error", "token_expired", method=OPEN)] * 5)
        socket.drop()
        await until(lambda: not mode.usable)
        await until(lambda: mode.usable and socket.connections, "buttons, with the token renewed")
    said = _said(caplog)
    assert len(said) == 2
    assert "token_expired" in said[0]
    assert "heard again" in said[1]


async def test_socket_mode_that_is_switched_off_is_no_storm_of_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as (socket, _, mode, _):
        socket.enabled = False
        await socket.disconnect("link_disabled")
        await until(lambda: socket.opened >= 4)  # each a while after the one before
        assert not mode.usable
    said = _said(caplog)
    assert len(said) == 1
    assert "switched off" in said[0]


async def test_without_a_connection_for_long_there_are_no_buttons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sentinel.notify.socket_mode.SOON", 0.05)
    async with connected() as (_, _, mode, slack):
        assert mode.usable
        await slack.stop()
        await until(lambda: not mode.usable)


async def test_what_is_no_press_is_acknowledged_and_left() -> None:
    async with connected() as (socket, taker, _, _):
        await acknowledged(socket.send({"type": "view_submission", "user": {"id": "U1"}}))
        await acknowledged(socket.press("Resume", message=UNDER))
        assert len(taker.taken) == 1


@pytest.mark.parametrize(
    ("statuses", "heard"), [([429], ["done"]), ([404], []), ([500], [])], ids=str
)
async def test_an_answer_is_told_again_after_a_rate_limit_and_otherwise_let_go(
    statuses: list[int], heard: list[str]
) -> None:
    async with connected() as (socket, taker, _, _):
        clicked = socket.press("Resume", message=UNDER)
        await until(lambda: taker.taken)
        socket.response_errors.extend(statuses)
        await whisper(taker.taken[0], "done")
        assert clicked.answers == heard
