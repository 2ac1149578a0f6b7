"""Notification files: what they say, and what is said about those that cannot be used."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel.errors import NotifyError
from sentinel.notify.building import build, ping_of
from sentinel.notify.deadman import Ping
from sentinel.notify.notify_file import load
from sentinel.notify.settings import (
    AlertmanagerSettings,
    DeadManSettings,
    GrafanaSettings,
    Inhibition,
    Matcher,
    NotifySettings,
    Route,
    Secret,
    SlackSettings,
    StdoutSettings,
    WebhookSettings,
)

ENVIRONMENT = {
    "SLACK_BOT_TOKEN": "xoxb-1",
    "SLACK_APP_TOKEN": "xapp-1",
    "GRAFANA_TOKEN": "glsa",
    "PING": "https://hc-ping.com/1",
}
WHOLE = """
receivers:
  - name: oncall
    slack: {channel: "#training", app_token_env: SLACK_APP_TOKEN, users: [U012ABC]}
  - name: pager
    webhook: {url: "https://example.org/hook", secret_file: webhook.secret}
  - name: alertmanager
    alertmanager: {url: "http://localhost:9093", labels: {cluster: a}}
  - name: grafana
    grafana: {url: "http://localhost:3000", token_env: $GRAFANA_TOKEN, tags: [training]}
  - name: out
    stdout: {}
route:
  receivers: [oncall, alertmanager, grafana, out]
  group_by: [host]
  group_wait: 30s
  routes:
    - matchers: [severity="critical", run=~"prod-.*"]
      receivers: [oncall, pager]
      continue: true
      repeat_interval: 1h
      routes:
        - matchers: ['rule!~"Loss.*"']
          group_by: []
    - matchers: [run=scratch]
      receivers: []
      repeat_interval: 0
inhibit_rules:
  - source_matchers: [rule="RankLost"]
    target_matchers: [severity="warning"]
    equal: [run]
dead_man: {url_env: PING, every: 2m}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "notify.yaml"
    file.write_text(text)
    secret = folder / "webhook.secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    return file


def test_a_whole_file_says_what_it_says(tmp_path: Path) -> None:
    found = load(written(tmp_path, WHOLE), ENVIRONMENT)
    inner = Route(
        receivers=("oncall", "pager"),
        matchers=(Matcher("rule", "Loss.*", regex=True, negative=True),),
        group_by=(),
        group_wait=30.0,
        repeat_interval=3600.0,
    )
    critical = Route(
        receivers=("oncall", "pager"),
        matchers=(Matcher("severity", "critical"), Matcher("run", "prod-.*", regex=True)),
        group_by=("host",),
        group_wait=30.0,
        repeat_interval=3600.0,
        continues=True,
        routes=(inner,),
    )
    scratch = Route((), (Matcher("run", "scratch"),), ("host",), 30.0, 0.0)
    assert found == NotifySettings(
        receivers={
            "oncall": SlackSettings(
                "#training", Secret("SLACK_BOT_TOKEN"), Secret("SLACK_APP_TOKEN"), ("U012ABC",)
            ),
            "pager": WebhookSettings(
                "https://example.org/hook", Secret(file=tmp_path / "webhook.secret")
            ),
            "alertmanager": AlertmanagerSettings("http://localhost:9093", {"cluster": "a"}),
            "grafana": GrafanaSettings(
                "http://localhost:3000", Secret("GRAFANA_TOKEN"), tags=("training",)
            ),
            "out": StdoutSettings(),
        },
        route=Route(
            receivers=("oncall", "alertmanager", "grafana", "out"),
            group_by=("host",),
            group_wait=30.0,
            repeat_interval=4 * 3600.0,
            routes=(critical, scratch),
        ),
        inhibitions=(
            Inhibition((Matcher("rule", "RankLost"),), (Matcher("severity", "warning"),), ("run",)),
        ),
        dead_man=DeadManSettings(Secret("PING"), 120.0),
    )


def test_the_example_of_the_page_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    example = example.replace("/etc/sentinel/webhook.secret", "webhook.secret")
    found = load(written(tmp_path, example), {**ENVIRONMENT, "SENTINEL_PING_URL": "https://h"})
    assert len(found.receivers) == 5


def test_the_receivers_of_a_file_have_the_names_that_it_gives_them(tmp_path: Path) -> None:
    found = load(written(tmp_path, WHOLE), ENVIRONMENT)
    built = build(found.receivers, tmp_path, ENVIRONMENT)
    assert [one.name for one in built] == ["oncall", "pager", "alertmanager", "grafana", "out"]


def test_the_dead_man_of_a_file_goes_before_that_of_the_environment(tmp_path: Path) -> None:
    found = load(written(tmp_path, WHOLE), ENVIRONMENT)
    environment = {**ENVIRONMENT, "SENTINEL_PING_URL": "https://hc-ping.com/2"}
    assert ping_of(found, environment) == Ping("https://hc-ping.com/1", 120.0)
    assert ping_of(None, environment) == Ping("https://hc-ping.com/2", 60.0)
    assert ping_of(replace(found, dead_man=None), ENVIRONMENT) is None


