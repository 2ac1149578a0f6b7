"""From the record to Slack: every message arrives, once, in order, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from sentinel.clock import steady
from sentinel.errors import SentinelError
from sentinel.notify.dispatcher import Backoff, Dispatcher
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import Fault, LoopbackSlack
from sentinel.notify.notice import Notice, read
from sentinel.notify.receiver import Letter, Posted
from sentinel.notify.slack import SlackReceiver
from sentinel.store import Store
from sentinel.store.outbox import to_all
from tests.store.changes import alert, incident, pause

ROOT = Path(__file__).parents[2]
QUICK = Backoff(first=0.01, longest=0.05)


@pytest.fixture
async def slack() -> AsyncIterator[LoopbackSlack]:
    async with LoopbackSlack() as slack:
        yield slack


@asynccontextmanager
async def sending(
    state_dir: Path, slack: LoopbackSlack, *, backoff: Backoff = QUICK, token: str = "xoxb-loopback"
) -> AsyncIterator[tuple[Store, Dispatcher]]:
    """A record and its dispatcher at work, soon after what happens in the tests' changes."""
    began = steady()
    store = Store.open(state_dir, route=to_all(["slack"]))
    receiver = SlackReceiver(token, "#training", state_dir=state_dir, base_url=slack.url, timeout=2)
    dispatcher = Dispatcher(
        store.outbox, receiver, backoff=backoff, clock=lambda: 1001.0 + steady() - began
    )
    store.on_message(dispatcher.wake)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield store, dispatcher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        store.close()


