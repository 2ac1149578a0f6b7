"""Slack as a receiver of messages, through slack-sdk.

A post whose answer never came may have arrived, and Slack has no key that would make a second
one harmless. So posts are retried on the spot only when Slack has certainly refused them (rate
limit, no connection); after anything else the channel is searched first for the event's id, which
every message of ours carries in its metadata. That needs the scope `channels:history` (or
`groups:history`, for private channels) besides `chat:write`, and `channels:read` where the channel
is given by name. Charts and long stacks in threads need `files:write` (see slack_thread.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.http_retry.builtin_async_handlers import (
    AsyncConnectionErrorRetryHandler,
    AsyncRateLimitErrorRetryHandler,
    AsyncServerErrorRetryHandler,
)
from slack_sdk.http_retry.request import HttpRequest
from slack_sdk.http_retry.response import HttpResponse
from slack_sdk.http_retry.state import RetryState
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify.appendix import Appendix
from sentinel.notify.blocks import blocks, fallback, without_blocks
from sentinel.notify.buttons import Json
from sentinel.notify.message import Station, Text, compose, compose_reply
from sentinel.notify.notice import Notice
from sentinel.notify.receiver import Letter, Place, Posted
from sentinel.notify.slack_errors import BLOCK_ERRORS, THREAD_ERRORS, explain, json_of
from sentinel.notify.slack_thread import SlackThread
from sentinel.notify.telemetry import Telemetry

Buttons = Callable[[Notice], Awaitable[Json | None]]
"""The actions block that a first message has at this moment, in place of commands; None: none."""

EVENT_TYPE = "sentinel_incident"
_log = logging.getLogger(__name__)
_CHANNEL_ID = re.compile(r"[CDG][A-Z0-9]{7,}")
_TIMEOUT = 10  # s, for one request
_LONGEST_WAIT = 30  # s that a rate limit may make us wait on the spot
_CLOCK_SKEW = 600.0  # s between Slack's clock and ours, at most
_PAGES = 20
_REMEMBERED = 1024  # incidents


class _ShortRateLimit(AsyncRateLimitErrorRetryHandler):
    """Waits out a rate limit, unless it is so long that the outbox should do the waiting."""

    async def _can_retry_async(
        self,
        *,
        state: RetryState,
        request: HttpRequest,
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        if response is None or response.status_code != 429:
            return False
        headers = {name.lower(): value for name, value in response.headers.items()}
        wait = str(headers.get("retry-after", ["1"])[0])
        return wait.isdigit() and int(wait) <= _LONGEST_WAIT


class SlackReceiver:
    """Posts to one channel; the first message of an incident heads a thread with the later ones."""

    folds = True

    def __init__(
        self,
        token: str,
        channel: str,
        *,
        name: str = "slack",
        state_dir: Path,
        base_url: str | None = None,
        timeout: int = _TIMEOUT,
        chart_after: float = 3.0,
    ) -> None:
        """`channel`: an id (`C0123456789`) or a name; `state_dir`: for the commands in messages.

        A chart follows `chart_after` seconds after its message, if it can `illustrate`.
        """
        self.buttons: Buttons | None = None
        self.name = name
        self._channel = channel
        self._station = Station(socket.gethostname(), state_dir.absolute())
        # Sure not to have arrived: safe to send again.
        refused = AsyncConnectionErrorRetryHandler(error_types=[aiohttp.ClientConnectorError])
        self._posting = _client(token, base_url, timeout, [_ShortRateLimit(2), refused])
        # Reading, and writing the same over the same, may be done twice.
        anything = [AsyncConnectionErrorRetryHandler(), AsyncServerErrorRetryHandler()]
        self._asking = _client(token, base_url, timeout, [_ShortRateLimit(2), *anything])
        thread = SlackThread(self._posting, _call, _metadata)
        self._appendix = Appendix(thread, state_dir / "matplotlib", delay=chart_after)
        self._newest: OrderedDict[str, Letter] = OrderedDict()  # by incident
        self._editing = asyncio.Lock()

    @classmethod
    def from_environment(
        cls,
        state_dir: Path,
        *,
        channel: str | None = None,
        base_url: str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> SlackReceiver | None:
        """The receiver that `$SLACK_BOT_TOKEN`, `$SLACK_CHANNEL`, `$SLACK_BASE_URL` describe.

        Arguments go before the environment. None when Slack is not configured. Raises
        `SentinelError` when a channel is asked for and there is no token.
        """
        token = environment.get("SLACK_BOT_TOKEN", "").strip()
        wanted = channel or environment.get("SLACK_CHANNEL", "").strip()
        if channel and not token:
            raise SentinelError(
                f"no token to write to Slack's {channel}: set $SLACK_BOT_TOKEN to the bot's token"
            )
        if not (token and wanted):
            if token or wanted:
                _log.warning(
                    "Slack is not told: both $SLACK_BOT_TOKEN and $SLACK_CHANNEL are needed"
                )
            return None
        base_url = base_url or environment.get("SLACK_BASE_URL", "").strip() or None
        return cls(token, wanted, state_dir=state_dir, base_url=base_url)

    def illustrate(self, telemetry: Telemetry) -> None:
        """See `telemetry.Illustrates`."""
        self._appendix.telemetry = telemetry

    async def check(self) -> str:
        """Ask Slack who we are: "bot in workspace". Raises `DeliveryError`."""
        answer = json_of(await _call(self._asking.auth_test))
        return f"{answer.get('user', 'bot')} in {answer.get('team', 'workspace')}"

    async def deliver(self, letter: Letter) -> Posted:
        """Post a letter, in whatever form Slack takes it. Raises `DeliveryError`.

        What is to follow in the thread comes later, and by itself.
        """
        self._newest[letter.notice.incident.id] = letter
        if len(self._newest) > _REMEMBERED:
            self._newest.popitem(last=False)
        posted = await self._deliver(letter)
        self._appendix.after(letter, letter.head or posted)
        if letter.head is None:
            self._appendix.when_measured(letter.notice, partial(self._complete, letter, posted))
        return posted

    async def _complete(self, letter: Letter, posted: Posted) -> None:
        """Say in a first message what was not known in time, unless a later one does."""
        async with self._editing:
            if self._newest.get(letter.notice.incident.id) is letter:
                await self._rewrite(letter, posted)

    async def _deliver(self, letter: Letter) -> Posted:
        text = await self._text(letter)
        try:
            return await self._post(letter, text, with_blocks=True)
        except DeliveryError as error:
            if letter.head and error.code in THREAD_ERRORS:
                return await self._deliver(replace(letter, head=None))
            if error.code not in BLOCK_ERRORS:
                raise
            _log.error("Slack did not take the blocks of %s, sending text", letter.event_id)
            return await self._post(letter, text, with_blocks=False)

    async def _text(self, letter: Letter) -> Text:
        measured = await self._appendix.measured(letter.notice)
        if letter.head is None:
            text = compose(letter.notice, self._station, measured)
        else:
            new = self._appendix.unseen(letter.notice)
            text = compose_reply(
                letter.kind, letter.notice, self._station, measured=measured, evidence=new
            )
        return _remarked(text, letter)

    async def _post(self, letter: Letter, text: Text, *, with_blocks: bool) -> Posted:
        head = letter.head
        over = letter.notice.incident.state == "resolved"
        loud = not over and (
            letter.kind in ("held", "ending", "repeated") or letter.notice.escalated
        )
        shown = await self._shown(letter, text, first=head is None) if with_blocks else None

        async def post() -> AsyncSlackResponse:
            return await self._posting.chat_postMessage(
                channel=head.channel if head else self._channel,
                thread_ts=head.ts if head else None,
                reply_broadcast=True if head and loud else None,
                text=fallback(text) if with_blocks else without_blocks(text),
                blocks=shown,
                metadata=_metadata(letter),
                mrkdwn=False,
                unfurl_links=False,
                unfurl_media=False,
            )

        answer = json_of(await _call(post, posts=True))
        return Posted(str(answer.get("channel")), str(answer.get("ts")))

    async def refresh(self, letter: Letter) -> None:
        """Rewrite the first message of the incident. Raises `DeliveryError`."""
        if letter.head is not None:
            async with self._editing:
                await self._rewrite(letter, letter.head)

    async def _rewrite(self, letter: Letter, head: Place) -> None:
        """Make the first message say what this letter does."""
        text = compose(letter.notice, self._station, await self._appendix.measured(letter.notice))
        if letter.head is None:
            text = _remarked(text, letter)
        shown = await self._shown(letter, text, first=True)

        async def update(*, with_blocks: bool) -> AsyncSlackResponse:
            return await self._asking.chat_update(
                channel=head.channel,
                ts=head.ts,
                text=fallback(text) if with_blocks else without_blocks(text),
                blocks=shown if with_blocks else [],
            )

        try:
            await _call(partial(update, with_blocks=True))
        except DeliveryError as error:
            if error.code not in BLOCK_ERRORS:
                raise
            await _call(partial(update, with_blocks=False))

    async def _shown(self, letter: Letter, text: Text, *, first: bool) -> list[Json]:
        """The message as blocks; the first of an incident with buttons, where there are any."""
        actions = await self.buttons(letter.notice) if first and self.buttons else None
        return blocks(text) if actions is None else blocks(replace(text, commands=()), [actions])

    async def reply(self, thread: Place, text: str) -> None:
        """Say something more in a thread, as Slack shows `text`. Raises `DeliveryError`."""

        async def post() -> AsyncSlackResponse:
            return await self._posting.chat_postMessage(
                channel=thread.channel, thread_ts=thread.ts, text=text, unfurl_links=False
            )

        await _call(post, posts=True)

    async def team(self) -> str:
        """Slack's id of the workspace that we post to. Raises `DeliveryError`."""
        return str(json_of(await _call(self._asking.auth_test)).get("team_id") or "")

    async def find(self, letter: Letter, since: float) -> Posted | None:
        """Look for a letter in the channel or its thread. Raises `DeliveryError`."""
        channel = letter.head.channel if letter.head else await self._channel_id()
        async for message in self._messages(channel, letter.head, since):
            metadata = message.get("metadata")
            payload = metadata.get("event_payload") if isinstance(metadata, dict) else None
            if isinstance(payload, dict) and payload.get("event_id") == letter.event_id:
                return Posted(channel, str(message.get("ts")))
        return None

    async def _messages(
        self, channel: str, head: Place | None, since: float
    ) -> AsyncIterator[dict[str, object]]:
        oldest = f"{since - _CLOCK_SKEW:.6f}"

        async def page(cursor: str | None) -> AsyncSlackResponse:
            if head:
                return await self._asking.conversations_replies(
                    channel=channel,
                    ts=head.ts,
                    oldest=oldest,
                    limit=200,
                    cursor=cursor,
                    include_all_metadata=True,
                )
            return await self._asking.conversations_history(
                channel=channel, oldest=oldest, limit=200, cursor=cursor, include_all_metadata=True
            )

        async for answer in _pages(page):
            messages = answer.get("messages")
            for message in messages if isinstance(messages, list) else []:
                if isinstance(message, dict):
                    yield message

    async def _channel_id(self) -> str:
        """History is asked for by id only; Slack takes names for posts."""
        if _CHANNEL_ID.fullmatch(self._channel):
            return self._channel

        async def page(cursor: str | None) -> AsyncSlackResponse:
            return await self._asking.conversations_list(
                limit=200, cursor=cursor, types="public_channel,private_channel"
            )

        async for answer in _pages(page):
            channels = answer.get("channels")
            for channel in channels if isinstance(channels, list) else []:
                if isinstance(channel, dict) and channel.get("name") == self._channel.lstrip("#"):
                    return str(channel.get("id"))
        raise DeliveryError(f"Slack knows no channel {self._channel}", permanent=True)

    async def close(self) -> None:
        """Finish what follows messages in their threads, or give it up; then nothing is held."""
        await self._appendix.close()


