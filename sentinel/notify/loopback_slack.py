"""A Slack workspace on 127.0.0.1, in memory. It is not Slack, and nothing leaves this machine.

`make demo` shows with it what a person would get in Slack, and the tests send through it. It
speaks the part of Slack's Web API that Sentinel uses, over real HTTP, to the unmodified Slack SDK:
auth.test, chat.postMessage, chat.update, conversations.history, conversations.replies and
conversations.list, with tokens, threads, metadata, pages, limits of blocks, and Slack's own error
codes. `fail_next` makes it misbehave as Slack and networks do.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import msgspec
from aiohttp import web

from sentinel.notify.loopback_message import Fields, Message, refusal

Answer = dict[str, object]


@dataclass(frozen=True)
class Fault:
    """How the next request goes wrong.

    "rate_limit": HTTP 429 with `Retry-After: seconds`; "error": HTTP 200 with `code`; "http_500":
    nothing is done, "http_500_after": HTTP 500 though it was done; "drop": the connection ends
    after `seconds` and nothing is done, "drop_after": likewise, but it was done.
    """

    kind: Literal["rate_limit", "http_500", "http_500_after", "error", "drop", "drop_after"]
    code: str = ""
    seconds: int = 0


class SlackError(Exception):
    """An answer of `{"ok": false, "error": ...}`."""


class LoopbackSlack:
    """`async with LoopbackSlack() as slack:`; then `slack.url` is a base URL for the Slack SDK.

    `channels` are the names that exist. `on_message(message, change)` is called when a message
    was posted or changed: `change` is "posted" or "changed".
    """

    def __init__(
        self,
        *,
        token: str = "xoxb-loopback",
        channels: tuple[str, ...] = ("training",),
        on_message: Callable[[Message, str], None] | None = None,
        page_size: int = 100,
    ) -> None:
        self.token = token
        self.messages: list[Message] = []
        self.requests: list[str] = []  # methods that were called, also those that failed
        self._channels = {f"C0LOOPBACK{n}": name for n, name in enumerate(channels)}
        self._on_message = on_message
        self._page_size = page_size
        self._faults: deque[Fault] = deque()
        self._last_ts = 0.0
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The base URL for `SLACK_BASE_URL`."""
        return f"http://127.0.0.1:{self._port}/api/"

    def fail_next(self, *faults: Fault) -> None:
        """The coming requests go wrong like this, one each."""
        self._faults.extend(faults)

    async def __aenter__(self) -> LoopbackSlack:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1, on a free port unless one is given."""
        app = web.Application()
        app.router.add_route("*", "/api/{method}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        name: tuple[str, int] = self._runner.addresses[0]
        self._port = name[1]

    async def stop(self) -> None:
        """Close all connections; the messages stay, and `start` may be called again."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        self.requests.append(method)
        fault = self._faults.popleft() if self._faults else None
        if fault and fault.kind in ("rate_limit", "http_500", "error", "drop"):
            return await _go_wrong(fault, request)
        try:
            fields = await _fields(request)
            self._authenticate(request, fields)
            answer = {"ok": True, **self._do(method, fields)}
        except SlackError as error:
            answer = {"ok": False, "error": str(error)}
        return await _go_wrong(fault, request) if fault else web.json_response(answer)

    def _authenticate(self, request: web.Request, fields: Fields) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token if scheme == "Bearer" else fields.get("token")
        if not given:
            raise SlackError("not_authed")
        if given != self.token:
            raise SlackError("invalid_auth")

    def _do(self, method: str, fields: Fields) -> Answer:
        methods: Mapping[str, Callable[[Fields], Answer]] = {
            "auth.test": self._auth_test,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "conversations.history": self._history,
            "conversations.replies": self._replies,
            "conversations.list": self._list,
        }
        if method not in methods:
            raise SlackError("unknown_method")
        return methods[method](fields)

    def _auth_test(self, fields: Fields) -> Answer:
        return {
            "url": self.url,
            "team": "loopback",
            "user": "sentinel",
            "team_id": "T0LOOPBACK",
            "user_id": "U0LOOPBACK",
            "bot_id": "B0LOOPBACK",
        }

    def _post(self, fields: Fields) -> Answer:
        channel = self._channel(fields, by_name=True)
        message = Message.made_of(fields, channel, self._channels[channel], self._next_ts())
        if code := refusal(message):
            raise SlackError(code)
        if message.thread_ts:
            self._find(channel, message.thread_ts, "thread_not_found")
        self.messages.append(message)
        self._tell(message, "posted")
        return {"channel": channel, "ts": message.ts, "message": message.as_json()}

    def _update(self, fields: Fields) -> Answer:
        channel = self._channel(fields)
        message = self._find(channel, str(fields.get("ts")), "message_not_found")
        changed = message.changed_by(fields)
        if code := refusal(changed):
            raise SlackError(code)
        self.messages[self.messages.index(message)] = changed
        self._tell(changed, "changed")
        return {"channel": channel, "ts": changed.ts, "text": changed.text}

    def _history(self, fields: Fields) -> Answer:
        channel = self._channel(fields)
        top = [
            m for m in self.messages if m.channel == channel and (not m.thread_ts or m.broadcast)
        ]
        return self._page(list(reversed(top)), fields)

    def _replies(self, fields: Fields) -> Answer:
        channel, ts = self._channel(fields), str(fields.get("ts"))
        head = self._find(channel, ts, "thread_not_found")
        replies = [m for m in self.messages if m.channel == channel and m.thread_ts == ts]
        return self._page([head, *replies], fields)

    def _list(self, fields: Fields) -> Answer:
        channels = [{"id": key, "name": name} for key, name in self._channels.items()]
        return {"channels": channels, "response_metadata": {"next_cursor": ""}}

    def _page(self, messages: list[Message], fields: Fields) -> Answer:
        oldest = float(str(fields.get("oldest") or 0))
        latest = float(str(fields.get("latest") or "inf"))
        found = [m for m in messages if oldest < float(m.ts) < latest]
        limit = min(int(str(fields.get("limit") or 100)), self._page_size)
        start = int(str(fields.get("cursor") or 0))
        more = len(found) > start + limit
        with_metadata = str(fields.get("include_all_metadata")) in ("1", "true", "True")
        return {
            "messages": [
                m.as_json(with_metadata=with_metadata) for m in found[start : start + limit]
            ],
            "has_more": more,
            "response_metadata": {"next_cursor": str(start + limit) if more else ""},
        }

    def _channel(self, fields: Fields, *, by_name: bool = False) -> str:
        """The channel's id; Slack takes names for posts alone."""
        wanted = str(fields.get("channel") or "")
        for key, name in self._channels.items():
            if wanted == key or (by_name and wanted.lstrip("#") == name):
                return key
        raise SlackError("channel_not_found")

    def _find(self, channel: str, ts: str, otherwise: str) -> Message:
        for message in self.messages:
            if (message.channel, message.ts) == (channel, ts):
                return message
        raise SlackError(otherwise)

    def _next_ts(self) -> str:
        """The time, but never twice the same."""
        self._last_ts = max(time.time(), self._last_ts + 1e-6)
        return f"{self._last_ts:.6f}"

    def _tell(self, message: Message, change: str) -> None:
        if self._on_message:
            self._on_message(message, change)


async def _fields(request: web.Request) -> Fields:
    """Arguments from the query, a form, or a JSON body."""
    try:
        return await _decoded(request)
    except msgspec.DecodeError:
        raise SlackError("invalid_json") from None


async def _decoded(request: web.Request) -> Fields:
    fields: dict[str, object] = dict(request.query)
    if request.content_type == "application/json":
        body = await request.read()
        fields |= msgspec.json.decode(body or b"{}", type=dict[str, object])
    else:
        fields |= dict(await request.post())
    for key in ("blocks", "metadata"):  # in a form, these are JSON
        if isinstance(value := fields.get(key), str):
            fields[key] = msgspec.json.decode(value)
    return fields


async def _go_wrong(fault: Fault, request: web.Request) -> web.StreamResponse:
    """What the caller sees of a fault."""
    if fault.kind == "error":
        return web.json_response({"ok": False, "error": fault.code})
    if fault.kind == "rate_limit":
        headers = {"Retry-After": str(fault.seconds)}
        return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)
    if fault.kind in ("http_500", "http_500_after"):
        return web.Response(status=500, text="Internal Server Error")
    await asyncio.sleep(fault.seconds)
    if request.transport:
        request.transport.abort()
    return web.Response()
