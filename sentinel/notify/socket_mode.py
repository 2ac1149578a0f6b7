"""The way presses on buttons come from Slack: Socket Mode, through slack-sdk.

A press is handed on, told to Slack as taken within its three seconds, and only then carried out:

1. It is put on the record, which takes milliseconds; after `TAKE_WITHIN` nobody waits for it.
2. Slack is told. From here on it does not deliver the press again.
3. The work is done, which always waits for 1 but never for 2.

What is killed before 1 is delivered again by Slack, or Slack tells the person that it failed. The
SDK holds one connection, answers pings, and takes another where Slack asks for it or it is lost;
when it may not have one, and how soon it asks again, is decided here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSMessage
from msgspec import Struct
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.http_retry.builtin_async_handlers import (
    AsyncConnectionErrorRetryHandler,
    AsyncRateLimitErrorRetryHandler,
)
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse
from slack_sdk.webhook.async_client import AsyncWebhookClient

from sentinel import clock
from sentinel.errors import SentinelError
from sentinel.notify.press import Press, read_press
from sentinel.notify.slack_errors import json_of

log = logging.getLogger(__name__)
# The SDK says the same every few seconds, and its debugging shows what may write to the channel.
_sdk_log = logging.getLogger(f"{__name__}.sdk")
_sdk_log.setLevel(logging.CRITICAL)

TAKE_WITHIN = 1.5  # s, of the three after which Slack takes a press for lost
SOON = 30.0  # s without a connection after which there are no buttons
SETTLED = 10.0  # s after which a connection counts as one that works
_LONGEST = 60.0  # s between attempts while Slack cannot be reached,
_REFUSED = 300.0  # s while it says no
_TIMEOUT = 10  # s, for one request
_CONNECT = 20.0  # s, for a connection, which has to see the old one closed first
_MOST = 64  # presses under way at once
_FAREWELL = 5.0  # s at the end for presses under way

_ADVICE = {
    "invalid_auth": "the app-level token is not one that Slack takes",
    "not_authed": "the app-level token is not one that Slack takes",
    "token_expired": "the app-level token has expired",
    "token_revoked": "the app-level token was revoked",
    "not_allowed_token_type": "that is no app-level token (they begin with xapp-)",
    "missing_scope": "the app-level token lacks the scope connections:write",
    "no_permission": "the app-level token lacks the scope connections:write",
    "account_inactive": "the app was removed from the workspace",
    "user_removed_from_team": "the app was removed from the workspace",
    "team_disabled": "the workspace is disabled",
    "forbidden_team": "the workspace may not use Socket Mode",
    "access_denied": "the workspace's administrators do not allow it",
    "accesslimited": "the workspace's administrators do not allow it",
    "link_disabled": "Socket Mode is switched off in the app's settings",
}

Work = Callable[[], Awaitable[None]]


class Taker(Protocol):
    """Who is handed presses."""

    async def take(self, press: Press) -> Work:
        """Put a press on the record; returns what is to be done once Slack was told."""


class _Frame(Struct):
    """What Slack says of the connection itself."""

    type: str = ""
    reason: str = ""
    num_connections: object = 1
    connection_info: object = None


class _Client(SocketModeClient):
    """The SDK's client, which takes a new connection only one at a time and as `opened` has it."""

    def __init__(
        self,
        app_token: str,
        web: AsyncWebClient,
        ping: float,
        opened: Callable[[], Awaitable[str]],
    ) -> None:
        super().__init__(app_token, logger=_sdk_log, web_client=web, ping_interval=ping)
        self.proxy = web.proxy
        self._opened = opened
        self._renewing = False

    async def issue_new_wss_url(self) -> str:
        """See the SDK. Waits for as long as Slack gives none."""
        return await self._opened()

    async def connect(self) -> None:
        """See the SDK, which tries an address for ever, though Slack takes each but once."""
        while not self.closed:
            try:
                await asyncio.wait_for(super().connect(), _CONNECT)  # type: ignore[no-untyped-call]
                return
            except asyncio.TimeoutError:
                self.wss_uri = await self.issue_new_wss_url()

    async def connect_to_new_endpoint(self, force: bool = False) -> None:
        """See the SDK, where a second call during the first leaves a connection nobody reads."""
        if self._renewing or self.closed:
            return
        self._renewing = True
        try:
            await super().connect_to_new_endpoint(force)
        finally:
            self._renewing = False


