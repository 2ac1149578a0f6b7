"""No name, stack or text of a run makes Slack do anything, or refuse a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.notify.blocks import escape, fits, whole
from sentinel.notify.loopback_limits import refusal
from sentinel.notify.loopback_message import Message
from sentinel.notify.message import plain, title
from sentinel.notify.notice import Action, Evidence
from sentinel.notify.telemetry import Course, Measured
from tests.notify.notices import notice, sent

KINDS = (
    *("opened", "updated", "held", "resumed", "stopped", "action", "resolved"),
    *("reminder", "ending", "acknowledged", "repeated"),
)
HOSTILE = (
    "<!channel>",
    "<@U0123456>",
    "<!here|here>",
    "<https://evil.example|click>",
    "&lt;!channel&gt;",
    "*_~`",
    "```",
    "x\n<!everyone>\u202e\x00",
)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", [False, True])
def test_no_name_can_call_people_or_make_links(name: str, kind: str, reply: bool) -> None:
    hostile = Action("pause", "done", 1, name, name, name)
    shown = notice(
        run=name,
        module=name,
        summary=name,
        actions=(hostile,),
        severity=name,
        evidence=(Evidence("stack", name, name),),
        certainty=name,
        advice=name,
    )
    message = sent(shown, kind, reply=reply, measured=Measured((Course(name),), None))

    assert message.mentions() == []
    assert refusal(message) is None


def test_slack_shows_names_as_they_are() -> None:
    message = sent(notice(module="block<3>&norm"))

    assert "module block<3>&norm\n" in message.as_text()


ANY_TEXT = st.text(max_size=6000) | st.sampled_from(HOSTILE).map(lambda text: text * 200)


@given(
    run=ANY_TEXT,
    module=ANY_TEXT,
    summary=ANY_TEXT,
    detail=ANY_TEXT,
    told=ANY_TEXT,
    alerts=st.integers(0, 3000),
    kind=st.sampled_from(KINDS),
    reply=st.booleans(),
)
def test_every_message_is_one_that_slack_takes(
    run: str, module: str, summary: str, detail: str, told: str, alerts: int, kind: str, reply: bool
) -> None:
    action = Action("pause", "failed", 1, detail, detail, detail)
    shown = notice(
        run=run,
        module=module,
        summary=summary,
        actions=(action,),
        alerts=alerts,
        evidence=(Evidence(told, told, told, 3),) * 16,
        certainty=told,
        advice=told,
    )
    message = sent(shown, kind, reply=reply)

    assert refusal(message) is None
    assert message.mentions() == []
    assert len(message.blocks) <= 10
    assert message.text.encode()
    assert set(kinds_of(message.blocks)) <= PLAIN_KINDS, "something in it may be mark-up"


# What Slack shows as it is: none of these is looked through for mark-up, or calls anybody.
PLAIN_KINDS = {
    *("header", "context", "plain_text", "rich_text", "rich_text_section", "rich_text_list"),
    *("rich_text_preformatted", "text", "date"),
}


def kinds_of(part: object) -> list[str]:
    """The types of all that is in a part of a message."""
    if isinstance(part, dict):
        own = [part["type"]] if "type" in part else []
        return own + [kind for inner in part.values() for kind in kinds_of(inner)]
    return (
        [kind for inner in part for kind in kinds_of(inner)]
        if isinstance(part, list | tuple)
        else []
    )


@given(text=st.text(max_size=12_000) | st.text("<@&`\n ", max_size=12_000), name=ANY_TEXT)
def test_every_stack_is_one_that_slack_takes_and_shows_as_it_is(text: str, name: str) -> None:
    made = whole(title(Evidence("stack", name, text)), text)
    fields: dict[str, object] = {"text": escape(plain(name) or "x"), "blocks": made}
    message = Message.made_of(fields, "C1", "training", "1.0")

    assert refusal(message) is None
    assert message.mentions() == []
    assert set(kinds_of(made)) <= PLAIN_KINDS


def test_of_a_stack_that_is_too_long_both_ends_are_shown() -> None:
    lines = [f"File model.py, line {n}, in forward" for n in range(1000)]
    shown = Message.made_of(
        {"blocks": whole("stack", "\n".join(lines))}, "C1", "t", "1.0"
    ).as_text()
    assert not fits("\n".join(lines))
    assert fits("\n".join(lines[:20]))
    assert "line 0," in shown
    assert shown.endswith("line 999, in forward")
    assert "left out" in shown


@given(st.text(max_size=400), st.integers(2, 300))
def test_plain_text_is_one_printable_line(text: str, limit: int) -> None:
    line = plain(text, limit)

    assert len(line) <= limit
    assert "\n" not in line
    assert line == plain(line, limit)


@given(st.text(max_size=200))
def test_escaping_can_be_undone_by_slack(text: str) -> None:
    undone = escape(text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")

    assert undone == text
