"""One run inside the daemon, with the time as the test has it and no process around it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sentinel import clock, wire
from sentinel.control import outcome as control
from sentinel.daemon.counts import Counts
from sentinel.daemon.ledger import Ledger
from sentinel.daemon.news import News, StateNews
from sentinel.daemon.orders import Desk, Request
from sentinel.daemon.run import GRACE, Run
from sentinel.engine import rulefile
from sentinel.engine.run import RunEngine
from sentinel.errors import ControlError, WireError
from sentinel.store.store import Store
from tests.daemon.fake_job import FakeRank, Register

NOW = 1000.0
NOWHERE = FakeRank(None, Register())  # type: ignore[arg-type]


class Line:
    """A connection that remembers."""

    def __init__(self) -> None:
        self.sent: list[wire.FromDaemon] = []
        self.refused = ""

    def send(self, message: wire.FromDaemon) -> None:
        self.sent.append(message)

    def refuse(self, reason: str, *, final: bool = False) -> None:
        self.refused = reason


class Stage:
    """A run of two ranks, and what it has told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.news: list[News] = []
        self.recorded: list[tuple[int, bytes | None]] = []
        counts = Counts()
        self.ledger = Ledger(store, counts)
        desk = Desk(self.ledger, counts, self.news.append, self._record)
        rules = rulefile.load(rulefile.resolve_pack("default"))
        self.run = Run("run", RunEngine("run", rules), desk, NOW)
        self.lines = [Line(), Line()]

    def _record(self, run: str, rank: int, now: float, body: bytes | None) -> None:
        self.recorded.append((rank, body))

    def admit(self, rank: int, now: float = NOW, **changes: object) -> None:
        hello = msgspec.structs.replace(
            NOWHERE.hello(), rank=rank, world_size=2, **{"incarnation": f"first {rank}", **changes}
        )
        self.run.admit(hello, self.lines[rank], now)

    def report(self, serial: int, phase: control.Phase, step: int = 10) -> None:
        told = control.Outcome(serial, 1, phase, step, 1, "user root")
        self.run.hear(0, wire.Report(control.encode(told)), NOW)

    def cut(self) -> list[int]:
        """The ranks whose connections are on record as ended."""
        return [rank for rank, body in self.recorded if body is None]

    def state(self) -> str:
        return self.run.state

    def states(self) -> list[str]:
        return [news.after for news in self.news if isinstance(news, StateNews)]

    async def actions(self) -> list[tuple[str, str, int]]:
        await self.ledger.call(lambda: None)
        return [(row.action, row.state, row.step) for row in self.store.actions("run")]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = Store.open(tmp_path / "state")
    stage = Stage(store)
    yield stage
    await stage.ledger.close()
    store.close()


async def test_a_run_whose_ranks_are_gone_without_a_word_is_lost_after_a_grace(
    stage: Stage,
) -> None:
    for rank in (0, 1):
        stage.admit(rank)
    for rank in (0, 1):
        stage.run.left(rank, stage.lines[rank], NOW + 1)
    stage.run.tick(NOW + 1 + GRACE)
    assert stage.state() == "running"
    stage.run.tick(NOW + 1.1 + GRACE)
    assert stage.state() == "lost"
    assert stage.run.ended == NOW + 1.1 + GRACE
    assert stage.cut() == [0, 1]
    assert stage.states() == ["running", "lost"]


async def test_a_run_is_not_lost_while_one_rank_is_there(stage: Stage) -> None:
    for rank in (0, 1):
        stage.admit(rank)
    stage.run.left(1, stage.lines[1], NOW)
    stage.run.tick(NOW + 100 * GRACE)
    assert stage.state() == "running"


async def test_ranks_that_come_back_after_all_are_believed_anew(stage: Stage) -> None:
    for rank in (0, 1):
        stage.admit(rank)
    stage.report(1, "hold")
    stage.report(2, "held")
    assert stage.state() == "held"
    for rank in (0, 1):
        stage.run.left(rank, stage.lines[rank], NOW)
    stage.run.tick(NOW + 2 * GRACE)
    assert (stage.state(), stage.run.hold()) == ("lost", None)
    stage.admit(0, NOW + 3 * GRACE)
    assert (stage.state(), stage.run.ended) == ("running", None)
    stage.report(2, "held")
    assert stage.state() == "held"
    assert await stage.actions() == [("pause", "done", 10)]


async def test_a_run_is_finished_only_when_all_its_ranks_have_said_so(stage: Stage) -> None:
    stage.admit(0)
    stage.run.hear(0, wire.Goodbye("finished"), NOW)
    stage.run.left(0, stage.lines[0], NOW)
    assert stage.state() == "running"  # rank 1 is still to come
    stage.admit(1)
    stage.run.hear(1, wire.Goodbye("detached"), NOW)
    assert stage.state() == "finished"