class SocketMode:
    """One app's connection. `usable`: a button that is offered now would be heard."""

    def __init__(
        self, app_token: str, taker: Taker, *, base_url: str | None = None, ping: float = 5.0
    ) -> None:
        """`ping`: s between looks at whether the connection is still there."""
        self.usable = True  # until it turns out otherwise
        self.app = ""  # Slack's id of the app, once it has said it
        self._taker = taker
        self._token, self._ping = app_token, ping
        self._base_url = base_url or AsyncWebClient.BASE_URL
        self._client: _Client | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._trouble = ""  # what was said last in the log
        self._opened_at: float | None = None
        self._hasty = 0  # connections in a row that did not last
        self._alarm: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Begin to connect; returns at once."""
        self._web = AsyncWebClient(base_url=self._base_url, timeout=_TIMEOUT, logger=_sdk_log)
        if _is_here(self._base_url):
            self._web.proxy = None  # as in `slack`: the SDK knows no NO_PROXY
        self._client = _Client(self._token, self._web, self._ping, self._new_url)
        self._client.socket_mode_request_listeners.append(self._request)
        self._client.on_message_listeners.append(self._listen)
        self._missing()
        self._connecting = asyncio.create_task(self._client.connect_to_new_endpoint())

    async def close(self) -> None:
        """Take no more presses, and give those under way a moment."""
        if self._client is None or self._connecting is None:
            return
        self._silence()
        self._connecting.cancel()
        await asyncio.gather(self._connecting, return_exceptions=True)
        await self._client.close()  # type: ignore[no-untyped-call]
        if self._working:
            _, late = await asyncio.wait(self._working, timeout=_FAREWELL)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # The connection.

    async def _new_url(self) -> str:
        """Where to connect to, once Slack says it."""
        self._missing()
        await asyncio.sleep(self._pause())
        failures = 0
        while True:
            try:
                answer = json_of(await self._web.apps_connections_open(app_token=self._token))
                self._opened_at = clock.monotonic()
                return str(answer["url"])
            except SlackApiError as error:
                wait = self._refused(error, failures)
            except Exception as error:  # noqa: BLE001 (nobody else would ask again)
                log.debug("no connection for buttons: %r", error)
                wait = _backoff(failures)
            failures += 1
            await asyncio.sleep(wait)

    def _pause(self) -> float:
        """How long to wait (s) since the last connection has not lasted."""
        before, self._opened_at = self._opened_at, None
        if before is None or clock.monotonic() - before > SETTLED:
            self._hasty = 0
            return 0.0
        self._hasty += 1
        return min(_REFUSED, 0.05 * 4.0 ** (self._hasty - 1))

    def _refused(self, error: SlackApiError, failures: int) -> float:
        """Slack gives no connection; returns after how many seconds to ask again."""
        response = error.response
        # When the answer was no JSON, the SDK hands over aiohttp's response in place of its own.
        answer = json_of(response) if isinstance(response, AsyncSlackResponse) else {}
        code = str(answer.get("error") or "")
        if code in _ADVICE:
            self._unusable(f"{_ADVICE[code]} ({code})")
            return _REFUSED
        if code in ("ratelimited", "rate_limited"):
            wait = str(response.headers.get("Retry-After", "30"))
            return float(wait) if wait.isdigit() else 30.0
        return _backoff(failures)

    async def _listen(self, message: WSMessage) -> None:
        """What Slack says of the connection itself; the SDK does what is asked there."""
        try:
            frame = msgspec.json.decode(message.data, type=_Frame)
        except msgspec.MsgspecError:
            return
        if frame.type == "hello":
            self._greeted(frame)
        elif frame.type == "disconnect" and frame.reason in _ADVICE:
            self._unusable(f"{_ADVICE[frame.reason]} ({frame.reason})")

    def _greeted(self, frame: _Frame) -> None:
        if isinstance(frame.connection_info, dict):
            self.app = str(frame.connection_info.get("app_id") or self.app)
        self._silence()
        if self.usable and not self._trouble:
            count = frame.num_connections  # each gets its share of presses: one is as it should be
            log.info("buttons: connected to Slack as app %s, %s in all", self.app, count)
        if self._trouble:  # after a refusal, one greeting is not yet a connection that works
            self._alarm = asyncio.get_running_loop().call_later(SETTLED, self._works)
        else:
            self.usable = True

    def _works(self) -> None:
        log.warning("buttons are heard again")
        self.usable, self._trouble = True, ""

    def _missing(self) -> None:
        """There is no connection; if that lasts, there are no buttons."""
        self._silence()
        self._alarm = asyncio.get_running_loop().call_later(SOON, self._absent)

    def _absent(self) -> None:
        if self.usable:
            self._unusable(f"Slack has given no connection for {SOON:g} s")

    def _unusable(self, why: str) -> None:
        self._silence()
        self.usable = False
        if why != self._trouble:  # said once, not at every attempt
            log.error("messages show commands in place of buttons: %s", why)
        self._trouble = why

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    # Presses.

    async def _request(self, client: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        """An envelope. Each comes in a task of its own, which is gone with the connection."""
        if len(self._working) >= _MOST:
            log.error("too many presses at once: one was left to Slack to deliver again")
            return
        task = asyncio.create_task(self._take(request))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _take(self, request: SocketModeRequest) -> None:
        try:
            press = read_press(request.payload if request.type == "interactive" else None)
        except SentinelError as error:
            log.warning("buttons: %s", error)
            await self._acknowledge(request)
            return
        taking = asyncio.ensure_future(self._taker.take(press))
        await asyncio.wait([taking], timeout=TAKE_WITHIN)
        await self._acknowledge(request)
        try:
            work = await taking
            await work()
        except Exception:
            log.exception("a press on %s failed", press.kind)

    async def _acknowledge(self, request: SocketModeRequest) -> None:
        assert self._client is not None
        response = SocketModeResponse(envelope_id=request.envelope_id)
        try:
            await asyncio.wait_for(self._client.send_socket_mode_response(response), 1.0)
        except Exception as error:  # noqa: BLE001 (Slack delivers it again: that changes nothing)
            log.debug("Slack was not told that a press was taken: %r", error)


async def whisper(press: Press, text: str) -> None:
    """Tell the person who pressed, and nobody else. What cannot be told is passed over.

    `text` is what Slack shows: escape what comes from elsewhere.
    """
    if not (press.response_url.startswith("https://") or _is_here(press.response_url)):
        return
    again: list[AsyncRetryHandler] = [
        AsyncConnectionErrorRetryHandler(max_retry_count=2),
        AsyncRateLimitErrorRetryHandler(max_retry_count=2),
    ]
    client = AsyncWebhookClient(
        press.response_url, timeout=_TIMEOUT, logger=_sdk_log, retry_handlers=again
    )
    if _is_here(press.response_url):
        client.proxy = None
    try:
        sent = client.send(text=text, response_type="ephemeral", replace_original=False)
        done = await asyncio.wait_for(sent, _LONGEST)
    except Exception as error:  # noqa: BLE001 (an answer that is lost must change nothing)
        # Not the error's text: it may have the address, which lets anybody write to the channel.
        log.warning("%s was not told what came of a press: %s", press.by, type(error).__name__)
        return
    if done.status_code != 200:
        log.warning("%s was not told what came of a press: HTTP %d", press.by, done.status_code)


def _backoff(failures: int) -> float:
    return float(min(_LONGEST, 2.0 ** min(failures, 10)))


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
