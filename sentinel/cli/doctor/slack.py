"""Slack, asked through slack-sdk who we are there and what we may do; nothing is posted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry import RetryHandler
from slack_sdk.web import SlackResponse

from sentinel.cli.doctor.check import Finding, note, ok, problem

_NEEDED = {"chat:write": "nothing can be posted without it"}
_USEFUL = {
    "channels:history": "or groups:history, to see whether a doubtful message has arrived",
    "files:write": "for charts and stacks in threads",
}
_EITHER = {"channels:history": "groups:history"}
_CHANNEL_ID = re.compile(r"[CDG][A-Z0-9]{7,}")
_TOKEN = re.compile(r"xox[a-z]-\S+")
_NO_RETRIES: list[RetryHandler] = []
_PAGES = 20


def ask_slack(token: str, channel: str, base_url: str | None, within: float) -> Iterator[Finding]:
    """What is to be said of one channel and the token for it."""
    if not token or not channel:
        missing = "channel: set $SLACK_CHANNEL" if token else "token: set $SLACK_BOT_TOKEN"
        yield problem("Slack is half set up", f"there is no {missing}")
        return
    url = base_url or WebClient.BASE_URL
    client = WebClient(
        token, base_url=url, timeout=max(1, round(within)), retry_handlers=_NO_RETRIES
    )
    if urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost"):
        client.proxy = None
    try:
        answer = client.auth_test()
        yield ok(f"{answer.get('user', 'bot')} in {answer.get('team', 'workspace')}")
        yield from _scopes(answer)
        yield from _channel(client, channel)
    except SlackApiError as error:
        yield _refused(error, channel)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        why = _TOKEN.sub("[token]", str(getattr(error, "reason", error)))
        yield problem(
            f"Slack cannot be reached: {why}",
            "see that this host reaches slack.com: $HTTPS_PROXY, the firewall",
        )


def _scopes(answer: SlackResponse) -> Iterator[Finding]:
    """What the token may do, as Slack says in a header of every answer."""
    headers = {name.lower(): str(value) for name, value in answer.headers.items()}
    if "x-oauth-scopes" not in headers:
        return
    given = {one.strip() for one in headers["x-oauth-scopes"].split(",")}
    for scope, why in _NEEDED.items():
        if scope not in given:
            yield problem(f"the bot lacks the scope {scope}: {why}", _add(scope))
    for scope, why in _USEFUL.items():
        if scope not in given and _EITHER.get(scope) not in given:
            yield note(f"the bot lacks the scope {scope}, {why}", _add(scope))


def _add(scope: str) -> str:
    return f"add {scope} under OAuth & Permissions of the Slack app, and install it again"


def _channel(client: WebClient, channel: str) -> Iterator[Finding]:
    """Whether it is there and the bot is in it."""
    name = channel.lstrip("#")
    try:
        number = channel if _CHANNEL_ID.fullmatch(channel) else _id_of(client, name)
        if number is None:
            yield problem(
                f"the bot sees no channel {name}",
                "put its id (C...) into the setting, or invite the bot to it",
            )
            return
        client.conversations_history(channel=number, limit=1)
    except SlackApiError as error:
        if _code(error) != "missing_scope":
            raise
        yield note(
            f"the channel {name} cannot be looked at without more scopes",
            "send a sample with `sentinel notify test`",
        )
        return
    yield ok(f"channel {name} can be reached")


def _id_of(client: WebClient, name: str) -> str | None:
    cursor = ""
    for _ in range(_PAGES):
        answer = client.conversations_list(
            limit=200, cursor=cursor, types="public_channel,private_channel"
        )
        for one in answer.get("channels") or []:
            if one.get("name") == name:
                return str(one.get("id"))
        cursor = str((answer.get("response_metadata") or {}).get("next_cursor") or "")
        if not cursor:
            break
    return None


def _refused(error: SlackApiError, channel: str) -> Finding:
    code = _code(error)
    if code in ("channel_not_found", "is_archived", "not_in_channel"):
        advice = {
            "channel_not_found": "set a channel that the bot can see, best by its id",
            "is_archived": "set another channel, or unarchive this one",
            "not_in_channel": "write `/invite @` and the bot's name in the channel",
        }[code]
        return problem(f"channel {channel.lstrip('#')}: {code}", advice)
    if code == "ratelimited":
        return note("Slack limits how often it is asked", "ask again in a minute")
    advice = "put the bot token (xoxb-...) that the Slack app shows now into $SLACK_BOT_TOKEN"
    return problem(f"Slack refuses the token: {code}", advice)


def _code(error: SlackApiError) -> str:
    answer = error.response
    return str(answer.get("error") or "no reason given") if hasattr(answer, "get") else "no reason"
