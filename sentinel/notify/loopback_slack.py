"""A Slack workspace on 127.0.0.1, in memory. It is not Slack, and nothing leaves this machine.

`make demo` shows with it what a person would get in Slack, and the tests send through it. It
speaks the part of Slack's Web API that Sentinel uses, over real HTTP, to the unmodified Slack SDK:
auth.test, chat.postMessage, chat.update, conversations.history, conversations.replies,
conversations.list and the upload of files, with tokens, scopes, threads, metadata, pages, Slack's
limits (see loopback_limits.py), and Slack's own error codes. `fail_next` makes it misbehave as
Slack and networks do.

More can be added before `start`: a method to `methods` (and the scope that it needs to `needs`), a
token with its scopes to `tokens`, a path that is no method to `routes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import msgspec
from aiohttp import web

from sentinel.notify.loopback_files import Files, Shared
from sentinel.notify.loopback_limits import refusal
from sentinel.notify.loopback_message import Answer, Fields, Message, SlackError

Method = Callable[[Fields], Answer]

_NEEDS = {  # the scope without which Slack refuses a method
    "chat.postMessage": "chat:write",
    "chat.update": "chat:write",
    "conversations.history": "channels:history",
    "conversations.replies": "channels:history",
    "conversations.list": "channels:read",
    "files.getUploadURLExternal": "files:write",
    "files.completeUploadExternal": "files:write",
}
SCOPES = frozenset(_NEEDS.values())
_FOR_APPS = ("apps.connections.open",)  # takes an app-level token, and no other method does
_HTML = "<!DOCTYPE html><html><body><h1>Sign in to the network</h1></body></html>"


@dataclass(frozen=True)
class Fault:
    """How the next request goes wrong, or the next one of a `method` ("upload" is a file's bytes).

    "rate_limit": HTTP 429 with `Retry-After: seconds`; "error": HTTP 200 with `code`; "http_500":
    nothing is done, "http_500_after": HTTP 500 though it was done; "drop": the connection ends
    after `seconds` and nothing is done, "drop_after": likewise, but it was done; "html": a proxy
    answers in Slack's place, with HTTP `status`.
    """

    kind: Literal["rate_limit", "http_500", "http_500_after", "error", "drop", "drop_after", "html"]
    code: str = ""
    seconds: int = 0
    method: str = ""
    status: int = 200


class LoopbackSlack:
    """`async with LoopbackSlack() as slack:`; then `slack.url` is a base URL for the Slack SDK.

    `channels` are the names that exist; `closed` has the error of those that take no messages any
    more (is_archived, channel_not_found, not_in_channel), by name. `on_message(message, change)`
    is called when a message was posted or changed, or files were shared: `change` is "posted",
    "changed" or "shared". `expire` ends the life of all tokens with one of Slack's errors.
    """

    def __init__(
        self,
        *,
        token: str = "xoxb-loopback",
        channels: tuple[str, ...] = ("training",),
        on_message: Callable[[Message, str], None] | None = None,
        page_size: int = 100,
        scopes: frozenset[str] = SCOPES,
    ) -> None:
        self.token = token
        self.tokens = {token: scopes}
        self.closed: dict[str, str] = {}
        self.messages: list[Message] = []
        self.requests: list[str] = []  # methods that were called, also those that failed
        self.files = Files(self._may_share, self._share)
        self.needs = dict(_NEEDS)
        self.methods: dict[str, Method] = {
            "auth.test": self._auth_test,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "conversations.history": self._history,
            "conversations.replies": self._replies,
            "conversations.list": self._list,
            "files.getUploadURLExternal": self.files.offer,
            "files.completeUploadExternal": self.files.complete,
        }
        self.routes: list[web.RouteDef] = []
        self._expired = ""
        self._channels = {f"C0LOOPBACK{n}": name for n, name in enumerate(channels)}
        self._on_message = on_message
        self._page_size = page_size
        self._faults: list[Fault] = []
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

    def expire(self, code: str) -> None:
        """No token is taken any more: "token_expired", "token_revoked", "account_inactive" ..."""
        self._expired = code

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
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/api/{method}", self._handle)
        app.router.add_post("/upload/{file}", self._upload)
        app.router.add_routes(self.routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        name: tuple[str, int] = self._runner.addresses[0]
        self._port = name[1]
        self.files.url = f"http://127.0.0.1:{self._port}/upload/"

    async def stop(self) -> None:
        """Close all connections; the messages stay, and `start` may be called again."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        fault = self._next_fault(method)
        if fault and not fault.kind.endswith("_after"):
            return await _go_wrong(fault, request)
        headers: dict[str, str] = {}
        try:
            fields = await _fields(request)
            headers["x-oauth-scopes"] = ",".join(self._authenticate(request, method, fields))
            if method not in self.methods:
                raise SlackError("unknown_method")
            answer = {"ok": True, **self.methods[method](fields)}
        except SlackError as error:
            answer = {"ok": False, **error.answer}
        if fault:
            return await _go_wrong(fault, request)
        return web.json_response(answer, headers=headers)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """The bytes of a file, at the address that was given out for it."""
        fault = self._next_fault("upload")
        if fault and not fault.kind.endswith("_after"):
            return await _go_wrong(fault, request)
        size = self.files.take(request.match_info["file"], await request.read())
        if fault:
            return await _go_wrong(fault, request)
        if size is None:
            return web.Response(status=404, text="no such upload")
        return web.Response(text=f"OK - {size}")

    def _next_fault(self, method: str) -> Fault | None:
        self.requests.append(method)
        for fault in self._faults:
            if fault.method in ("", method):
                self._faults.remove(fault)
                return fault
        return None

    def _authenticate(self, request: web.Request, method: str, fields: Fields) -> list[str]:
        """The scopes of whoever asks."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token if scheme == "Bearer" else fields.get("token")
        if not given:
            raise SlackError("not_authed")
        scopes = self.tokens.get(str(given))
        if scopes is None:
            raise SlackError("invalid_auth")
        if self._expired:
            raise SlackError(self._expired)
        if (method in _FOR_APPS) != str(given).startswith("xapp-"):
            raise SlackError("not_allowed_token_type")
        needed = self.needs.get(method)
        if needed is not None and needed not in scopes:
            raise SlackError("missing_scope", needed=needed, provided=",".join(sorted(scopes)))
        return sorted(scopes)

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

    def _may_share(self, channel: str, thread_ts: str | None) -> None:
        self._channel({"channel": channel})
        if thread_ts:
            self._find(channel, thread_ts, "invalid_thread_ts")

    def _share(self, shared: Shared) -> None:
        """Slack says what has been uploaded in a message of its own."""
        name = self._channels[shared.channel]
        message = Message(
            channel=shared.channel,
            channel_name=name,
            ts=self._next_ts(),
            text=shared.comment,
            thread_ts=shared.thread_ts,
            files=shared.files,
        )
        self.messages.append(message)
        self._tell(message, "shared")

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
                if name in self.closed:
                    raise SlackError(self.closed[name])
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
    for key in ("blocks", "metadata", "files"):  # in a form, these are JSON
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
    if fault.kind == "html":
        return web.Response(status=fault.status, text=_HTML, content_type="text/html")
    await asyncio.sleep(fault.seconds)
    if request.transport:
        request.transport.abort()
    return web.Response()