def letters(slack: LoopbackSlack) -> list[Message]:
    """What came from the outbox, without what follows such a message in its thread."""
    metadata = [msgspec.convert(message.metadata, dict) for message in slack.messages]
    ids = [one["event_payload"]["event_id"] for one in metadata]
    return [one for one, event_id in zip(slack.messages, ids, strict=True) if "/" not in event_id]


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait for something to become true; fails the test when it does not."""
    deadline = steady() + timeout
    while not condition():
        assert steady() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_an_incident_is_one_thread_from_opening_to_resolution(
    tmp_path: Path, slack: LoopbackSlack
) -> None:
    async with sending(tmp_path, slack) as (store, dispatcher):
        (action,) = store.commit([incident(), alert(), pause()])
        await until(lambda: len(letters(slack)) == 1)
        store.update_action(action, "done", at=1001.0, step=41)
        asked = store.add_action("gpt", "resume", by="ann", at=1002.0, incident="i1")
        store.update_action(asked, "done", at=1003.0, step=41, detail="learning rate times 0.5")
        store.commit([incident("resolved", at=1004.0)])
        await until(lambda: store.outbox.counts() == {"sent": 4})
        assert await dispatcher.drained(5.0)

    head, *replies = letters(slack)
    assert [m.as_text() for m in slack.messages if m not in letters(slack)] == [
        'rank 1 stands in forward\nFile "train.py", line 7'
    ]
    shown = [reply.as_text().split("\n")[0] for reply in replies]
    assert shown == [
        "All ranks are held at step 41; nothing is torn down.",
        "The run goes on from step 41, by ann: learning rate times 0.5",
        "\N{WHITE HEAVY CHECK MARK} RESOLVED after 4 s: NonFiniteUpdate in run gpt on rank 1",
    ]
    assert {reply.thread_ts for reply in replies} == {head.ts}
    await until(lambda: "RESOLVED" in letters(slack)[0].as_text().split("\n")[0])
    assert dispatcher.delivered == 4
    assert dispatcher.last_error is None


async def test_it_ends_when_it_is_cancelled_at_the_moment_of_news(
    tmp_path: Path, slack: LoopbackSlack
) -> None:
    async with sending(tmp_path, slack) as (_, dispatcher):
        for _ in range(50):
            task = asyncio.create_task(dispatcher.run())
            await until(lambda: bool(dispatcher._news._waiters))
            dispatcher._news.set()
            await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=20)
            assert done == {task}


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("rate_limit")],
        [Fault("rate_limit")] * 4,
        [Fault("http_500")],
        [Fault("http_500_after")],
        [Fault("http_500")] * 5,
        [Fault("drop")],
        [Fault("drop_after")],
        [Fault("drop_after"), Fault("http_500"), Fault("drop")],
        [Fault("drop_after", seconds=3)],
        [Fault("error", "fatal_error"), Fault("error", "some_new_error")],
    ],
    ids=str,
)
async def test_it_arrives_exactly_once_whatever_slack_does(
    tmp_path: Path, slack: LoopbackSlack, faults: list[Fault]
) -> None:
    slack.fail_next(*faults)
    async with sending(tmp_path, slack) as (store, _):
        store.commit([incident()])
        await until(lambda: store.outbox.counts() == {"sent": 1})
        (row,) = store._database.rows("SELECT channel, ts, doubtful FROM outbox")

    (message,) = letters(slack)
    assert (row["channel"], row["ts"]) == ("C0LOOPBACK0", message.ts)


async def test_replies_arrive_exactly_once_as_well(tmp_path: Path, slack: LoopbackSlack) -> None:
    async with sending(tmp_path, slack) as (store, _):
        (action,) = store.commit([incident(), pause()])
        await until(lambda: store.outbox.counts() == {"sent": 1})
        slack.fail_next(Fault("drop_after"))
        store.update_action(action, "done", at=1001.0, step=41)
        await until(lambda: store.outbox.counts() == {"sent": 2})

    assert [message.thread_ts for message in letters(slack)] == [None, letters(slack)[0].ts]


async def test_a_slack_that_is_down_gets_everything_in_order_when_it_is_back(
    tmp_path: Path, slack: LoopbackSlack
) -> None:
    port = int(slack.url.split(":")[2].split("/")[0])
    await slack.stop()
    async with sending(tmp_path, slack) as (store, dispatcher):
        (action,) = store.commit([incident(), pause()])
        await until(lambda: dispatcher.last_error is not None)
        store.update_action(action, "done", at=1001.0, step=41)
        store.commit([incident("resolved", at=1002.0)])
        assert store.outbox.waiting() == (3, 1000.0)
        await slack.start(port)
        await until(lambda: store.outbox.counts() == {"sent": 3})

    kinds = [message.as_json()["metadata"] for message in letters(slack)]
    assert [msgspec.convert(kind, dict)["event_payload"]["kind"] for kind in kinds] == [
        "opened",
        "held",
        "resolved",
    ]


async def test_a_wrong_token_fails_for_good_with_the_reason(
    tmp_path: Path, slack: LoopbackSlack
) -> None:
    async with sending(tmp_path, slack, token="xoxb-wrong") as (store, dispatcher):
        store.commit([incident()])
        await until(lambda: store.outbox.counts() == {"failed": 1})
        (row,) = store._database.rows("SELECT error, attempts FROM outbox")

    assert "invalid_auth" in str(row["error"])
    assert row["attempts"] == 1
    assert dispatcher.failed == 1
    assert letters(slack) == []


async def test_after_a_day_a_message_is_given_up(tmp_path: Path, slack: LoopbackSlack) -> None:
    slack.fail_next(*[Fault("error", "some_new_error")] * 1000)
    in_a_moment = Backoff(first=0.01, longest=0.05, give_up=0.5)
    async with sending(tmp_path, slack, backoff=in_a_moment) as (store, _):
        store.commit([incident()])
        await until(lambda: store.outbox.counts() == {"failed": 1})
        (row,) = store._database.rows("SELECT error FROM outbox")

    assert "some_new_error" in str(row["error"])
    assert slack.messages == []


def test_the_time_between_attempts_doubles_up_to_a_bound() -> None:
    bounds = [Backoff().bound(attempts) for attempts in range(1, 12)]

    assert bounds == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 900.0, 900.0]
    assert Backoff().bound(10_000) == 900.0
    assert Backoff().pause(10_000) == 60.0


@pytest.mark.parametrize(
    ("fault", "arrived_before"), [("drop", 0), ("drop_after", 1)], ids=["before", "after"]
)
async def test_a_kill_between_claim_and_answer_neither_loses_nor_doubles(
    tmp_path: Path, slack: LoopbackSlack, fault: str, arrived_before: int
) -> None:
    slack.fail_next(msgspec.convert({"kind": fault, "seconds": 60}, Fault))
    job = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("sending_job.py")),
        str(tmp_path),
        slack.url,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        await until(lambda: slack.requests == ["chat.postMessage"])
        await until(lambda: len(letters(slack)) == arrived_before)
        job.send_signal(signal.SIGKILL)
    finally:
        with suppress(ProcessLookupError):
            job.kill()
        await job.wait()

    async with sending(tmp_path, slack) as (store, _):
        await until(lambda: store.outbox.counts() == {"sent": 1})
        (row,) = store._database.rows("SELECT ts, attempts FROM outbox")
    (message,) = letters(slack)
    assert row == {"ts": message.ts, "attempts": 2}
    assert "conversations.history" in slack.requests


async def test_what_cannot_be_looked_up_is_sent_again_with_the_same_id(
    tmp_path: Path, slack: LoopbackSlack
) -> None:
    blind = Fault("error", "missing_scope")
    slack.fail_next(Fault("drop_after"), blind, blind)  # the second asks whether it is well
    async with sending(tmp_path, slack) as (store, _):
        store.commit([incident()])
        await until(lambda: store.outbox.counts() == {"sent": 1})

    first, second = letters(slack)
    assert first.metadata == second.metadata


async def test_cancelling_in_the_middle_leaves_the_message_doubtful(
    tmp_path: Path, slack: LoopbackSlack
) -> None:
    slack.fail_next(Fault("drop_after", seconds=60))
    async with sending(tmp_path, slack) as (store, _):
        store.commit([incident()])
        await until(lambda: len(letters(slack)) == 1)

    async with sending(tmp_path, slack) as (store, _):
        await until(lambda: store.outbox.counts() == {"sent": 1})
    assert len(letters(slack)) == 1


async def test_a_hanging_slack_holds_up_nobody_who_writes(
    tmp_path: Path, slack: LoopbackSlack
) -> None:
    slack.fail_next(Fault("drop", seconds=60))
    async with sending(tmp_path, slack) as (store, dispatcher):
        store.commit([incident(id="a")])
        await until(lambda: slack.requests == ["chat.postMessage"])
        for n in range(20):
            store.commit([incident(id=str(n))])
        assert len(store.incidents()) == 21
        assert not await dispatcher.drained(0.05)
        await until(lambda: store.outbox.counts() == {"sent": 21})


class Broken:
    """A receiver with a fault of its own: the first delivery raises what no receiver may raise."""

    name = "slack"
    folds = True

    def __init__(self) -> None:
        self.letters: list[Letter] = []

    async def check(self) -> str:
        return "broken"

    async def deliver(self, letter: Letter) -> Posted:
        self.letters.append(letter)
        if len(self.letters) == 1:
            raise ZeroDivisionError
        return Posted("C1", "1.0")

    async def find(self, letter: Letter, since: float) -> Posted | None:
        return None

    async def refresh(self, letter: Letter) -> None:
        raise AssertionError("there is no later message")

    async def close(self) -> None:
        pass


async def test_a_fault_in_a_receiver_does_not_end_delivery(tmp_path: Path) -> None:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    receiver = Broken()
    task = asyncio.create_task(Dispatcher(store.outbox, receiver, backoff=QUICK).run())
    store.commit([incident()])
    await until(lambda: store.outbox.counts() == {"sent": 1})

    assert len(receiver.letters) == 2
    task.cancel()
    store.close()


def test_what_the_record_writes_is_what_a_message_is_made_of(tmp_path: Path) -> None:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    (action,) = store.commit([incident(), alert(value=float("inf")), pause()])
    store.update_action(action, "done", at=1001.0, step=41)
    opened = store.outbox.claim("slack", 2000.0)
    assert opened is not None
    store.outbox.sent(opened.event_id, "C1", "1.0")
    held = store.outbox.claim("slack", 2000.0)
    assert held is not None

    for row in (opened, held):
        as_written = msgspec.json.decode(row.payload)
        notice = read(row)
        assert set(as_written) == set(Notice.__struct_fields__) - {"pages"}  # the daemon's own word
        not_told = {"alerts", "actions", "silenced", "inhibited_by"}
        assert set(as_written["incident"]) - not_told == set(notice.incident.__struct_fields__)
        assert set(as_written["incident"]["cause"]) == set(notice.incident.cause.__struct_fields__)
        assert set(as_written["alerts"][0]) - {"value"} == set(notice.alerts[0].__struct_fields__)
        assert set(as_written["actions"][0]) == set(notice.actions[0].__struct_fields__)
    assert read(held).about == read(held).actions[0]
    store.close()


class Row:
    """A row that another version of this program might have left."""

    event_id = "e1"

    def __init__(self, payload: str) -> None:
        self.payload = payload


def test_a_message_of_another_version_is_read_as_far_as_it_goes() -> None:
    sparse = read(Row('{"at": 1.0, "incident": {"id": "i", "run": "r"}, "novelty": [1]}'))
    assert (sparse.incident.run, sparse.alerts, sparse.about) == ("r", (), None)

    with pytest.raises(SentinelError, match="e1 cannot be read"):
        read(Row('{"at": "then"}'))
