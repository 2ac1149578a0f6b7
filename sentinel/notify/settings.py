"""Who is told of what: the contents of a notification file, once it has been read.

Secrets are never in the file: it names the environment variable, or the file of mode 0600, that
has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sentinel.matcher import Matcher as Matcher


@dataclass(frozen=True)
class Secret:
    """Where a secret is: in an environment variable, or in a file; exactly one is given."""

    variable: str = ""
    file: Path | None = None


@dataclass(frozen=True)
class SlackSettings:
    """A Slack channel. `app_token` (xapp-...) is needed for buttons; `users` are those who may
    press them, by Slack's ids."""

    channel: str
    token: Secret
    app_token: Secret | None = None
    users: tuple[str, ...] = ()
    base_url: str | None = None


@dataclass(frozen=True)
class WebhookSettings:
    """Any HTTP server; what is posted is signed with `secret` (HMAC-SHA256), if there is one."""

    url: str
    secret: Secret | None = None


@dataclass(frozen=True)
class AlertmanagerSettings:
    """An Alertmanager, by its base URL; `labels` are added to each alert."""

    url: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GrafanaSettings:
    """A Grafana whose dashboards show incidents as annotations; `tags` are added to each."""

    url: str
    token: Secret
    dashboard_uid: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class StdoutSettings:
    """The daemon's standard output, one JSON object a line."""


ReceiverSettings = (
    SlackSettings | WebhookSettings | AlertmanagerSettings | GrafanaSettings | StdoutSettings
)


@dataclass(frozen=True)
class Route:
    """Which incidents go to whom. Times are in seconds; `repeat_interval` 0: never again.

    An incident takes the first of `routes` that matches (and goes on where `continues`), or this
    one if none does. Incidents that are equal in `group_by` share a message that has waited for
    `group_wait`.
    """

    receivers: tuple[str, ...] = ()
    matchers: tuple[Matcher, ...] = ()
    group_by: tuple[str, ...] = ()
    group_wait: float = 0.0
    repeat_interval: float = 0.0
    continues: bool = False
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class Inhibition:
    """While an incident that matches `source` is open, those that match `target` are not told,
    where both are equal in all of `equal`."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeadManSettings:
    """Where to ping, as healthchecks.io has it (`/start`, nothing, `/fail`), every `every` s."""

    url: Secret
    every: float = 60.0


@dataclass(frozen=True)
class NotifySettings:
    """A notification file, whole. `receivers` by name."""

    receivers: Mapping[str, ReceiverSettings]
    route: Route
    inhibitions: tuple[Inhibition, ...] = ()
    dead_man: DeadManSettings | None = None
