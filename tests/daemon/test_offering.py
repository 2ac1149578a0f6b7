"""Whether buttons are offered: what the environment and the notification file have to say."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sentinel.cli.setup import settings as settings_of
from sentinel.daemon.offering import offerings
from sentinel.errors import SentinelError
from sentinel.notify.settings import NotifySettings, Route, Secret, SlackSettings
from sentinel.notify.slack import SlackReceiver


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no app-level token"),
        ({"SLACK_APP_TOKEN": "xapp-1", "SLACK_ALLOWED_USERS": " , "}, "nobody may press"),
        ({"SLACK_ALLOWED_USERS": "U0ANN"}, "no app-level token"),
    ],
)
def test_without_a_token_or_people_there_are_no_buttons_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, environment: dict[str, str], said: str
) -> None:
    receiver = SlackReceiver("xoxb-1", "C1", state_dir=tmp_path)
    with caplog.at_level(logging.INFO):
        assert offerings([receiver], None, environment) == []
    assert said in caplog.text


@pytest.mark.parametrize(
    "environment",
    [
        {"SLACK_APP_TOKEN": "xoxb-1", "SLACK_ALLOWED_USERS": "U0ANN"},
        {"SLACK_APP_TOKEN": "xapp-1", "SLACK_ALLOWED_USERS": "U0ANN,@bo"},
        {"SLACK_APP_TOKEN": "xapp-1", "SLACK_ALLOWED_USERS": ",".join(["U0ANN"] * 201)},
    ],
    ids=["a bot's token", "a name in place of an id", "too many"],
)
def test_what_cannot_be_meant_is_refused_at_the_start(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with pytest.raises(SentinelError):
        offerings([SlackReceiver("t", "C1", state_dir=tmp_path)], None, environment)


def test_a_notification_file_says_under_which_messages_there_are_buttons(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    receivers = [SlackReceiver("xoxb", "C1", name=name, state_dir=tmp_path) for name in names]
    secret, token = Secret("TOKEN"), Secret("APP_TOKEN")
    said = {
        "a": SlackSettings("C1", secret, token, ("U0ANN",), "http://127.0.0.1:1/api/"),
        "b": SlackSettings("C1", secret, token),
        "c": SlackSettings("C1", secret, None, ("U0ANN",)),
    }
    notify = NotifySettings(said, Route(names))
    (found,) = offerings(receivers, notify, {"APP_TOKEN": "xapp-1"})
    assert (found.receiver.name, found.app_token, found.users) == ("a", "xapp-1", ("U0ANN",))
    assert found.base_url == "http://127.0.0.1:1/api/"
    assert "xapp" not in repr(found)
    with pytest.raises(SentinelError, match="APP_TOKEN is not set"):
        offerings(receivers, notify, {})


def test_only_a_daemon_that_stands_by_itself_offers_buttons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("SLACK_BOT_TOKEN", "xoxb-1"),
        ("SLACK_CHANNEL", "C1"),
        ("SLACK_APP_TOKEN", "xapp-1"),
        ("SLACK_ALLOWED_USERS", "U0ANN"),
    ):
        monkeypatch.setenv(name, value)
    rest = {"observe": False, "notify": None, "slack_channel": None, "clean_steps": 3}
    alone = settings_of(tmp_path, "default", standing=True, **rest)  # type: ignore[arg-type]
    embedded = settings_of(tmp_path, "default", **rest)  # type: ignore[arg-type]
    assert [one.users for one in alone.buttons] == [("U0ANN",)]
    assert not embedded.buttons
