"""What the dispatcher counts on, of every receiver: one contract, whoever is told."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sentinel.errors import DeliveryError
from sentinel.notify.alertmanager import AlertmanagerReceiver
from sentinel.notify.grafana import GrafanaReceiver
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.notify.notice import Action, Alert, Cause, Evidence, Incident, Notice
from sentinel.notify.receiver import Receiver
from sentinel.notify.slack import SlackReceiver
from sentinel.notify.standard_output import StdoutReceiver
from sentinel.notify.webhook import WebhookReceiver
from tests.daemon.process import eventually
from tests.notify.loopbacks import LoopbackAlertmanager, LoopbackGrafana, LoopbackWebhook
from tests.notify.notices import HELD, letter, notice
from tests.notify.rude_server import Rudeness, RudeServer

SECRET = "xoxb-only-for-those-who-may"
OVER_HTTP = ("slack", "webhook", "alertmanager", "grafana")
ALL = (*OVER_HTTP, "stdout")


def made(kind: str, url: str, *, secret: str = SECRET, timeout: int = 30) -> Receiver:
    """A receiver of this kind that writes to this server."""
    if kind == "slack":
        base = f"{url.removesuffix('/api/')}/api/"
        return SlackReceiver(
            secret, "#training", state_dir=Path("/s"), base_url=base, timeout=timeout
        )
    if kind == "webhook":
        return WebhookReceiver("hook", f"{url}/hook", secret.encode(), timeout=timeout)
    if kind == "alertmanager":
        return AlertmanagerReceiver("am", url, {"team": "llm"}, timeout=timeout)
    assert kind == "grafana"
    return GrafanaReceiver("graph", url, secret, "train", ["llm"], timeout=timeout)


def loopback(kind: str) -> LoopbackWebhook | LoopbackAlertmanager | LoopbackGrafana:
    """What it writes to."""
    if kind == "webhook":
        return LoopbackWebhook()
    return LoopbackAlertmanager() if kind == "alertmanager" else LoopbackGrafana(SECRET)


@dataclass
class Desk:
    """A receiver, and how to see what it has been told."""

    kind: str
    receiver: Receiver
    server: LoopbackSlack | LoopbackWebhook | LoopbackAlertmanager | LoopbackGrafana | None = None
    lines: list[bytes] = field(default_factory=list)

    def things(self) -> int:
        """How many messages, alerts, annotations or lines a person would see."""
        server = self.server
        if isinstance(server, LoopbackSlack):
            return len(server.messages)
        if isinstance(server, LoopbackAlertmanager):
            return len(server.alerts)
        if isinstance(server, LoopbackGrafana):
            return len(server.annotations)
        return len(server.bodies if server else self.lines)

    def told(self) -> bytes:
        """All that left this process."""
        server = self.server
        if isinstance(server, LoopbackSlack):
            return "\n".join(map(repr, server.messages)).encode()
        return b"\n".join(server.bodies if server else self.lines)


@pytest.fixture(params=ALL)
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    """Each receiver, with what it writes to."""
    kind = request.param
    async with AsyncExitStack() as stack:
        if kind == "stdout":
            reading, writing = os.pipe()
            desk = Desk(kind, StdoutReceiver("out", descriptor=writing))
            reader = threading.Thread(target=_collect, args=(reading, desk.lines))
            reader.start()
            stack.callback(reader.join)
            stack.callback(os.close, writing)
        elif kind == "slack":
            slack = await stack.enter_async_context(LoopbackSlack(token=SECRET))
            desk = Desk(kind, made(kind, slack.url), slack)
        else:
            server = await stack.enter_async_context(loopback(kind))
            desk = Desk(kind, made(kind, server.url), server)
        yield desk
        await desk.receiver.close()


def _collect(descriptor: int, lines: list[bytes]) -> None:
    with os.fdopen(descriptor, "rb") as reader:
        lines.extend(iter(reader.readline, b""))


async def test_an_incident_is_told_from_its_begin_to_its_end(desk: Desk) -> None:
    assert await desk.receiver.check()
    head = await desk.receiver.deliver(letter(about=None))
    assert head.ts
    for kind, event_id, about in (
        ("held", "e2", notice(about=HELD, actions=(HELD,))),
        ("resolved", "e3", notice(state="resolved")),
    ):
        later = letter(kind, event_id=event_id, head=head, about=about)
        assert (await desk.receiver.deliver(later)).ts
        await desk.receiver.refresh(later)
    await desk.receiver.close()
    await desk.receiver.close()


async def test_a_letter_of_unknown_fate_is_found_or_may_be_sent_again(desk: Desk) -> None:
    """None: it never arrived, or it does no harm twice. Permanent: it cannot be known."""
    if desk.kind in ("webhook", "stdout"):
        with pytest.raises(DeliveryError, match="history") as caught:
            await desk.receiver.find(letter(about=None), 0.0)
        assert caught.value.permanent
        return
    sent = letter(about=None)
    assert await desk.receiver.find(sent, 0.0) is None
    head = await desk.receiver.deliver(sent)
    before = desk.things()
    if (found := await desk.receiver.find(sent, 0.0)) is None:
        await desk.receiver.deliver(sent)
    else:
        assert found == head
    assert desk.things() == before == 1


HUGE = Notice(
    at=1_780_000_000.0,
    opened_at=1_779_999_000.0,
    incident=Incident(
        "i1" * 100,
        "läuft \N{ROCKET} \u202e\x07" + "r" * 9000,
        "open",
        "critical",
        37,
        Cause("R" * 3000, "s", 37, 1, "höst", "cuda:1", "m" * 9000, samples=("s",) * 5000),
        evidence=tuple(Evidence("stack", "t" * 500, "frame\n" * 50_000, n) for n in range(50)),
    ),
    alerts=tuple(Alert("R", labels={f"l{n}": "v" * 5000, "é": "\x00"}) for n in range(300)),
    alert_count=40_000,
    actions=tuple(Action("pause", "failed", n, "x", "y" * 9000, "z" * 9000) for n in range(300)),
    summary="<script>alert('s')</script> " + "ü" * 90_000,
    advice="a" * 90_000,
)


async def test_a_huge_incident_with_strange_names_is_told_in_bounds(desk: Desk) -> None:
    await desk.receiver.deliver(letter(about=HUGE))
    if desk.kind == "stdout":
        await asyncio.to_thread(eventually, lambda: bool(desk.lines))
    told = desk.told()
    assert 0 < len(told) < 200_000
    told.decode()
    if desk.kind == "grafana":  # it shows HTML, the others leave that to those who show
        assert b"<script>" not in told


async def test_no_secret_is_told_or_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await desk.receiver.check()
    head = await desk.receiver.deliver(letter(about=None))
    await desk.receiver.deliver(letter("updated", event_id="e2", head=head, about=None))
    assert SECRET.encode() not in desk.told()
    assert SECRET not in caplog.text
    assert SECRET not in f"{desk.receiver!r} {head!r}"


@dataclass(frozen=True)
class Error:
    """What an error is to say; `arrived`: there is to be none."""

    permanent: bool = False
    doubtful: bool = False
    retry_after: float | None = None
    arrived: bool = False


PASSING, PERMANENT, DOUBTFUL = Error(), Error(permanent=True), Error(doubtful=True)
ARRIVED = Error(arrived=True)
# In the order of OVER_HTTP. What does no harm a second time is never in doubt; Slack's client
# follows redirects, and knows no 503 of its own.
UNCLEAR = (DOUBTFUL, DOUBTFUL, PASSING, DOUBTFUL)
ANSWERED = (DOUBTFUL, ARRIVED, PASSING, DOUBTFUL)
BUSY = Error(doubtful=True, retry_after=90.0)
RUDE: dict[Rudeness, tuple[Error | None, ...]] = {
    "silent": UNCLEAR,
    "drop": UNCLEAR,
    "noise": UNCLEAR,
    "500": UNCLEAR,
    "html": ANSWERED,
    "rubbish": ANSWERED,
    "endless": ANSWERED,
    "redirect": (None, PERMANENT, PERMANENT, PERMANENT),
    "limit": (Error(retry_after=3000.0),) * 4,
    "busy": (None, BUSY, Error(retry_after=90.0), BUSY),
}
CASES = [
    (rudeness, kind, error)
    for rudeness, errors in RUDE.items()
    for kind, error in zip(OVER_HTTP, errors, strict=True)
    if error
]


@pytest.mark.parametrize(("rudeness", "kind", "expected"), CASES)
async def test_a_server_that_misbehaves_is_understood(
    rudeness: Rudeness, kind: str, expected: Error, caplog: pytest.LogCaptureFixture
) -> None:
    async with RudeServer(rudeness) as server:
        receiver = made(kind, server.url, timeout=1 if rudeness in ("silent", "endless") else 30)
        if expected.arrived:
            assert (await receiver.deliver(letter(about=None))).ts
            return
        with pytest.raises(DeliveryError) as caught:
            await receiver.deliver(letter(about=None))
        error = caught.value
        found = Error(error.permanent, error.doubtful, error.retry_after)
        assert found == expected, error
        assert server.requests == 1, "a post is not repeated on the spot, nor led elsewhere"
        assert SECRET not in f"{error!r} {error.__cause__!r} {caplog.text}"
        await receiver.close()


@pytest.mark.parametrize("kind", OVER_HTTP)
async def test_a_server_that_is_down_has_certainly_heard_nothing(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        receiver = made(kind, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(DeliveryError, match="cannot be reached") as caught:
            await receiver.deliver(letter(about=None))
        assert (caught.value.permanent, caught.value.doubtful) == (False, False)
        if kind in (
            "alertmanager",
            "grafana",
        ):  # a webhook has nothing to ask; Slack is asked twice
            with pytest.raises(DeliveryError, match="cannot be reached"):
                await receiver.check()
        await receiver.close()


async def test_what_only_a_person_can_mend_is_permanent(desk: Desk) -> None:
    server = desk.server
    if desk.kind == "stdout" or server is None:
        return  # has neither token nor address: see test_standard_output.py
    wrong = made(desk.kind, server.url, secret="wrong")
    if not isinstance(server, (LoopbackSlack, LoopbackGrafana)):
        server.refuses = 401
    with pytest.raises(DeliveryError, match=r"token|password") as caught:
        await wrong.deliver(letter(about=None))
    assert caught.value.permanent
    assert desk.things() <= 1
    await wrong.close()
