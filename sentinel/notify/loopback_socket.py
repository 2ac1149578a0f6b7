"""Socket Mode for the loopback workspace: what brings presses on buttons to an app.

With it, `LoopbackSlack` also speaks apps.connections.open, the websocket that this leads to (hello,
envelopes that must be acknowledged, disconnects), and the `response_url` of a press, to the
unmodified Slack SDK. `press` does what a person's finger does; the rest misbehaves as Slack does.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from aiohttp import WSMsgType, web

from sentinel.notify.loopback_message import Answer, Fields, Message
from sentinel.notify.loopback_slack import LoopbackSlack

ACK_WITHIN = 3.0  # s
APP, TEAM = "A0LOOPBACK", "T0LOOPBACK"
_MAX_CONNECTIONS = 10  # that Slack lets an app have
_ATTEMPTS = 4  # to deliver one envelope
_RESPONSES = 5  # to one `response_url`

Disconnect = Literal["warning", "refresh_requested", "link_disabled"]
Json = dict[str, object]
Button = Mapping[str, object]


@dataclass(eq=False)
class Clicked:
    """One press as the workspace saw it. `deliveries`: the envelope ids under which it went out.

    `acknowledged` is after how many seconds the app said that it has it, None while it has not.
    `answers`: what the app told the person alone.
    """

    payload: Json
    deliveries: list[str] = field(default_factory=list)
    acknowledged: float | None = None
    answers: list[str] = field(default_factory=list)
    _sent: float = 0.0


@dataclass(eq=False)
class _Connection:
    socket: web.WebSocketResponse
    clicks: int = 0


class LoopbackSocket:
    """`LoopbackSocket(slack)`, before `slack` starts.

    `sticky_envelopes`: a press that is delivered again has the envelope id that it had; Slack may
    give it another. `redeliver_after`: s after which it is; `deaf`: so many acknowledgments to
    come are not heard. `opened` counts connections, also those that are gone.
    """

    def __init__(
        self,
        slack: LoopbackSlack,
        *,
        app_token: str = "xapp-loopback",
        redeliver_after: float = ACK_WITHIN,
        sticky_envelopes: bool = True,
    ) -> None:
        self.app_token = app_token
        self.clicks: list[Clicked] = []
        self.opened = 0
        self.response_errors: deque[int] = deque()  # HTTP statuses of answers to come
        self.deaf = 0
        self.enabled = True  # the switch in the app's settings
        self._slack = slack
        self._sticky = sticky_envelopes
        self._redeliver_after = redeliver_after
        self._tickets: set[str] = set()
        self._connections: list[_Connection] = []
        self._waiting: dict[str, Clicked] = {}
        self._responses: dict[str, Clicked] = {}
        self._timers: set[asyncio.Task[None]] = set()
        slack.methods["apps.connections.open"] = self._open
        slack.needs["apps.connections.open"] = "connections:write"
        slack.tokens[app_token] = frozenset(["connections:write"])
        slack.routes += [
            web.get("/link", self._link),
            web.post("/actions/{id}", self._respond),
        ]

    @property
    def connections(self) -> list[int]:
        """How many presses have gone to each connection that there is."""
        return [connection.clicks for connection in self._connections]

    # What a person does.

    def press(
        self, label: str, *, user: str = "U0ANN", name: str = "ann", message: Message | None = None
    ) -> Clicked:
        """Press the button with this label, under `message` or the first that has it."""
        under = [message] if message else self._slack.messages
        for candidate in under:
            for button in buttons_of(candidate):
                if _label(button) == label:
                    return self.send(self._payload(candidate, button, user, name))
        raise LookupError(f"no message has a button {label!r}")

    def send(self, payload: Json) -> Clicked:
        """Deliver an interactive payload, as it is, to one of the connections."""
        clicked = Clicked(payload)
        clicked._sent = time.monotonic()
        self._responses[str(payload.get("response_url", "")).rpartition("/")[2]] = clicked
        self.clicks.append(clicked)
        self._later(self._deliver(clicked))
        return clicked

    def _payload(self, message: Message, button: Button, user: str, name: str) -> Json:
        """https://docs.slack.dev/reference/interaction-payloads/block_actions-payload"""
        response, channel = uuid.uuid4().hex, {"id": message.channel, "name": message.channel_name}
        shown = {key: button[key] for key in ("text", "value", "style") if key in button}
        action = {
            "type": "button",
            "action_id": button.get("action_id"),
            "block_id": "b1",
            "action_ts": f"{time.time():.6f}",
            **shown,
        }
        return {
            "type": "block_actions",
            "user": {"id": user, "username": name, "name": name, "team_id": TEAM},
            "api_app_id": APP,
            "token": "not-to-be-trusted",
            "container": {
                "type": "message",
                "message_ts": message.ts,
                "channel_id": message.channel,
                "is_ephemeral": False,
            },
            "trigger_id": f"1.2.{response}",
            "team": {"id": TEAM, "domain": "loopback"},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": channel,
            "message": message.as_json(),
            "state": {"values": {}},
            "response_url": f"{self._slack.url.removesuffix('api/')}actions/{response}",
            "actions": [action],
        }

    # What Slack does.

    async def disconnect(self, reason: Disconnect, *, close: bool = True) -> None:
        """Say that every connection is to end, and end it unless that is only a warning."""
        for connection in [*self._connections]:
            debug = {"host": "loopback"}
            await _say(connection, {"type": "disconnect", "reason": reason, "debug_info": debug})
            if close and reason != "warning":
                await connection.socket.close()

    def drop(self) -> None:
        """Every connection is lost, without a word."""
        for connection in [*self._connections]:
            transport = connection.socket._req.transport if connection.socket._req else None
            if transport is not None:
                transport.abort()

    def _open(self, fields: Fields) -> Answer:
        ticket = uuid.uuid4().hex
        self._tickets.add(ticket)
        place = self._slack.url.replace("http", "ws", 1).removesuffix("api/")
        return {"url": f"{place}link?ticket={ticket}&app_id={APP}"}

    async def _link(self, request: web.Request) -> web.StreamResponse:
        """The websocket; its address is good for one connection."""
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets or len(self._connections) >= _MAX_CONNECTIONS:
            return web.Response(status=403)
        self._tickets.discard(ticket)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connection = _Connection(socket)
        self.opened += 1
        if not self.enabled:
            await _say(connection, {"type": "disconnect", "reason": "link_disabled"})
            await socket.close()
            return socket
        self._connections.append(connection)
        try:
            await _say(connection, self._hello())
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._heard(message.data)
        finally:
            self._connections.remove(connection)
        return socket

    def _hello(self) -> Json:
        return {
            "type": "hello",
            "num_connections": len(self._connections),
            "debug_info": {"host": "loopback", "approximate_connection_time": 18060},
            "connection_info": {"app_id": APP},
        }

    def _heard(self, data: str) -> None:
        answer = msgspec.json.decode(data, type=dict[str, object])
        clicked = self._waiting.get(str(answer.get("envelope_id")))
        if clicked is None or clicked.acknowledged is not None:
            return
        if self.deaf:
            self.deaf -= 1
            return
        clicked.acknowledged = time.monotonic() - clicked._sent

    async def _deliver(self, clicked: Clicked) -> None:
        """Send a press to a connection at random, and again while it is not acknowledged."""
        for attempt in range(_ATTEMPTS):
            while not self._connections:
                await asyncio.sleep(0.01)
            known = clicked.deliveries[0] if clicked.deliveries and self._sticky else ""
            envelope = known or uuid.uuid4().hex
            clicked.deliveries.append(envelope)
            self._waiting[envelope] = clicked
            connection = random.choice(self._connections)
            connection.clicks += 1
            body: Json = {
                "type": "interactive",
                "envelope_id": envelope,
                "payload": clicked.payload,
                "accepts_response_payload": False,
            }
            await _say(connection, body | ({"retry_attempt": attempt} if attempt else {}))
            await asyncio.sleep(self._redeliver_after)
            if clicked.acknowledged is not None:
                return

    async def _respond(self, request: web.Request) -> web.Response:
        """What the app tells the person who pressed."""
        if self.response_errors:
            status = self.response_errors.popleft()
            headers = {"Retry-After": "0"} if status == 429 else None
            return web.Response(status=status, text="error", headers=headers)
        clicked = self._responses.get(request.match_info["id"])
        if clicked is None or len(clicked.answers) >= _RESPONSES:
            return web.Response(status=404, text="used_url")
        body = msgspec.json.decode(await request.read(), type=dict[str, object])
        if body.get("response_type") != "ephemeral" or not body.get("text"):
            return web.Response(status=400, text="no_text")
        clicked.answers.append(str(body["text"]))
        return web.Response(text="ok")

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._timers.add(task)
        task.add_done_callback(self._timers.discard)


def buttons_of(message: Message) -> list[Button]:
    """All buttons under a message."""
    found: list[Button] = []
    for block in message.blocks:
        if isinstance(block, dict) and block.get("type") == "actions":
            found += [one for one in block["elements"] if one.get("type") == "button"]
    return found


def labels_of(message: Message) -> list[str]:
    """What is written on them."""
    return [_label(button) for button in buttons_of(message)]


def _label(button: Button) -> str:
    text = button.get("text")
    return str(text.get("text")) if isinstance(text, dict) else ""


async def _say(connection: _Connection, message: Json) -> None:
    if not connection.socket.closed:
        await connection.socket.send_str(msgspec.json.encode(message).decode())
