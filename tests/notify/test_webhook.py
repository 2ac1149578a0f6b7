"""What a webhook gets: that its signature holds, and that its shape is the promised one."""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
import trustme
from aiohttp import web

from sentinel.errors import DeliveryError, SentinelError
from sentinel.held import HoldTerms
from sentinel.notify import event, request
from sentinel.notify.notice import Alert, Evidence, Hold
from sentinel.notify.webhook import WebhookReceiver, key_of
from tests.notify.loopbacks import LoopbackWebhook
from tests.notify.notices import HELD, letter, notice
from tests.package.tools import ROOT

KEY = bytes(range(32))
SECRETS = {
    "as the specification writes it": "whsec_" + base64.b64encode(KEY).decode(),
    "plain": "not-base64-but-long-enough-for-a-key",
}


@pytest.fixture
async def hook() -> AsyncIterator[LoopbackWebhook]:
    async with LoopbackWebhook() as server:
        yield server


def verifier() -> Callable[[dict[str, str], bytes, str], bool]:
    """The function that docs/receivers.md tells people to use."""
    text = (ROOT / "docs" / "receivers.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)
    return cast(Callable[[dict[str, str], bytes, str], bool], names["is_from_sentinel"])


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
async def test_the_documented_check_takes_what_is_sent_and_nothing_else(
    hook: LoopbackWebhook, secret: str
) -> None:
    await WebhookReceiver("hook", f"{hook.url}/hook", secret.encode()).deliver(letter(about=None))
    headers, body = hook.headers[0], hook.bodies[0]
    is_genuine = verifier()
    assert is_genuine(headers, body, secret)
    rotated = f"v1,bm90IHRoaXM= {headers['webhook-signature']}"
    assert is_genuine(headers | {"webhook-signature": rotated}, body, secret)
    assert not is_genuine(headers, body + b" ", secret)
    assert not is_genuine(headers, body, "another secret of the same length")
    for name, value in (("webhook-id", "e2"), ("webhook-timestamp", "1700000000")):
        assert not is_genuine(headers | {name: value}, body, secret)


async def test_a_second_attempt_has_the_same_id_and_body_at_another_time(
    hook: LoopbackWebhook,
) -> None:
    times = iter((1_780_000_000.0, 1_780_000_009.0))
    ours = WebhookReceiver("hook", f"{hook.url}/hook", KEY, wall=lambda: next(times))
    for _ in range(2):
        await ours.deliver(letter(about=None))
    first, second = hook.headers
    assert hook.bodies[0] == hook.bodies[1]
    assert (first["webhook-id"], second["webhook-id"]) == ("e1", "e1")
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1780000000", "1780000009")
    assert first["webhook-signature"] != second["webhook-signature"]


async def test_without_a_secret_nothing_is_signed(hook: LoopbackWebhook) -> None:
    ours = WebhookReceiver("hook", f"{hook.url}/hook")
    await ours.deliver(letter(about=None))
    assert "webhook-signature" not in hook.headers[0]
    assert await ours.check() == "events, unsigned"


def test_an_event_has_the_promised_shape() -> None:
    since = 1_780_000_000.5
    hold = Hold(41, since, HoldTerms("stop", 7200.0, 8, "GPU"))
    about = msgspec.structs.replace(
        notice(about=HELD, actions=(HELD,)), hold=hold, opened_at=since - 60.0
    )
    body = event.encode(replace(letter("held", about=about), late="Told late."))
    assert b"\n" not in body
    found = json.loads(body)
    data = found.pop("data")
    assert found == {
        "type": "sentinel.incident.held",
        "version": 1,
        "id": "e1",
        "timestamp": "2026-05-28T20:26:40.000Z",
    }
    assert data["late"] == "Told late."
    assert data["hold"] == {
        "step": 41,
        "since": "2026-05-28T20:26:40.500Z",
        "ends": "2026-05-28T22:26:40.500Z",
        "unattended": "stop",
        "ranks": 8,
        "unit": "GPU",
        "job_ends": None,
    }
    assert (data["incident"], data["run"], data["state"]) == ("i1", "gpt", "open")
    assert data["opened_at"] == "2026-05-28T20:25:40.500Z"
    assert data["cause"]["module"] == "transformer.h.3.mlp"
    assert data["about"]["action"] == "pause"
    promised = set(re.findall(r"`data\.(\w+)`", (ROOT / "docs" / "receivers.md").read_text()))
    assert set(data) >= promised


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (0.5, 0.5)],
)
def test_a_number_that_json_cannot_say_is_a_string(value: float, said: object) -> None:
    labels = cast(dict[str, str], {"value": value, "\ud800": "half a \udc00 character"})
    about = msgspec.structs.replace(
        notice(), alerts=(Alert("R", labels=labels),), opened_at=value, at=value
    )
    found = json.loads(event.encode(letter(about=about)))
    assert found["data"]["alerts"][0]["labels"] == {"value": said, "?": "half a ? character"}
    if said != value:
        assert (found["timestamp"], found["data"]["opened_at"]) == (None, None)


