"""Notification files: YAML, in terms of Alertmanager where that has them, to `NotifySettings`.

Every error is a `NotifyError` with the file, the line and the column, counted from 1. Secrets are
looked for at once, so that what is missing is said before it is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from sentinel.duration import in_words, seconds_of
from sentinel.engine.transition import SEVERITIES
from sentinel.engine.yaml_reader import YamlReader, read_file
from sentinel.errors import NotifyError
from sentinel.matcher import MAX_MATCHERS, Matcher, parse_matcher
from sentinel.notify.secret import reveal
from sentinel.notify.settings import (
    AlertmanagerSettings,
    DeadManSettings,
    GrafanaSettings,
    Inhibition,
    NotifySettings,
    ReceiverSettings,
    Route,
    Secret,
    SlackSettings,
    StdoutSettings,
    WebhookSettings,
)
from sentinel.signals import did_you_mean

MAX_RECEIVERS = 100
MAX_ROUTES = 200
MAX_DEPTH = 8  # of routes in routes
MAX_INHIBITIONS = 100
REPEAT_INTERVAL = 4 * 3600.0  # s, as in Alertmanager
GROUP_BY = ("run",)

_KINDS = ("slack", "webhook", "alertmanager", "grafana", "stdout")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_ROUTE_KEYS = ("receivers", "group_by", "group_wait", "repeat_interval", "routes")
_BOOLEANS = {"true": "true", "false": "false"}
_YEAR = 366 * 86_400.0

_Fields = Mapping[str, yaml.Node]


def load(path: Path, environment: Mapping[str, str] = os.environ) -> NotifySettings:
    """What a notification file says. Raises `NotifyError`."""
    return _Reader(path, environment).settings(read_file(path, NotifyError))


@dataclass(frozen=True)
class _Bounds:
    shortest: float
    longest: float
    zero: bool = False  # whether it may also be nothing


class _Reader(YamlReader):
    """Reads one file."""

    failure = NotifyError

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        super().__init__(str(path))
        self._folder = path.parent
        self._environment = environment
        self._used: set[str] = set()
        self._names: dict[str, yaml.Node] = {}
        self._routes = 0

    def settings(self, data: bytes) -> NotifySettings:
        """The whole file."""
        root = self._compose(data)
        if root is None:
            raise NotifyError(
                "the file is empty: expected 'receivers:' and 'route:'", file=self._file
            )
        keys = ("receivers", "route", "inhibit_rules", "dead_man")
        top = self._mapping(root, "a notification file", keys, required=("receivers", "route"))
        receivers = self._receivers(top["receivers"])
        route = self._root(top["route"])
        for name, node in self._names.items():
            if name not in self._used:
                raise self._error(node, f"receiver {name!r} is in no route: nobody would use it")
        rules = self._bounded(top.get("inhibit_rules"), "inhibit_rules", MAX_INHIBITIONS)
        dead_man = self._dead_man(top["dead_man"]) if "dead_man" in top else None
        return NotifySettings(receivers, route, tuple(map(self._inhibition, rules)), dead_man)

    # Receivers.

    def _receivers(self, node: yaml.Node) -> dict[str, ReceiverSettings]:
        found: dict[str, ReceiverSettings] = {}
        for entry in self._bounded(node, "receivers", MAX_RECEIVERS):
            fields = self._mapping(entry, "a receiver", ("name", *_KINDS), required=("name",))
            name = self._text(fields["name"], "the name of a receiver")
            if not _NAME.fullmatch(name):
                raise self._error(
                    fields["name"], f"{name!r} is no name: letters, digits, _ . and - make one"
                )
            if name in found:
                line = self._names[name].start_mark.line + 1
                raise self._error(
                    fields["name"], f"receiver {name!r} is already defined in line {line}"
                )
            self._names[name] = fields["name"]
            found[name] = self._receiver(entry, name, fields)
        return found

    def _receiver(self, entry: yaml.Node, name: str, fields: _Fields) -> ReceiverSettings:
        kinds = [kind for kind in _KINDS if kind in fields]
        if len(kinds) != 1:
            said = " and ".join(kinds) or "nothing"
            raise self._error(
                entry, f"receiver {name!r} is {said}: expected one of {', '.join(_KINDS)}"
            )
        node = fields[kinds[0]]
        if kinds[0] == "slack":
            return self._slack(node)
        if kinds[0] == "webhook":
            return self._webhook(node)
        if kinds[0] == "alertmanager":
            return self._alertmanager(node)
        if kinds[0] == "grafana":
            return self._grafana(node)
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return StdoutSettings()
        if self._entries(node, "stdout"):
            raise self._error(node, "stdout has no settings: expected {}")
        return StdoutSettings()

    def _slack(self, node: yaml.Node) -> SlackSettings:
        keys = ("channel", "token_env", "token_file", "app_token_env", "app_token_file", "users")
        fields = self._mapping(node, "slack", (*keys, "base_url"), required=("channel",))
        users = self._names_in(fields, "users", re.compile(r"[UW][A-Z0-9]{2,20}"), "Slack id")
        token = self._secret(node, fields, "token") or self._default_token(node)
        return SlackSettings(
            channel=self._filled(fields["channel"], "channel"),
            token=token,
            app_token=self._secret(node, fields, "app_token"),
            users=users,
            base_url=self._url(fields["base_url"], "base_url") if "base_url" in fields else None,
        )

    def _default_token(self, node: yaml.Node) -> Secret:
        return self._there(node, Secret("SLACK_BOT_TOKEN"))

    def _webhook(self, node: yaml.Node) -> WebhookSettings:
        keys = ("url", "secret_env", "secret_file")
        fields = self._mapping(node, "webhook", keys, required=("url",))
        return WebhookSettings(
            self._url(fields["url"], "url"), self._secret(node, fields, "secret")
        )

    def _alertmanager(self, node: yaml.Node) -> AlertmanagerSettings:
        fields = self._mapping(node, "alertmanager", ("url", "labels"), required=("url",))
        labels: dict[str, str] = {}
        if "labels" in fields:
            for name, value in self._entries(fields["labels"], "labels").items():
                if not _LABEL.fullmatch(name):
                    raise self._error(value, f"{name!r} cannot name a label")
                labels[name] = self._text(value, f"label {name!r}")
        return AlertmanagerSettings(self._url(fields["url"], "url"), labels)

    def _grafana(self, node: yaml.Node) -> GrafanaSettings:
        keys = ("url", "token_env", "token_file", "dashboard_uid", "tags")
        fields = self._mapping(node, "grafana", keys, required=("url",))
        token = self._secret(node, fields, "token")
        if token is None:
            raise self._error(node, "grafana lacks 'token_env' or 'token_file'")
        uid = fields.get("dashboard_uid")
        return GrafanaSettings(
            url=self._url(fields["url"], "url"),
            token=token,
            dashboard_uid=None if uid is None else self._filled(uid, "dashboard_uid"),
            tags=self._names_in(fields, "tags", re.compile(r"[^\x00-\x1f]{1,100}"), "tag"),
        )

    def _dead_man(self, node: yaml.Node) -> DeadManSettings:
        fields = self._mapping(node, "dead_man", ("url_env", "url_file", "every"))
        url = self._secret(node, fields, "url")
        if url is None:
            raise self._error(node, "dead_man lacks 'url_env' or 'url_file'")
        every = self._seconds(fields, "every", _Bounds(10.0, 86_400.0), 60.0)
        return DeadManSettings(url, every)

    # Routes.

    def _root(self, node: yaml.Node) -> Route:
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if self._text(key, "a key") in ("matchers", "continue"):
                    raise self._error(
                        key, f"the first route takes everything: {key.value!r} is for its 'routes'"
                    )
        fields = self._mapping(node, "route", _ROUTE_KEYS, required=("receivers",))
        return self._route(fields, Route(group_by=GROUP_BY, repeat_interval=REPEAT_INTERVAL), 1)

    def _route(self, fields: _Fields, parent: Route, depth: int) -> Route:
        """A route, with what it does not say itself taken from the one that it is in."""
        self._routes += 1
        receivers = self._known(fields["receivers"]) if "receivers" in fields else parent.receivers
        group_by = parent.group_by
        if "group_by" in fields:
            group_by = self._names_in(fields, "group_by", _LABEL, "label")
        wait = self._seconds(fields, "group_wait", _Bounds(0.0, 3600.0), parent.group_wait)
        repeat = self._seconds(
            fields, "repeat_interval", _Bounds(60.0, _YEAR, zero=True), parent.repeat_interval
        )
        here = Route(
            receivers=receivers,
            matchers=self._matchers(fields["matchers"]) if "matchers" in fields else (),
            group_by=group_by,
            group_wait=wait,
            repeat_interval=repeat,
            continues="continue" in fields
            and self._choice(fields["continue"], "continue", _BOOLEANS) == "true",
        )
        routes = []
        keys = ("matchers", *_ROUTE_KEYS, "continue")
        for node in self._bounded(fields.get("routes"), "routes", MAX_ROUTES):
            if depth >= MAX_DEPTH or self._routes >= MAX_ROUTES:
                raise self._error(
                    node, f"more than {MAX_ROUTES} routes, or {MAX_DEPTH} in one another"
                )
            routes.append(self._route(self._mapping(node, "a route", keys), here, depth + 1))
        return replace(here, routes=tuple(routes))

    def _known(self, node: yaml.Node) -> tuple[str, ...]:
        """Names of receivers that there are."""
        found: list[str] = []
        for entry in self._bounded(node, "receivers", MAX_RECEIVERS):
            name = self._text(entry, "the name of a receiver")
            if name not in self._names:
                raise self._error(
                    entry, f"there is no receiver {name!r}{did_you_mean(name, self._names)}"
                )
            self._used.add(name)
            found.append(name)
        return tuple(dict.fromkeys(found))

    def _inhibition(self, node: yaml.Node) -> Inhibition:
        keys = ("source_matchers", "target_matchers", "equal")
        fields = self._mapping(node, "an inhibit rule", keys, required=keys[:2])
        found = {key: self._matchers(fields[key]) for key in keys[:2]}
        for key, matchers in found.items():
            if not matchers:
                raise self._error(fields[key], f"{key} is empty: it would match everything")
        equal = self._names_in(fields, "equal", _LABEL, "label")
        return Inhibition(found["source_matchers"], found["target_matchers"], equal)

    def _matchers(self, node: yaml.Node) -> tuple[Matcher, ...]:
        return tuple(map(self._matcher, self._bounded(node, "matchers", MAX_MATCHERS)))

    def _matcher(self, node: yaml.Node) -> Matcher:
        try:
            found = parse_matcher(self._text(node, "a matcher"))
        except NotifyError as error:
            raise self._error(node, error.reason) from None
        if found.name == "severity" and not found.regex and found.value not in SEVERITIES:
            raise self._error(
                node,
                f"there is no severity {found.value!r}{did_you_mean(found.value, SEVERITIES)}: "
                f"expected {', '.join(SEVERITIES)}",
            )
        return found

    # Values.

    def _bounded(self, node: yaml.Node | None, what: str, most: int) -> list[yaml.Node]:
        found = [] if node is None else self._sequence(node, what)
        if node is not None and len(found) > most:
            raise self._error(node, f"{what}: more than {most}")
        return found

    def _filled(self, node: yaml.Node, what: str) -> str:
        text = self._text(node, what)
        if not text.strip() or not text.isprintable() or len(text) > 500:
            raise self._error(node, f"{what}: {text[:50]!r} cannot be meant")
        return text

    def _names_in(
        self, fields: _Fields, key: str, form: re.Pattern[str], what: str
    ) -> tuple[str, ...]:
        found = []
        for node in self._bounded(fields.get(key), key, 100):
            text = self._text(node, f"{key}: a {what}")
            if not form.fullmatch(text):
                raise self._error(node, f"{key}: {text[:50]!r} is no {what}")
            found.append(text)
        return tuple(dict.fromkeys(found))

    def _url(self, node: yaml.Node, what: str) -> str:
        text = self._filled(node, what)
        try:
            parts = urlsplit(text)
            fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            fits = False
        if not fits or " " in text:
            raise self._error(node, f"{what}: {text[:100]!r} is no URL: expected https://...")
        return text

    def _seconds(self, fields: _Fields, key: str, bounds: _Bounds, usual: float) -> float:
        if (node := fields.get(key)) is None:
            return usual
        text = self._text(node, key)
        seconds = 0.0 if text == "0" else seconds_of(text)
        if seconds is None:
            raise self._error(node, f"{key}: {text!r} is no duration such as 30s, 5m or 4h")
        if not bounds.shortest <= seconds <= bounds.longest and (seconds or not bounds.zero):
            never = ", or 0" if bounds.zero else ""
            raise self._error(
                node,
                f"{key}: {text!r} is out of bounds: {in_words(bounds.shortest)} to "
                f"{in_words(bounds.longest)}{never}",
            )
        return seconds

    def _secret(self, node: yaml.Node, fields: _Fields, key: str) -> Secret | None:
        """The secret of which `KEY_env` or `KEY_file` says where it is."""
        variable, file = fields.get(f"{key}_env"), fields.get(f"{key}_file")
        if variable is not None and file is not None:
            raise self._error(file, f"{key}_env and {key}_file: give one of them")
        if variable is not None:
            name = self._text(variable, f"{key}_env").removeprefix("$")
            if not _VARIABLE.fullmatch(name):
                raise self._error(
                    variable,
                    f"{key}_env: expected the name of an environment variable: a secret itself "
                    "does not belong into this file",
                )
            return self._there(variable, Secret(name))
        if file is not None:
            path = self._folder / self._filled(file, f"{key}_file")
            return self._there(file, Secret(file=path))
        return None

    def _there(self, node: yaml.Node, secret: Secret) -> Secret:
        try:
            reveal(secret, self._environment)
        except NotifyError as error:
            raise self._error(node, error.reason) from None
        return secret
