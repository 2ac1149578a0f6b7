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
from sentinel.notify.receiver import Receiver
from sentinel.notify.secret import reveal
from sentinel.notify.settings import NotifySettings, SlackSettings
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


def offerings(
    receivers: Sequence[Receiver],
    notify: NotifySettings | None,
    environment: Mapping[str, str] = os.environ,
) -> list[Offering]:
    """The buttons of all receivers: by a notification file, or else by `$SLACK_APP_TOKEN` and
    `$SLACK_ALLOWED_USERS` (ids, with commas between them).

    Raises `SentinelError` when what is given cannot be what is meant, or a secret is not there.
    """
    settings = notify.receivers if notify else {}
    found: list[Offering | None] = []
    for receiver in receivers:
        said = settings.get(receiver.name)
        if not isinstance(receiver, SlackReceiver):
            continue
        if notify is None:
            found.append(_from_environment(receiver, environment))
        elif isinstance(said, SlackSettings):
            token = reveal(said.app_token, environment) if said.app_token else ""
            found.append(offering(receiver, token, said.users, base_url=said.base_url))
    return [one for one in found if one is not None]


def _from_environment(receiver: SlackReceiver, environment: Mapping[str, str]) -> Offering | None:
    token = environment.get("SLACK_APP_TOKEN", "").strip()
    listed = environment.get("SLACK_ALLOWED_USERS", "").split(",")
    users = [user.strip() for user in listed if user.strip()]
    base_url = environment.get("SLACK_BASE_URL", "").strip() or None
    return offering(receiver, token, users, base_url=base_url)
