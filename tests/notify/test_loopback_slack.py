"""The loopback workspace answers as Slack does, to any client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from slack_sdk import WebClient

from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import LoopbackSlack


@pytest.fixture
async def slack() -> AsyncIterator[LoopbackSlack]:
    async with LoopbackSlack(channels=("training", "other"), page_size=2) as slack:
        yield slack


async def call(
    slack: LoopbackSlack,
    method: str,
    *,
    form: dict[str, str] | None = None,
    body: object = None,
    token: str | None = "xoxb-loopback",
) -> dict[str, object]:
    """What a request of ours is answered with."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(slack.url + method, data=form, json=body) as response,
    ):
        assert response.status == 200
        answer: dict[str, object] = await response.json()
        return answer


async def error_of(slack: LoopbackSlack, method: str, **fields: object) -> object:
    answer = await call(slack, method, body=fields)
    assert answer["ok"] is False
    return answer["error"]


async def test_slacks_own_synchronous_client_is_served_too(slack: LoopbackSlack) -> None:
    def use() -> tuple[str, list[str]]:
        client = WebClient(token="xoxb-loopback", base_url=slack.url)
        first = client.chat_postMessage(channel="#training", text="one")
        channel, ts = str(first["channel"]), str(first["ts"])
        client.chat_postMessage(channel=channel, text="two", thread_ts=ts)
        client.chat_update(channel=channel, ts=ts, text="three")
        replies = client.conversations_replies(channel=channel, ts=ts)
        return str(client.auth_test()["user"]), [message["text"] for message in replies["messages"]]

    assert await asyncio.to_thread(use) == ("sentinel", ["three", "two"])


async def test_forms_are_understood_as_json_bodies_are(slack: LoopbackSlack) -> None:
    blocks = json.dumps([{"type": "section", "text": {"type": "mrkdwn", "text": "hi"}}])
    metadata = json.dumps({"event_type": "t", "event_payload": {"a": 1}})
    form = {"channel": "training", "text": "x", "blocks": blocks, "metadata": metadata}

    assert (await call(slack, "chat.postMessage", form=form))["ok"]
    (message,) = slack.messages
    assert message.as_text() == "hi"
    assert message.metadata == {"event_type": "t", "event_payload": {"a": 1}}


async def test_tokens_are_checked(slack: LoopbackSlack) -> None:
    assert (await call(slack, "auth.test", token=None))["error"] == "not_authed"
    assert (await call(slack, "auth.test", token="xoxb-other"))["error"] == "invalid_auth"
    assert (await call(slack, "auth.test", form={"token": "xoxb-loopback"}, token=None))["ok"]


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("chat.delete", {}, "unknown_method"),
        ("chat.postMessage", {"channel": "nowhere", "text": "x"}, "channel_not_found"),
        ("chat.postMessage", {"channel": "training"}, "no_text"),
        ("chat.postMessage", {"channel": "training", "text": "x" * 40_001}, "msg_too_long"),
        (
            "chat.postMessage",
            {"channel": "training", "text": "x", "thread_ts": "1"},
            "thread_not_found",
        ),
        (
            "chat.postMessage",
            {"channel": "training", "text": "x", "metadata": {}},
            "invalid_metadata_format",
        ),
        ("chat.update", {"channel": "C0LOOPBACK0", "ts": "1", "text": "x"}, "message_not_found"),
        ("chat.update", {"channel": "training", "ts": "1", "text": "x"}, "channel_not_found"),
        ("conversations.history", {"channel": "training"}, "channel_not_found"),
        ("conversations.replies", {"channel": "C0LOOPBACK0", "ts": "1"}, "thread_not_found"),
    ],
)
async def test_errors_have_slacks_names(
    slack: LoopbackSlack, method: str, fields: dict[str, object], code: str
) -> None:
    assert await error_of(slack, method, **fields) == code


def section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


@pytest.mark.parametrize(
    "blocks",
    [
        [section("x" * 3001)],
        [section("")],
        [section("x")] * 51,
        [{"type": "section"}],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 2001}]}],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}],
        [{"type": "sectoin", "text": {"type": "mrkdwn", "text": "x"}}],
        [{"type": "section", "text": {"type": "markdown", "text": "x"}}],
        ["x"],
    ],
    ids=range(9),
)
async def test_blocks_beyond_slacks_limits_are_refused(
    slack: LoopbackSlack, blocks: list[object]
) -> None:
    fields = {"channel": "training", "text": "x", "blocks": blocks}

    assert await error_of(slack, "chat.postMessage", **fields) == "invalid_blocks"
    assert slack.messages == []


