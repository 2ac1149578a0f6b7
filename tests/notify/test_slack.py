"""The Slack receiver against real HTTP: what it sends, and what it makes of every answer."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify.loopback_slack import Fault, LoopbackSlack
from sentinel.notify.notice import Action, Notice
from sentinel.notify.receiver import Posted
from sentinel.notify.slack import SlackReceiver
from tests.notify.notices import HELD, letter, notice

TOKEN = "xoxb-1234567890-secret"
RESUMED = Action("resume", "done", 41, "ann")
STOPPED = Action("stop", "done", 41, "ann")


@pytest.fixture
async def slack() -> AsyncIterator[LoopbackSlack]:
    async with LoopbackSlack(token=TOKEN, page_size=3) as slack:
        yield slack


def receiver(slack: LoopbackSlack, channel: str = "#training", **changed: str) -> SlackReceiver:
    return SlackReceiver(
        changed.get("token", TOKEN), channel, state_dir=Path("/s"), base_url=slack.url, timeout=2
    )


async def test_a_first_message_and_its_thread(slack: LoopbackSlack) -> None:
    ours = receiver(slack)
    assert await ours.check() == "sentinel in loopback"
    head = await ours.deliver(letter(about=None))
    held = letter("held", event_id="e2", head=head, about=notice(about=HELD, actions=(HELD,)))
    await ours.deliver(held)
    await ours.refresh(held)

    first, second = slack.messages
    assert (first.thread_ts, second.thread_ts) == (None, first.ts)
    assert "All ranks are held at step 41" in first.as_text()
    assert first.edited
    assert second.broadcast
    assert first.metadata == {
        "event_type": "sentinel_incident",
        "event_payload": {"event_id": "e1", "incident": "i1", "kind": "opened"},
    }


async def test_a_rate_limit_is_waited_out(slack: LoopbackSlack) -> None:
    slack.fail_next(Fault("rate_limit", seconds=0))
    await receiver(slack).deliver(letter(about=None))

    assert slack.requests == ["chat.postMessage"] * 2
    assert len(slack.messages) == 1


async def test_a_long_rate_limit_is_left_to_the_outbox(slack: LoopbackSlack) -> None:
    slack.fail_next(Fault("rate_limit", seconds=3600))
    with pytest.raises(DeliveryError, match="rate limit") as caught:
        await receiver(slack).deliver(letter(about=None))

    assert caught.value.retry_after == 3600.0
    assert not caught.value.permanent
    assert not caught.value.doubtful


@pytest.mark.parametrize(
    ("fault", "arrived"),
    [
        (Fault("http_500"), 0),
        (Fault("http_500_after"), 1),
        (Fault("drop"), 0),
        (Fault("drop_after"), 1),
        (Fault("drop_after", seconds=5), 1),
        (Fault("error", "internal_error"), 0),
    ],
)
async def test_a_post_without_a_clear_answer_is_not_repeated_but_looked_for(
    slack: LoopbackSlack, fault: Fault, arrived: int
) -> None:
    ours = receiver(slack)
    slack.fail_next(fault)
    with pytest.raises(DeliveryError) as caught:
        await ours.deliver(letter(about=None))

    assert caught.value.doubtful
    assert not caught.value.permanent
    assert len(slack.messages) == arrived
    found = await ours.find(letter(about=None), since=0.0)
    assert found == (Posted("C0LOOPBACK0", slack.messages[0].ts) if arrived else None)


@pytest.mark.parametrize("fault", [Fault("http_500"), Fault("drop"), Fault("rate_limit")])
async def test_questions_are_repeated(slack: LoopbackSlack, fault: Fault) -> None:
    slack.fail_next(fault)

    assert await receiver(slack).check() == "sentinel in loopback"


async def test_a_dead_slack_is_certainly_not_reached() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api/"
        ours = SlackReceiver(TOKEN, "#training", state_dir=Path("/s"), base_url=url)
        with pytest.raises(DeliveryError, match="cannot be reached") as caught:
            await ours.deliver(letter(about=None))

    assert not caught.value.doubtful
    assert not caught.value.permanent


@pytest.mark.parametrize(
    ("channel", "token", "code", "advice"),
    [
        ("#training", "xoxb-wrong", "invalid_auth", r"\$SLACK_BOT_TOKEN"),
        ("#nowhere", TOKEN, "channel_not_found", r"\$SLACK_CHANNEL"),
    ],
)
async def test_what_only_a_person_can_mend_is_permanent(
    slack: LoopbackSlack, channel: str, token: str, code: str, advice: str
) -> None:
    with pytest.raises(DeliveryError, match=rf"{code}.*{advice}") as caught:
        await receiver(slack, channel, token=token).deliver(letter(about=None))

    assert caught.value.permanent


@pytest.mark.parametrize("code", ["is_archived", "channel_not_found", "not_in_channel"])
async def test_a_channel_that_closes_later_is_a_permanent_error_with_advice(
    slack: LoopbackSlack, code: str
) -> None:
    ours = receiver(slack)
    head = await ours.deliver(letter(about=None))
    slack.closed["training"] = code
    reply = letter("held", event_id="e2", head=head, about=notice(about=HELD, actions=(HELD,)))
    for work in (ours.deliver, ours.refresh):
        with pytest.raises(DeliveryError, match=rf"{code}.*channel") as caught:
            await work(reply)
        assert caught.value.permanent
    assert not slack.messages[0].edited


@pytest.mark.parametrize("code", ["token_expired", "token_revoked", "account_inactive"])
async def test_a_token_that_ends_is_a_permanent_error_with_advice(
    slack: LoopbackSlack, code: str
) -> None:
    ours = receiver(slack)
    head = await ours.deliver(letter(about=None))
    slack.expire(code)
    reply = letter("held", event_id="e2", head=head, about=None)
    for work in (ours.deliver(reply), ours.refresh(reply), ours.find(reply, 0.0), ours.check()):
        with pytest.raises(DeliveryError, match=rf"{code}: .*SLACK_BOT_TOKEN") as caught:
            await work
        assert caught.value.permanent


@pytest.mark.parametrize("status", [200, 403, 502])
async def test_a_proxy_that_answers_in_slacks_place_is_not_believed(
    slack: LoopbackSlack, status: int
) -> None:
    ours = receiver(slack)
    slack.fail_next(Fault("html", status=status))
    with pytest.raises(DeliveryError, match=rf"HTTP {status}") as caught:
        await ours.deliver(letter(about=None))

    assert caught.value.doubtful
    assert not caught.value.permanent
    assert "<" not in str(caught.value)
    assert await ours.find(letter(about=None), 0.0) is None
    await ours.deliver(letter(about=None))
    assert len(slack.messages) == 1


@pytest.mark.parametrize("code", ["invalid_blocks", "msg_too_long", "msg_blocks_too_long"])
async def test_a_first_message_whose_blocks_are_refused_is_brought_up_to_date_as_text(
    slack: LoopbackSlack, code: str
) -> None:
    ours = receiver(slack)
    head = await ours.deliver(letter(about=None))
    slack.fail_next(Fault("error", code))
    held = notice(about=HELD, actions=(HELD,))
    await ours.refresh(letter("held", event_id="e2", head=head, about=held))

    (message,) = slack.messages
    assert message.blocks == ()
    assert "All ranks are held at step 41" in message.as_text()
    assert "sentinel resume gpt" in message.as_text()


@pytest.mark.parametrize(
    ("kind", "shown", "says", "offers"),
    [
        ("opened", notice(), "Sentinel only warns", "sentinel pause gpt"),
        ("held", notice(about=HELD, actions=(HELD,)), "All ranks are held at", "sentinel resume"),
        ("resumed", notice(about=RESUMED, actions=(HELD, RESUMED)), "goes on", "sentinel pause"),
        ("stopped", notice(about=STOPPED, actions=(HELD, STOPPED)), "was stopped at", "incidents"),
        ("resolved", notice(state="resolved"), "RESOLVED after 10 min", "incidents"),
    ],
)
async def test_the_first_message_shows_how_it_stands_now(
    slack: LoopbackSlack, kind: str, shown: Notice, says: str, offers: str
) -> None:
    ours = receiver(slack)
    head = await ours.deliver(letter(about=None))
    await ours.refresh(letter(kind, event_id="e2", head=head, about=shown))

    (message,) = slack.messages
    assert says in message.as_text()
    assert offers in message.as_text()
    assert message.edited


@pytest.mark.parametrize("code", ["invalid_blocks", "msg_too_long"])
async def test_blocks_that_slack_refuses_go_as_text(slack: LoopbackSlack, code: str) -> None:
    slack.fail_next(Fault("error", code))
    await receiver(slack).deliver(letter(about=None))

    (message,) = slack.messages
    assert message.blocks == ()
    assert "Where: rank 1, host node-a, cuda:1, module transformer.h.3.mlp" in message.as_text()


async def test_a_reply_to_what_was_deleted_is_a_message_of_its_own(slack: LoopbackSlack) -> None:
    ours = receiver(slack)
    await ours.deliver(letter("held", head=Posted("C0LOOPBACK0", "1.0"), about=None))

    (message,) = slack.messages
    assert message.thread_ts is None
    assert "CRITICAL" in message.as_text()


async def test_a_message_is_found_among_many_by_its_id_alone(slack: LoopbackSlack) -> None:
    ours = receiver(slack)
    heads = [await ours.deliver(letter(event_id=f"e{n}", about=None)) for n in range(8)]
    replies = [
        await ours.deliver(letter("updated", event_id=f"r{n}", head=heads[0], about=None))
        for n in range(8)
    ]

    by_id = receiver(slack, "C0LOOPBACK0")
    for who in (ours, by_id):
        for n in range(8):
            assert await who.find(letter(event_id=f"e{n}", about=None), 0.0) == heads[n]
            reply = letter("updated", event_id=f"r{n}", head=heads[0], about=None)
            assert await who.find(reply, 0.0) == replies[n]
        assert await who.find(letter(event_id="r1", about=None), 0.0) is None
    assert await ours.find(letter(event_id="e1", about=None), float(heads[0].ts) + 1e6) is None


async def test_a_history_that_cannot_be_asked_is_permanently_unknown(slack: LoopbackSlack) -> None:
    slack.fail_next(Fault("error", "missing_scope"))
    with pytest.raises(DeliveryError, match="channels:history") as caught:
        await receiver(slack, "C0LOOPBACK0").find(letter(about=None), 0.0)

    assert caught.value.permanent


async def test_the_token_is_never_logged(
    slack: LoopbackSlack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ours = receiver(slack)
    slack.fail_next(Fault("rate_limit"), Fault("error", "invalid_blocks"))
    await ours.deliver(letter(about=None))
    slack.fail_next(Fault("http_500"))
    with pytest.raises(DeliveryError) as caught:
        await ours.deliver(letter(about=None))
    assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r}"
    await ours.check()

    assert "chat.postMessage" in caplog.text
    assert "secret" not in caplog.text
    assert "secret" not in repr(ours)


async def test_a_proxy_in_the_environment_does_not_stand_before_the_loopback(
    slack: LoopbackSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    assert await receiver(slack).check() == "sentinel in loopback"


def environment(**variables: str) -> dict[str, str]:
    return {f"SLACK_{name}": value for name, value in variables.items()}


@pytest.mark.parametrize(
    ("variables", "channel", "configured"),
    [
        (environment(), None, False),
        (environment(BOT_TOKEN=TOKEN, CHANNEL="C1"), None, True),
        (environment(BOT_TOKEN=TOKEN), "#training", True),
        (environment(BOT_TOKEN=TOKEN), None, False),
        (environment(BOT_TOKEN="", CHANNEL="C1"), None, False),
    ],
)
def test_slack_is_told_when_token_and_channel_are_there(
    variables: dict[str, str], channel: str | None, configured: bool
) -> None:
    made = SlackReceiver.from_environment(Path("/s"), channel=channel, environment=variables)

    assert (made is not None) == configured


def test_a_channel_that_was_asked_for_needs_a_token() -> None:
    with pytest.raises(SentinelError, match=r"\$SLACK_BOT_TOKEN"):
        SlackReceiver.from_environment(Path("/s"), channel="#training", environment={})


async def test_the_environment_leads_to_the_loopback(slack: LoopbackSlack) -> None:
    variables = environment(BOT_TOKEN=TOKEN, CHANNEL="#training", BASE_URL=slack.url)
    made = SlackReceiver.from_environment(Path("/s"), environment=variables)

    assert made is not None
    assert await made.check() == "sentinel in loopback"
