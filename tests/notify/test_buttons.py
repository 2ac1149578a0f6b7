"""Which buttons a message has, what each carries, and what is taken for a press."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from sentinel.errors import SentinelError
from sentinel.notify.buttons import Json, Situation, actions_block, read_button
from sentinel.notify.loopback_limits import refusal
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_socket import buttons_of, labels_of
from sentinel.notify.notice import LastGood
from sentinel.notify.press import read_press

ALL = frozenset(("scale_lr", "load_checkpoint", "skip_batches"))
GOOD = LastGood("step1200", 1200, 37)
HELD = Situation("i1", "gpt", "LossSpike", "17.000/3", "held", ALL, last_good=GOOD)
RESUME = ("Resume", "Resume at half the learning rate")
REST = ("Stop the run", "Acknowledge", "Silence for 1 h")
QUIET = frozenset(("acknowledge", "silence"))


def shown(situation: Situation) -> Message:
    """A message with these buttons, as Slack takes it."""
    block = actions_block(situation)
    message = Message("C1", "training", "1.0", "text", (block,) if block else ())
    assert refusal(message) is None
    return message


@pytest.mark.parametrize(
    ("situation", "labels"),
    [
        (
            HELD,
            [*RESUME, "Roll back to step 1200", *REST],
        ),
        (replace(HELD, last_good=None, done=QUIET, offers=frozenset()), ["Resume", "Stop the run"]),
        (replace(HELD, state="running", done=QUIET), ["Stop the run"]),
        (replace(HELD, state="running"), ["Stop the run", "Acknowledge", "Silence for 1 h"]),
        (replace(HELD, state="other"), ["Acknowledge", "Silence for 1 h"]),
        (replace(HELD, state="other", done=frozenset(["acknowledge"])), ["Silence for 1 h"]),
        (replace(HELD, state="running", open=False), []),
        (replace(HELD, state="other", done=QUIET), []),
        (
            replace(HELD, run="r" * 512, last_good=LastGood("t" * 512, 1, 1)),
            [*RESUME, "Roll back to step 1", *REST],
        ),
        (replace(HELD, run="\x01" * 400), []),
    ],
)
def test_a_message_has_the_buttons_that_make_sense_now_within_slacks_limits(
    situation: Situation, labels: list[str]
) -> None:
    message = shown(situation)
    assert labels_of(message) == labels
    for button in buttons_of(message):
        kind, offer = read_button(str(button["action_id"]), str(button["value"]))
        assert (offer.run, offer.incident) == (situation.run, "i1")
        assert offer.stands == ("" if kind in QUIET else situation.stands)
        assert offer.tag == (situation.last_good.tag if kind == "rollback" else "")  # type: ignore[union-attr]
        assert offer.rule == (situation.rule if kind == "silence" else "")
        assert ("confirm" in button) == (kind in ("stop", "rollback"))


def test_the_way_that_is_open_stands_out() -> None:
    def primary(situation: Situation) -> list[object]:
        return [
            one["action_id"]
            for one in buttons_of(shown(situation))
            if one.get("style") == "primary"
        ]

    assert primary(HELD) == ["sentinel:resume"]
    assert primary(replace(HELD, doubtful=True)) == ["sentinel:rollback"]


def test_what_is_lost_by_a_rollback_is_said_before_it_counts() -> None:
    (button,) = [one for one in buttons_of(shown(HELD)) if "rollback" in str(one["action_id"])]
    question: Any = button["confirm"]
    assert "the 37 steps after it are lost" in question["text"]["text"]


PAYLOAD: Json = {
    "type": "block_actions",
    "user": {"id": "U0ANN", "username": "ann", "team_id": "T1"},
    "api_app_id": "A1",
    "team": {"id": "T1", "domain": "us"},
    "container": {"type": "message", "message_ts": "1.5", "channel_id": "C1"},
    "channel": {"id": "C1", "name": "training"},
    "response_url": "https://hooks.slack.com/actions/T1/1/x",
    "actions": [
        {
            "type": "button",
            "action_id": "sentinel:rollback",
            "action_ts": "2.5",
            "value": '{"incident":"i1","run":"gpt","stands":"17.000/3","tag":"step1200"}',
        }
    ],
}


def test_a_press_says_who_pressed_what_under_which_message() -> None:
    press = read_press(PAYLOAD)
    assert (press.kind, press.offer.tag, press.offer.stands) == ("rollback", "step1200", "17.000/3")
    assert (press.app, press.team, press.channel, press.ts) == ("A1", "T1", "C1", "1.5")
    assert press.by == "slack:U0ANN (ann)"
    nameless = read_press({**PAYLOAD, "user": {"id": "U0ANN"}, "team": None, "api_app_id": None})
    assert (nameless.by, nameless.team, nameless.app) == ("slack:U0ANN", "", "")
    forged = read_press({**PAYLOAD, "user": {"id": "U0ANN", "name": "a\nb\x00<!channel>" * 40}})
    assert "\n" not in forged.by
    assert len(forged.by) < 100


def test_a_press_is_the_same_however_often_it_comes_and_another_one_is_not() -> None:
    again: Any = copy.deepcopy(PAYLOAD)
    again["response_url"] = "https://hooks.slack.com/actions/T1/2/y"
    assert read_press(again).id == read_press(PAYLOAD).id
    again["actions"][0]["action_ts"] = "2.6"
    assert read_press(again).id != read_press(PAYLOAD).id


def without(*path: str | int) -> object:
    payload: Any = copy.deepcopy(PAYLOAD)
    inner = payload
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return payload


def with_action(**changes: object) -> object:
    payload: Any = copy.deepcopy(PAYLOAD)
    payload["actions"][0] |= changes
    return payload


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        "text",
        {"type": "view_submission", "user": {"id": "U1"}, "view": {}},
        without("user"),
        without("user", "id"),
        without("actions"),
        without("container"),
        {**PAYLOAD, "actions": []},
        {**PAYLOAD, "actions": "resume"},
        with_action(action_id="other_app:resume"),
        with_action(action_id="sentinel:format_disk"),
        with_action(value=None),
        with_action(value=""),
        with_action(value="{"),
        with_action(value='{"run": "gpt"}'),
        with_action(value='{"run": 1, "incident": "i1"}'),
        with_action(value='{"run": "gpt", "incident": "i1", "stands": [1]}'),
    ],
)
def test_what_is_no_press_on_a_button_of_ours_is_told_apart(payload: object) -> None:
    with pytest.raises(SentinelError):
        read_press(payload)