async def test_history_comes_newest_first_in_pages_and_without_threads(
    slack: LoopbackSlack,
) -> None:
    posted = [
        await call(slack, "chat.postMessage", body={"channel": "training", "text": str(n)})
        for n in range(5)
    ]
    reply = {"channel": "training", "text": "reply", "thread_ts": posted[0]["ts"]}
    await call(slack, "chat.postMessage", body=reply)
    await call(slack, "chat.postMessage", body={"channel": "other", "text": "elsewhere"})

    texts: list[str] = []
    cursor = ""
    while True:
        fields = {"channel": "C0LOOPBACK0", "cursor": cursor, "oldest": posted[0]["ts"]}
        page = await call(slack, "conversations.history", body=fields)
        assert isinstance(page["messages"], list)
        texts += [message["text"] for message in page["messages"]]
        assert isinstance(page["response_metadata"], dict)
        cursor = page["response_metadata"]["next_cursor"]
        if not cursor:
            break
    assert texts == ["4", "3", "2", "1"]


async def test_metadata_is_shown_only_to_those_who_ask(slack: LoopbackSlack) -> None:
    metadata = {"event_type": "t", "event_payload": {"a": 1}}
    fields = {"channel": "training", "text": "x", "metadata": metadata}
    posted = await call(slack, "chat.postMessage", body=fields)
    update = {"channel": "C0LOOPBACK0", "ts": posted["ts"], "text": "y"}
    await call(slack, "chat.update", body=update)

    for asked, shown in (("1", metadata), ("0", None)):
        fields = {"channel": "C0LOOPBACK0", "include_all_metadata": asked}
        answer = await call(slack, "conversations.history", body=fields)
        assert isinstance(answer["messages"], list)
        assert answer["messages"][0].get("metadata") == shown


async def test_whoever_looks_on_hears_of_each_message() -> None:
    heard: list[tuple[str, str]] = []

    def listen(message: Message, change: str) -> None:
        heard.append((message.as_text(), change))

    async with LoopbackSlack(on_message=listen) as slack:
        posted = await call(slack, "chat.postMessage", body={"channel": "training", "text": "a"})
        update = {"channel": "C0LOOPBACK0", "ts": posted["ts"], "text": "&lt;b&gt; &amp; c"}
        await call(slack, "chat.update", body=update)

    assert heard == [("a", "posted"), ("<b> & c", "changed")]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("<!channel> look", ["<!channel>"]),
        ("<@U123> and <#C123|x>", ["<@U123>", "<#C123|x>"]),
        ("<https://x.example|here>", ["<https://x.example|here>"]),
        ("a > b &lt;!here&gt;", []),
        ("cut <!chan", ["<!chan"]),
    ],
)
def test_what_slack_would_obey_is_known(text: str, mentions: list[str]) -> None:
    assert Message.made_of({"text": text}, "C1", "t", "1.0").mentions() == mentions


SECTION = {"type": "section", "text": {"type": "mrkdwn", "text": "x"}}


def button(**fields: object) -> dict[str, object]:
    return {"type": "button", "text": {"type": "plain_text", "text": "Go"}, **fields}


def rich(*elements: dict[str, object]) -> dict[str, object]:
    line = {"type": "rich_text_section", "elements": [*elements]}
    return {"type": "rich_text", "elements": [line]}


def actions(*elements: dict[str, object], **fields: object) -> dict[str, object]:
    return {"type": "actions", "elements": [*elements], **fields}


@pytest.mark.parametrize(
    ("blocks", "code"),
    [
        ([{**SECTION, "text": {"type": "mrkdwn", "text": "x" * 3001}}], "invalid_blocks"),
        ([{**SECTION, "text": {"type": "mrkdwn", "text": ""}}], "invalid_blocks"),
        ([{**SECTION, "novelty": 1}], "invalid_blocks"),
        ([rich({"type": "text", "text": ""})], "invalid_blocks"),
        ([rich({"type": "date", "timestamp": 1})], "invalid_blocks"),
        ([{"type": "novelty"}], "invalid_blocks"),
        (["section"], "invalid_blocks"),
        ([{**SECTION, "fields": [{"type": "mrkdwn", "text": "x" * 2001}]}], "invalid_blocks"),
        ([{**SECTION, "fields": [{"type": "mrkdwn", "text": "x"}] * 11}], "invalid_blocks"),
        ([SECTION] * 51, "invalid_blocks"),
        ([{**SECTION, "block_id": "one"}] * 2, "invalid_blocks"),
        ([{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}], "invalid_blocks"),
        ([{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}], "invalid_blocks"),
        ([{"type": "context", "elements": [SECTION["text"]] * 11}], "invalid_blocks"),
        ([actions(button(value="x" * 2001))], "invalid_blocks"),
        ([actions(button(action_id="x" * 256))], "invalid_blocks"),
        ([actions(button(action_id="a"), button(action_id="a"))], "invalid_blocks"),
        (
            [actions({**button(), "text": {"type": "plain_text", "text": "x" * 76}})],
            "invalid_blocks",
        ),
        ([actions(*[button(action_id=str(n)) for n in range(26)])], "invalid_blocks"),
        ([{**SECTION, "text": {"type": "mrkdwn", "text": "x" * 3000}}] * 4, "msg_blocks_too_long"),
    ],
)
async def test_blocks_are_refused_as_slack_refuses_them(
    slack: LoopbackSlack, blocks: list[object], code: str
) -> None:
    assert await error_of(slack, "chat.postMessage", channel="training", blocks=blocks) == code