HEAD = "receivers:\n  - name: out\n    stdout: {}\n"
ROUTE = "route: {receivers: [out]}\n"


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", "", "the file is empty: expected 'receivers:' and 'route:'"),
        ("[]", "1:1", "must be a mapping"),
        (HEAD, "1:1", "lacks 'route'"),
        (ROUTE, "1:1", "lacks 'receivers'"),
        (HEAD + ROUTE + "a: [", "5:5", "not YAML"),
        (HEAD + ROUTE + "inhibit_rule: []", "5:1", "did you mean 'inhibit_rules'?"),
        ("receivers: [{name: out, stdot: {}}]\n" + ROUTE, "1:25", "did you mean 'stdout'?"),
        ("receivers: [{stdout: {}}]\n" + ROUTE, "1:13", "lacks 'name'"),
        ("receivers: [{name: a b, stdout: }]\n" + ROUTE, "1:20", "is no name"),
        ("receivers: [{name: out}]\n" + ROUTE, "1:13", "'out' is nothing: expected one of slack"),
        (
            "receivers: [{name: out, stdout: , webhook: {url: x}}]\n" + ROUTE,
            "1:13",
            "is webhook and stdout",
        ),
        (HEAD + "  - {name: out, stdout: {}}\n" + ROUTE, "4:12", "already defined in line 2"),
        (HEAD + "  - {name: b, stdout: {}}\n" + ROUTE, "4:12", "'b' is in no route"),
        (HEAD + "route: {receivers: [uot]}", "4:21", "did you mean 'out'?"),
        (HEAD + "route: {receivers: out}", "4:20", "must be a list"),
        (HEAD + "route: {group_by: [run]}", "4:8", "lacks 'receivers'"),
        (HEAD + "route: {receivers: [out], matchers: []}", "4:27", "takes everything"),
        (HEAD + "route: {receivers: [out], group_wait: 3}", "4:39", "is no duration such as"),
        (HEAD + "route: {receivers: [out], group_wait: 2h}", "4:39", "0 s to 1 h"),
        (HEAD + "route: {receivers: [out], repeat_interval: 1s}", "4:44", "or 0"),
        (HEAD + "route: {receivers: [out], group_by: [a-b]}", "4:38", "'a-b' is no label"),
        (
            HEAD + "route:\n  receivers: [out]\n  routes:\n  - matchers: [severity=critcal]",
            "7:16",
            "did you mean 'critical'?",
        ),
        (
            HEAD + 'route:\n  receivers: [out]\n  routes:\n  - matchers: [run=~"(a+)+"]',
            "7:16",
            "only a single character may be repeated",
        ),
        (
            HEAD + "route:\n  receivers: [out]\n  routes:\n  - {continue: maybe}",
            "7:16",
            "supported are true, false",
        ),
        (
            HEAD + "route: &r\n  receivers: [out]\n  routes: [*r]",
            "4:8",
            "8 in one another",
        ),
        (
            HEAD + ROUTE + "inhibit_rules: [{source_matchers: [], target_matchers: [run=a]}]",
            "5:35",
            "it would match everything",
        ),
        (HEAD + ROUTE + "dead_man: {every: 1m}", "5:11", "lacks 'url_env' or 'url_file'"),
        (HEAD + ROUTE + "dead_man: {url_env: PNG}", "5:21", "variable PNG is not set"),
        (
            HEAD + ROUTE + "dead_man: {url_env: https://hc}",
            "5:21",
            "a secret itself does not belong into this file",
        ),
        (
            "receivers: [{name: out, webhook: {url: hook}}]\n" + ROUTE,
            "1:40",
            "is no URL: expected https://",
        ),
        (
            "receivers: [{name: out, webhook: {url: 'http://h', secret_file: no}}]\n" + ROUTE,
            "1:65",
            "cannot be read: No such file",
        ),
        (
            "receivers: [{name: out, slack: {channel: a, token_env: A, token_file: B}}]\n" + ROUTE,
            "1:71",
            "token_env and token_file: give one of them",
        ),
        (
            "receivers: [{name: out, slack: {channel: a, users: [ann]}}]\n" + ROUTE,
            "1:53",
            "'ann' is no Slack id",
        ),
        (
            "receivers: [{name: out, grafana: {url: 'http://h'}}]\n" + ROUTE,
            "1:34",
            "lacks 'token_env'",
        ),
        (
            "receivers: [{name: out, alertmanager: {url: 'http://h', labels: {a-b: c}}}]\n" + ROUTE,
            "1:71",
            "cannot name a label",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, text: str, place: str, reason: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(NotifyError) as caught:
        load(file, ENVIRONMENT)
    assert str(caught.value).startswith(f"{file}:{place}{':' if place else ''} ")
    assert reason in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_secret_of_another_user_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, WHOLE)
    os.chown(tmp_path / "webhook.secret", 12345, 12345)
    with pytest.raises(NotifyError, match="belongs to another user"):
        load(file, ENVIRONMENT)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"s3cret", 0o640, "can be read by others (mode 0640): chmod 600"),
        (b"s3cret", 0o604, "can be read by others"),
        (b" \n", 0o600, "is empty"),
        (b"x" * 5000, 0o600, "is too large"),
        (b"\xff\xfe", 0o600, "holds no text"),
    ],
)
def test_a_secret_that_is_none_is_refused(
    tmp_path: Path, content: bytes, mode: int, reason: str
) -> None:
    file = written(tmp_path, WHOLE)
    secret = tmp_path / "webhook.secret"
    secret.write_bytes(content)
    secret.chmod(mode)
    with pytest.raises(NotifyError) as caught:
        load(file, ENVIRONMENT)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{file}:6:61: ")
    assert "s3cret" not in str(caught.value)


def test_a_secret_is_read_when_the_receiver_is_built_and_not_kept_in_settings(
    tmp_path: Path,
) -> None:
    found = load(written(tmp_path, WHOLE), ENVIRONMENT)
    assert "s3cret" not in repr(found)
    assert "xoxb" not in repr(found)
