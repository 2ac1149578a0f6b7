"""What Slack's errors mean for a message: try again, ask first, or tell a person."""

from __future__ import annotations

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from sentinel.errors import DeliveryError

# Answers to blocks, after which the same is sent as text.
BLOCK_ERRORS = frozenset(
    ("invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "msg_too_long")
)
THREAD_ERRORS = frozenset(("thread_not_found", "message_not_found", "cannot_reply_to_message"))

_RATE_LIMITS = frozenset(("ratelimited", "rate_limited"))
# Slack says of these that some of the work may have been done.
_DOUBTFUL = frozenset(("internal_error", "fatal_error", "request_timeout", "service_unavailable"))

_TOKEN = "set $SLACK_BOT_TOKEN to a bot token that Slack takes"
_CHANNEL = "set $SLACK_CHANNEL to a channel that the bot can see"
_ADVICE = {
    "invalid_auth": _TOKEN,
    "not_authed": _TOKEN,
    "account_inactive": _TOKEN,
    "token_revoked": _TOKEN,
    "token_expired": _TOKEN,
    "not_allowed_token_type": _TOKEN,
    "no_permission": "give the bot the scope chat:write",
    "missing_scope": "give the bot the scopes chat:write and channels:history",
    "access_denied": "ask the workspace's administrators",
    "ekm_access_denied": "ask the workspace's administrators",
    "enterprise_is_restricted": "ask the workspace's administrators",
    "team_access_not_granted": "ask the workspace's administrators",
    "restricted_action": "ask the workspace's administrators",
    "channel_not_found": _CHANNEL,
    "is_archived": _CHANNEL,
    "not_in_channel": "invite the bot to the channel",
    "message_not_found": "the message that was to be changed is gone",
    "cant_update_message": "the message that was to be changed is not this bot's",
    "edit_window_closed": "the workspace does not let messages be changed so late",
    "msg_too_long": "report this",
    "no_text": "report this",
    "invalid_arguments": "report this",
    **dict.fromkeys(BLOCK_ERRORS, "report this"),
}


def json_of(response: AsyncSlackResponse) -> dict[str, object]:
    """The answer's fields."""
    return response.data if isinstance(response.data, dict) else {}


def explain(error: SlackApiError, *, posts: bool) -> DeliveryError:
    """What an error of Slack's means; `posts`: it answers an attempt to post.

    Codes that are not known here are taken as passing: the outbox gives up in time.
    """
    response = error.response
    # When the answer was no JSON, the SDK hands over aiohttp's response in place of its own.
    answer = json_of(response) if isinstance(response, AsyncSlackResponse) else {}
    status = response.status_code if isinstance(response, AsyncSlackResponse) else 0
    code = str(answer.get("error") or "")
    if status == 429 or code in _RATE_LIMITS:
        wait = str(response.headers.get("Retry-After", "1"))
        seconds = float(wait) if wait.isdigit() else 1.0
        return DeliveryError("Slack's rate limit", retry_after=seconds, code="ratelimited")
    if not code or status >= 500 or code in _DOUBTFUL:
        reason = f"Slack failed: {code or 'no reason given'} (HTTP {status})"
        return DeliveryError(reason, doubtful=posts, code=code)
    needed = f", needed: {answer['needed']}" if answer.get("needed") else ""
    advice = f": {_ADVICE[code]}" if code in _ADVICE else ""
    return DeliveryError(
        f"Slack refused: {code}{needed}{advice}", permanent=code in _ADVICE, code=code
    )
