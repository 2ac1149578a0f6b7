"""What follows a message in its thread comes by itself, and its failures harm nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import SCOPES, Fault, LoopbackSlack
from sentinel.notify.notice import Evidence, Notice
from sentinel.notify.receiver import Letter
from sentinel.notify.slack import SlackReceiver
from sentinel.notify.telemetry import Course, Measured, Normal
from tests.notify.notices import HELD, letter, notice

STACK = Evidence(
    "stack", "stands in all_reduce", 'File "train.py", line 3\n  <!channel> `x` *y*', 1
)
LONG = Evidence("stack", "stands in forward", "\n".join(f"frame {n}" for n in range(5000)), 0)
COURSE = Course("nonfinite_update", "", "1", (36, 37), (0.0, 1.0))
MEASURED = Measured((COURSE,), Normal(0.0, 0.0, 0.0, 200), 1, 0)


class Known:
    """Says what was measured, when it is let."""

    def __init__(self) -> None:
        self.asked: list[Notice] = []
        self.may = asyncio.Event()
        self.may.set()
        self.fails = False

    async def around(self, notice: Notice) -> Measured | None:
        self.asked.append(notice)
        await self.may.wait()
        if self.fails:
            raise ZeroDivisionError
        return MEASURED


@pytest.fixture
async def slack() -> AsyncIterator[LoopbackSlack]:
    async with LoopbackSlack() as slack:
        yield slack


def receiver(slack: LoopbackSlack, state: Path, *, chart_after: float = 0.0) -> SlackReceiver:
    return SlackReceiver(
        slack.token,
        "#training",
        state_dir=state,
        base_url=slack.url,
        timeout=5,
        chart_after=chart_after,
    )


async def until(slack: LoopbackSlack, count: int) -> list[Message]:
    """Wait for so many messages."""

    async def wait() -> None:
        while len(slack.messages) < count:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 60)
    return slack.messages


def told(*evidence: Evidence, kind: str = "opened", head: object = None) -> Letter:
    shown = notice(evidence=evidence)
    return Letter("e1" if head is None else "e2", kind, shown, head)  # type: ignore[arg-type]


async def test_the_whole_stack_is_in_the_thread_as_it_is_and_once(
    slack: LoopbackSlack, tmp_path: Path
) -> None:
    ours = receiver(slack, tmp_path)
    head = await ours.deliver(told(STACK))
    first, stack = await until(slack, 2)
    assert "• rank 1: stands in all_reduce" in first.as_text()
    assert stack.as_text() == f"rank 1: stands in all_reduce\n{STACK.text}"
    assert (stack.thread_ts, stack.mentions()) == (first.ts, [])

    await ours.deliver(told(STACK, LONG, kind="updated", head=head))
    await ours.close()
    update, shared = slack.messages[2:]
    assert "rank 0: stands in forward" in update.as_text()
    assert "all_reduce" not in update.as_text()
    (file,) = shared.files
    assert (file.name, file.title) == ("stack.txt", "rank 0: stands in forward")
    assert file.data.decode() == LONG.text
    assert shared.thread_ts == first.ts


async def test_a_chart_follows_and_shows_also_the_hold_that_comes_meanwhile(
    slack: LoopbackSlack, tmp_path: Path
) -> None:
    ours, known = receiver(slack, tmp_path, chart_after=600.0), Known()
    ours.illustrate(known)
    head = await ours.deliver(letter(about=None))
    assert "it was 0 in the 200 steps before" in slack.messages[0].as_text()
    held = notice(about=HELD, actions=(HELD,))
    await ours.deliver(letter("held", event_id="e2", head=head, about=held))
    await ours.close()  # which waits for nothing but the drawing

    first, _, chart = slack.messages
    (file,) = chart.files
    assert chart.thread_ts == first.ts
    assert file.data.startswith(b"\x89PNG")
    assert file.title == "NonFiniteUpdate in run gpt, rank 1"
    assert "at step 37 and were held at step 41" in file.alt_text
    assert known.asked[-1] == held


async def test_a_first_message_does_not_wait_for_long_and_is_completed_later(
    slack: LoopbackSlack, tmp_path: Path
) -> None:
    ours, known = receiver(slack, tmp_path, chart_after=600.0), Known()
    known.may.clear()
    ours.illustrate(known)
    await ours.deliver(letter(about=None))
    assert "200 steps before" not in slack.messages[0].as_text()
    known.may.set()
    while not slack.messages[0].edited:
        await asyncio.sleep(0.01)
    assert "it was 0 in the 200 steps before" in slack.messages[0].as_text()
    await ours.close()


async def test_what_is_late_does_not_take_a_message_back_to_an_earlier_state(
    slack: LoopbackSlack, tmp_path: Path
) -> None:
    ours, known = receiver(slack, tmp_path, chart_after=600.0), Known()
    known.may.clear()
    ours.illustrate(known)
    head = await ours.deliver(letter(about=None))
    over = letter("resolved", event_id="e2", head=head, about=notice(state="resolved"))
    refreshing = asyncio.create_task(ours.deliver(over))
    await until(slack, 2)
    known.may.set()
    await refreshing
    await ours.refresh(over)
    await ours.close()
    assert "RESOLVED" in slack.messages[0].as_text().split("\n")[0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("http_500", method="upload"), "Slack did not take a file"),
        (Fault("html", method="upload", status=502), "Slack did not take a file"),
        (Fault("drop", method="files.getUploadURLExternal"), "Slack did not answer"),
        (Fault("error", "channel_not_found", method="files.completeUploadExternal"), "refused"),
        (Fault("error", "internal_error", method="files.completeUploadExternal"), "failed"),
    ],
)
async def test_a_file_that_does_not_arrive_is_a_line_in_the_log(
    slack: LoopbackSlack, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Fault, said: str
) -> None:
    ours = receiver(slack, tmp_path)
    slack.fail_next(fault)
    await ours.deliver(told(LONG))
    await ours.close()
    assert said in caplog.text
    # The stack itself goes as text then, without its middle.
    _, stack = slack.messages
    assert "frame 0" in stack.as_text()
    assert stack.as_text().endswith("frame 4999")
    assert "left out" in stack.as_text()


async def test_without_the_scope_there_are_no_files_which_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with LoopbackSlack(scopes=SCOPES - {"files:write"}) as slack:
        ours, known = receiver(slack, tmp_path), Known()
        ours.illustrate(known)
        for n in range(2):
            shown = notice(evidence=(LONG,))
            await ours.deliver(Letter(f"e{n}", "opened", shown, None))
        await ours.close()
    assert not any(message.files for message in slack.messages)
    assert caplog.text.count("give it the scope files:write") == 1
    assert slack.requests.count("files.getUploadURLExternal") == 1
    assert [m.as_text().endswith("frame 4999") for m in slack.messages].count(True) >= 1


async def test_a_telemetry_with_a_fault_keeps_no_message_from_being_sent(
    slack: LoopbackSlack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ours, known = receiver(slack, tmp_path), Known()
    known.fails = True
    ours.illustrate(known)
    await ours.deliver(letter(about=None))
    await ours.close()
    (message,) = slack.messages
    assert "Measured: nonfinite_update is 1\n" in message.as_text()
    assert "could not be read" in caplog.text
