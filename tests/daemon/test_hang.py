"""A hang as people are told of it: who is asked where it stands, and in how many messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sentinel import wire
from sentinel.notify.notice import Notice
from sentinel.store.outbox import to_all
from sentinel.store.store import Store
from tests.daemon.process import sentinel
from tests.daemon.test_run import NOW, Stage

LATER = NOW + 10_000.0
STOOD = "phase data, step 4 is done\nMainThread, which trains:\n" + "  data.py:8 read\n" * 20


@pytest.fixture
async def hung(tmp_path: Path) -> AsyncIterator[Stage]:
    """Rank 1 has not entered the collective in which rank 0 stands, and the daemon has noticed."""
    store = Store.open(tmp_path / "state", route=to_all(["slack"]))
    stage = Stage(store)
    for rank in (0, 1):
        stage.admit(rank)
    for second in range(1, 185):
        for rank in (0, 1):
            beat = wire.Heartbeat(4, "data", 0.0, collectives={"default:0-1": (9 - rank, 8)})
            stage.run.hear(rank, beat, NOW + second)
        stage.run.tick(NOW + second)
    await stage.ledger.call(lambda: None)
    yield stage
    await stage.ledger.close()
    store.close()


async def answer(stage: Stage, now: float = NOW + 185) -> None:
    """Both ranks say where they stand."""
    for rank, line in enumerate(stage.lines):
        (request,) = [one for one in line.sent if isinstance(one, wire.StackRequest)]
        stage.run.hear(rank, wire.Stack(request.incident, f"{rank}.py:1 f", STOOD), now)
    await stage.ledger.call(lambda: None)


def messages(stage: Stage) -> list[tuple[str, list[str]]]:
    """What is owed now: the kind of each message, and what its evidence says."""
    told = []
    while (one := stage.store.outbox.claim("slack", LATER)) is not None:
        notice = msgspec.json.decode(one.payload, type=Notice)
        told.append((one.kind, [piece.title for piece in notice.incident.evidence]))
        stage.store.outbox.sent(one.event_id, "C", str(len(told)))
    return told


BOTH = ["rank 1 stands in 1.py:1 f", "rank 0 waits in 0.py:1 f"]


async def test_answers_that_come_at_once_are_in_the_first_message(hung: Stage) -> None:
    await answer(hung)
    assert messages(hung) == [("opened", BOTH)]


async def test_answers_that_come_later_are_one_message_in_its_thread(hung: Stage) -> None:
    assert messages(hung) == [("opened", [])]
    await answer(hung)
    assert messages(hung) == [("updated", BOTH)]


async def test_who_does_not_answer_is_told_of_in_one_message_with_the_other(hung: Stage) -> None:
    assert messages(hung) == [("opened", [])]
    (request,) = [one for one in hung.lines[0].sent if isinstance(one, wire.StackRequest)]
    hung.run.hear(0, wire.Stack(request.incident, "0.py:1 f", STOOD), NOW + 185)
    for second in range(185, 200):
        hung.run.tick(NOW + second)
    await hung.ledger.call(lambda: None)
    ((kind, (silent, other)),) = messages(hung)
    assert (kind, other) == ("updated", BOTH[1])
    assert silent.startswith("rank 1 does not answer")


async def test_a_person_sees_the_innermost_frames_and_json_has_all_of_them(hung: Stage) -> None:
    await answer(hung)
    state = hung.store.state_dir
    shown = await asyncio.to_thread(sentinel, "incidents", "--state", state)
    assert "  stack: rank 1 stands in 1.py:1 f\n    phase data, step 4 is done\n" in shown.stdout
    assert shown.stdout.count("      data.py:8 read\n") == 16
    assert shown.stdout.count("    ... and 12 more lines (--json)\n") == 2
    (incident,) = hung.store.incidents("run")
    assert [(one["rank"], one["text"]) for one in incident["evidence"]] == [(1, STOOD), (0, STOOD)]