@pytest.mark.parametrize("size", [1, 100, 10_000, 1_000_000])
def test_an_event_is_bounded_whatever_is_in_it(size: int) -> None:
    text = "\N{ROCKET}" * size
    alert = Alert("R" * size, labels={str(n): text for n in range(50)})
    about = msgspec.structs.replace(notice(summary=text), alerts=(alert,) * 50)
    body = event.encode(letter(about=about))
    assert len(body) <= event.MAX_BYTES
    assert json.loads(body)["data"]["alerts"]


def test_a_stack_arrives_whole() -> None:
    stack = 'File "train.py", line 7\n' * 300
    incident = msgspec.structs.replace(
        notice().incident, evidence=(Evidence("stack", "rank 3", stack, 3),)
    )
    about = msgspec.structs.replace(notice(), incident=incident)
    (found,) = json.loads(event.encode(letter(about=about)))["data"]["evidence"]
    assert found == {"kind": "stack", "title": "rank 3", "text": stack, "rank": 3}


@pytest.mark.parametrize("secret", [b"", b" \n", b"whsec_", b"whsec_no*base64"])
def test_a_secret_that_is_none_is_refused(secret: bytes) -> None:
    with pytest.raises(SentinelError, match="its secret") as caught:
        key_of(secret, "the webhook ops")
    assert "no*base64" not in str(caught.value)


def test_the_line_end_of_a_file_is_not_part_of_a_secret() -> None:
    assert key_of(b"whsec_" + base64.b64encode(KEY) + b"\n", "it") == KEY


@pytest.mark.parametrize(
    "url",
    ["", "hooks/here", "ftp://x/y", "http://", "https://h:99999/", "http://a b/", "http://h\n/"],
)
def test_a_url_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(SentinelError, match=r"expected https://HOST\[:PORT\]/\.\.\.") as caught:
        WebhookReceiver("ops", url)
    assert not url or url not in str(caught.value).replace("https://HOST", "")


async def test_a_certificate_that_nobody_vouches_for_is_not_taken() -> None:
    async def take(_: web.Request) -> web.Response:
        raise AssertionError("it was told")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    app = web.Application()
    app.router.add_post("/secret-path", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        url = f"https://localhost:{runner.addresses[0][1]}/secret-path"
        with pytest.raises(DeliveryError, match="certificate is not trusted") as caught:
            await WebhookReceiver("ops", url).deliver(letter(about=None))
        assert not caught.value.doubtful
        assert "secret-path" not in f"{caught.value!r}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", None),
        ("7", 7.0),
        ("-1", None),
        ("soon", None),
        ("99999999", request.LONGEST_QUIET),
        ("9" * 400, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2065 07:28:00 GMT", request.LONGEST_QUIET),
        ("Wed, 99 Oct 99999 07:28:00", None),
    ],
)
def test_how_long_to_wait_is_a_number_or_a_date(header: str, seconds: float | None) -> None:
    assert request.seconds_to_wait(header) == seconds
