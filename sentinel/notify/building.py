"""From the settings of receivers to the receivers themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sentinel.notify.alertmanager import AlertmanagerReceiver
from sentinel.notify.deadman import Ping
from sentinel.notify.receiver import Receiver
from sentinel.notify.secret import reveal
from sentinel.notify.settings import (
    AlertmanagerSettings,
    GrafanaSettings,
    NotifySettings,
    ReceiverSettings,
    SlackSettings,
    WebhookSettings,
)
from sentinel.notify.slack import SlackReceiver
from sentinel.notify.standard_output import StdoutReceiver
from sentinel.notify.webhook import WebhookReceiver


def build(
    receivers: Mapping[str, ReceiverSettings],
    state_dir: Path,
    environment: Mapping[str, str] = os.environ,
) -> list[Receiver]:
    """The receivers of a notification file. Raises `SentinelError` for one that cannot be used."""
    return [_build(name, one, state_dir, environment) for name, one in receivers.items()]


def ping_of(
    settings: NotifySettings | None, environment: Mapping[str, str] = os.environ
) -> Ping | None:
    """Where the daemon says that it lives: by the file, or else by the environment.

    Raises `SentinelError` for what cannot be used.
    """
    if settings is None or settings.dead_man is None:
        return Ping.from_environment(environment)
    return Ping(reveal(settings.dead_man.url, environment), settings.dead_man.every)


def _build(
    name: str, one: ReceiverSettings, state_dir: Path, environment: Mapping[str, str]
) -> Receiver:
    if isinstance(one, SlackSettings):
        return SlackReceiver(
            reveal(one.token, environment),
            one.channel,
            name=name,
            state_dir=state_dir,
            base_url=one.base_url,
        )
    if isinstance(one, WebhookSettings):
        secret = None if one.secret is None else reveal(one.secret, environment).encode()
        return WebhookReceiver(name, one.url, secret)
    if isinstance(one, AlertmanagerSettings):
        return AlertmanagerReceiver(name, one.url, one.labels)
    if isinstance(one, GrafanaSettings):
        from sentinel.notify.grafana import GrafanaReceiver  # slow to import, and seldom needed

        token = reveal(one.token, environment)
        return GrafanaReceiver(name, one.url, token, one.dashboard_uid, one.tags)
    return StdoutReceiver(name)