async def test_a_goodbye_for_an_exception_is_no_good_end(stage: Stage) -> None:
    for rank in (0, 1):
        stage.admit(rank)
        stage.run.hear(rank, wire.Goodbye("exception", "ValueError"), NOW)
        stage.run.left(rank, stage.lines[rank], NOW)
    stage.run.tick(NOW + GRACE + 1)
    assert stage.state() == "lost"


async def test_a_rank_that_connects_late_is_told_of_the_order_that_is_pending(
    stage: Stage,
) -> None:
    stage.admit(0)
    await stage.run.orders.ask(Request("pause", "user root"), None)
    (order,) = stage.lines[0].sent
    stage.admit(1)
    stage.run.greet(stage.lines[1])
    assert stage.lines[1].sent == [order]


async def test_an_order_is_on_the_record_before_it_is_sent(stage: Stage) -> None:
    stage.admit(0)
    seen: list[int] = []
    sent = stage.lines[0].send

    def look(message: wire.FromDaemon) -> None:
        seen.append(len(stage.store.actions("run")))
        sent(message)

    stage.lines[0].send = look  # type: ignore[method-assign]
    await stage.run.orders.ask(Request("pause", "user root"), None)
    assert seen == [1]


async def test_an_order_that_lapses_is_on_the_record(stage: Stage) -> None:
    for rank in (0, 1):
        stage.admit(rank)
    await stage.run.orders.ask(Request("pause", "user root"), None)
    stage.run.end(clock.steady(), well=False)
    assert await stage.actions() == [("pause", "lapsed", 1)]
    assert [line.refused for line in stage.lines] == ["the launcher of this run has ended"] * 2


async def test_a_lease_is_the_shortest_of_all_ranks(stage: Stage) -> None:
    stage.admit(0, lease_limit=50.0)
    stage.admit(1, lease_limit=7.5)
    await stage.run.orders.ask(Request("pause", "user root"), None)
    (order,) = stage.lines[0].sent
    assert isinstance(order, wire.HoldOrder)
    assert order.lease == 7.5


async def test_remedies_are_offered_only_if_every_rank_offers_them(stage: Stage) -> None:
    stage.admit(0, offers=("scale_lr", "skip_batches"))
    stage.admit(1, offers=("scale_lr",))
    stage.report(1, "hold")
    stage.report(2, "held")
    for rank in (0, 1):
        stage.run.hear(rank, wire.Standing(1, 10), NOW)
    skipping = Request("resume", "user root", wire.Remedies(skip_batches=3))
    with pytest.raises(ControlError, match="offers scale_lr"):
        await stage.run.orders.ask(skipping, None)
    await stage.run.orders.ask(Request("resume", "user root", wire.Remedies(lr_scale=0.5)), None)
    assert [type(message) for message in stage.lines[1].sent] == [wire.ResumeOrder]


async def test_a_connection_that_was_replaced_is_not_missed(stage: Stage) -> None:
    stage.admit(0)
    old, stage.lines[0] = stage.lines[0], Line()
    stage.admit(0)
    assert "another connection" in old.refused
    stage.run.left(0, old, NOW)
    assert stage.run.connected == {0}
    assert stage.cut() == []


async def test_a_rank_outside_of_the_world_is_not_taken_in(stage: Stage) -> None:
    with pytest.raises(WireError, match="no rank 5 among 2"):
        stage.run.check(msgspec.structs.replace(NOWHERE.hello(), rank=5, world_size=2))


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("exception", [("RankFailed", "1")]),
        (None, [("RankSilent", "1"), ("RankFailed", "0")]),
    ],
)
async def test_those_whom_the_launcher_takes_down_after_a_failure_are_not_called_lost(
    stage: Stage, first: str | None, expected: list[tuple[str, str]]
) -> None:
    for rank in (0, 1):
        stage.admit(rank)
    if first is not None:
        stage.run.hear(1, wire.Goodbye(first, "ValueError"), NOW)
    stage.run.left(1, stage.lines[1], NOW)
    if first is None:
        stage.run.hear(0, wire.Goodbye("exception", "connection closed"), NOW + 1)
    stage.run.left(0, stage.lines[0], NOW + 1)
    stage.run.end(NOW + 2, well=False)
    await stage.ledger.call(lambda: None)
    (incident,) = stage.store.incidents("run")
    assert [(one["rule"], one["labels"]["rank"]) for one in incident["alerts"]] == expected
    assert incident["cause"]["rank"] == 1


async def test_every_skipped_step_counts_though_several_are_judged_at_once(stage: Stage) -> None:
    for rank in (0, 1):
        stage.admit(rank, series=(wire.Series("skipped"),))
    for step, skipped in enumerate((1.0, 0.0, 1.0, 1.0), 1):
        frame = wire.Frame(step, step, 0.0, struct.pack("<d", skipped))
        stage.run.hear(0, frame, NOW)
    assert (stage.run.engine.step, stage.run.engine.skipped) == (0, 0)
    for second in range(60):  # the other rank says nothing, and is waited for no longer
        stage.run.tick(NOW + second)
    assert (stage.run.engine.step, stage.run.engine.skipped) == (4, 3)