def _metadata(letter: Letter, part: str = "") -> dict[str, object]:
    """What a message carries, by which it can be found; `part`: of what follows a letter."""
    return {
        "event_type": EVENT_TYPE,
        "event_payload": {
            "event_id": f"{letter.event_id}{'/' * bool(part)}{part}",
            "incident": letter.notice.incident.id,
            "kind": letter.kind,
        },
    }


def _remarked(text: Text, letter: Letter) -> Text:
    """What is said of a letter that comes late stands before its summary."""
    if not letter.late:
        return text
    summary, brief = f"{letter.late} {text.summary}".strip(), f"{letter.late} {text.brief}"
    return replace(text, summary=summary, brief=brief)


def _client(
    token: str, base_url: str | None, timeout: int, handlers: list[AsyncRetryHandler]
) -> AsyncWebClient:
    url = base_url or AsyncWebClient.BASE_URL
    client = AsyncWebClient(token=token, base_url=url, timeout=timeout, retry_handlers=handlers)
    if urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost"):
        client.proxy = None  # the SDK takes proxies from the environment and knows no NO_PROXY
    return client


async def _pages(
    page: Callable[[str | None], Awaitable[AsyncSlackResponse]],
) -> AsyncIterator[dict[str, object]]:
    """All pages of an answer, up to a limit."""
    cursor: str | None = None
    for _ in range(_PAGES):
        answer = json_of(await _call(partial(page, cursor)))
        yield answer
        more = answer.get("response_metadata")
        cursor = str(more.get("next_cursor") or "") if isinstance(more, dict) else ""
        if not cursor:
            return


async def _call(
    request: Callable[[], Awaitable[AsyncSlackResponse]], *, posts: bool = False
) -> AsyncSlackResponse:
    """What Slack answers. Raises `DeliveryError`; a post is `doubtful` if it may have arrived."""
    try:
        return await request()
    except SlackApiError as error:
        raise explain(error, posts=posts) from None
    except aiohttp.ClientConnectorError as error:
        raise DeliveryError(f"Slack cannot be reached: {error}") from error
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        reason = str(error) or type(error).__name__
        # Not `from error`: it has the request's headers, and the token in them.
        raise DeliveryError(f"Slack did not answer: {reason}", doubtful=posts) from None
