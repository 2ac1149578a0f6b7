"""Whose messages have buttons, and who may press them.

Only a daemon that stands by itself offers any: Slack gives each press to one connection of an app
at random, so that there must be one process that has them all.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sentinel.errors import SentinelError
from sentinel.notify.slack import SlackReceiver

log = logging.getLogger("sentinel.daemon")

_USER = re.compile(r"[UW][A-Z0-9]{2,31}")
_MOST = 200  # people; all of them are named to those who may not


@dataclass(frozen=True)
class Offering:
    """Buttons under the messages of one receiver, for these people, by Slack's ids."""

    receiver: SlackReceiver
    app_token: str = field(repr=False)
    users: tuple[str, ...]
    base_url: str | None = None


def offering(
    receiver: SlackReceiver, app_token: str, users: Sequence[str], *, base_url: str | None = None
) -> Offering | None:
    """The buttons for a receiver; None, with the reason in the log, where there can be none.

    Raises `SentinelError` when what is given cannot be what is meant.
    """
    if not app_token:
        log.info("%s: messages have no buttons: there is no app-level token", receiver.name)
        return None
    if not app_token.startswith("xapp-"):
        raise SentinelError(
            "buttons need Slack's app-level token, which begins with xapp-: another was given"
        )
    for user in users:
        if not _USER.fullmatch(user):
            raise SentinelError(
                f"{user!r} is no id of a Slack user: expected one such as U0123ABCDEF "
                "(in Slack: profile, Copy member ID)"
            )
    if len(users) > _MOST:
        raise SentinelError(f"{len(users)} people may press buttons: at most {_MOST} can")
    if not users:
        log.warning("%s: messages have no buttons: nobody may press them", receiver.name)
        return None
    return Offering(receiver, app_token, tuple(dict.fromkeys(users)), base_url)


def offering_from_environment(
    receiver: SlackReceiver, environment: Mapping[str, str] = os.environ
) -> Offering | None:
    """By `$SLACK_APP_TOKEN` and `$SLACK_ALLOWED_USERS` (ids, with commas between them)."""
    token = environment.get("SLACK_APP_TOKEN", "").strip()
    listed = environment.get("SLACK_ALLOWED_USERS", "").split(",")
    users = [user.strip() for user in listed if user.strip()]
    base_url = environment.get("SLACK_BASE_URL", "").strip() or None
    return offering(receiver, token, users, base_url=base_url)