async def test_what_slack_takes_is_taken(slack: LoopbackSlack) -> None:
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": "x" * 150, "emoji": True}},
        SECTION,
        {"type": "divider"},
        actions(button(action_id="a", value="x" * 2000, style="danger"), button(action_id="b")),
    ]
    answer = await call(slack, "chat.postMessage", body={"channel": "training", "blocks": blocks})
    assert answer["ok"]


async def test_metadata_has_a_size(slack: LoopbackSlack) -> None:
    metadata = {"event_type": "t", "event_payload": {"a": "x" * 20_000}}
    fields = {"channel": "training", "text": "x", "metadata": metadata}
    assert await error_of(slack, "chat.postMessage", **fields) == "metadata_too_large"


async def test_a_scope_that_is_missing_is_named() -> None:
    async with LoopbackSlack(scopes=frozenset({"chat:write"})) as slack:
        answer = await call(slack, "files.getUploadURLExternal", form={"filename": "a"})
        assert answer == {
            "ok": False,
            "error": "missing_scope",
            "needed": "files:write",
            "provided": "chat:write",
        }
        slack.tokens["xapp-1"] = frozenset({"connections:write"})
        slack.methods["apps.connections.open"] = lambda fields: {"url": "wss://"}
        slack.needs["apps.connections.open"] = "connections:write"
        assert (await call(slack, "apps.connections.open", token="xapp-1"))["url"] == "wss://"
        assert (await call(slack, "apps.connections.open"))["error"] == "not_allowed_token_type"


async def test_a_file_is_announced_then_sent_then_shared(slack: LoopbackSlack) -> None:
    head = await call(slack, "chat.postMessage", body={"channel": "training", "text": "one"})
    offer = {"filename": "a.txt", "length": "3", "alt_txt": "three letters"}
    offered = await call(slack, "files.getUploadURLExternal", form=offer)
    share = {
        "files": [{"id": offered["file_id"], "title": "A"}],
        "channel_id": "C0LOOPBACK0",
        "thread_ts": head["ts"],
        "initial_comment": "see",
    }
    assert await error_of(slack, "files.completeUploadExternal", **share) == "file_not_found"
    async with aiohttp.ClientSession() as session:
        for body, status in ((b"four", 404), (b"abc", 200), (b"abc", 404)):
            async with session.post(str(offered["upload_url"]), data=body) as response:
                assert response.status == status
    wrong = {**share, "thread_ts": "1.0"}
    assert await error_of(slack, "files.completeUploadExternal", **wrong) == "invalid_thread_ts"
    assert (await call(slack, "files.completeUploadExternal", body=share))["ok"]
    assert await error_of(slack, "files.completeUploadExternal", **share) == "file_not_found"

    (_, shared) = slack.messages
    assert (shared.text, shared.thread_ts) == ("see", head["ts"])
    assert [(one.name, one.title, one.data) for one in shared.files] == [("a.txt", "A", b"abc")]


@pytest.mark.parametrize("fields", [{}, {"filename": "a"}, {"filename": "a", "length": "0"}])
async def test_a_file_without_name_or_length_is_refused(
    slack: LoopbackSlack, fields: dict[str, str]
) -> None:
    assert await error_of(slack, "files.getUploadURLExternal", **fields) == "invalid_arguments"


async def test_channels_close_and_tokens_expire(slack: LoopbackSlack) -> None:
    post = {"channel": "training", "text": "x"}
    slack.closed["training"] = "is_archived"
    assert await error_of(slack, "chat.postMessage", **post) == "is_archived"
    slack.closed.clear()
    slack.expire("token_revoked")
    assert await error_of(slack, "chat.postMessage", **post) == "token_revoked"
