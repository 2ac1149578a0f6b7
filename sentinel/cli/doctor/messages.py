"""Who is told: the notification file, and each of its receivers. Nobody is sent anything."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from sentinel.cli.doctor.check import Finding, Setup, check, note, ok, problem
from sentinel.cli.doctor.slack import ask_slack
from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify.building import build, ping_of
from sentinel.notify.notify_file import load
from sentinel.notify.receiver import Receiver
from sentinel.notify.secret import reveal
from sentinel.notify.settings import NotifySettings, SlackSettings, WebhookSettings

GROUP = "messages"


@check(GROUP, "notifications")
def notifications(setup: Setup) -> Iterator[Finding]:
    """The file can be used, and all its secrets are there."""
    if setup.notify is None:
        token, channel = (os.environ.get(f"SLACK_{name}") for name in ("BOT_TOKEN", "CHANNEL"))
        if token and channel:
            yield ok("no file: all incidents go to Slack's channel in $SLACK_CHANNEL")
        else:
            yield note(
                "nobody is told of incidents",
                "set $SLACK_BOT_TOKEN and $SLACK_CHANNEL, or write a file and give --notify FILE "
                "(docs/notifications.md)",
            )
        return
    try:
        found = load(setup.notify)
        build(found.receivers, setup.state)
        ping_of(found)
    except SentinelError as error:
        yield problem(str(error), f"then try it with `sentinel notify check {setup.notify}`")
        return
    number = len(found.receivers)
    yield ok(f"{setup.notify}: {number} receiver{'s' * (number != 1)}")


@check(GROUP, "Slack", patience=4)
def slack(setup: Setup) -> Iterator[Finding]:
    """The token is taken, has the scopes, and the channel can be written to."""
    asked = _slack_channels(setup)
    if not asked:
        yield ok("not set up")
    for token, channel, base_url in asked:
        yield from ask_slack(token, channel, base_url, setup.within)


@check(GROUP, "other receivers", patience=2)
def others(setup: Setup) -> Iterator[Finding]:
    """Those that can be asked without telling anybody anything."""
    found = _settings(setup)
    if found is None:
        return
    for name, one in found.receivers.items():
        if isinstance(one, SlackSettings):
            continue
        if isinstance(one, WebhookSettings):
            yield note(f"{name}: not called", f"try it with `sentinel notify test {name}`")
            continue
        (receiver,) = build({name: one}, setup.state)
        yield asyncio.run(_ask(receiver, setup.within))


async def _ask(receiver: Receiver, within: float) -> Finding:
    try:
        return ok(f"{receiver.name}: {await asyncio.wait_for(receiver.check(), within)}")
    except (DeliveryError, asyncio.TimeoutError) as error:
        why = str(error) or "no answer in time"
        advice = "put its address and token right in the notification file, or its server"
        return problem(f"{receiver.name}: {why}", advice)
    finally:
        await receiver.close()


def _settings(setup: Setup) -> NotifySettings | None:
    """The file, if there is one that can be used: what is wrong with it is said elsewhere."""
    try:
        return None if setup.notify is None else load(setup.notify)
    except SentinelError:
        return None


def _slack_channels(setup: Setup) -> list[tuple[str, str, str | None]]:
    """Token, channel and base URL of each that is to be told in Slack."""
    if setup.notify is not None:
        found = _settings(setup)
        return [
            (reveal(one.token, os.environ), one.channel, one.base_url)
            for one in (found.receivers.values() if found else ())
            if isinstance(one, SlackSettings)
        ]
    token = os.environ.get("SLACK_BOT_TOKEN", "").strip()
    channel = os.environ.get("SLACK_CHANNEL", "").strip()
    base_url = os.environ.get("SLACK_BASE_URL", "").strip() or None
    return [(token, channel, base_url)] if token or channel else []
