"""When Sentinel takes too much of a step, what is measured more rarely, and from when on."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sentinel
from sentinel import address, wire
from sentinel.engine.rulefile import load
from sentinel.engine.run import RunEngine
from sentinel.errors import AttachError
from sentinel_hooks.budget import CAP, FEW, NEGLIGIBLE, WINDOW, Budget, Decision, steps_ahead
from sentinel_hooks.economy import Economy, Notice
from sentinel_hooks.job import LocalBoard
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

ROOT = Path(__file__).resolve().parents[2]
SHARES = st.floats(0, 2)
COSTS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), SHARES, max_size=4)
INTERVALS = st.integers(1, CAP)


def _decide(
    fixed: float, spent: Mapping[str, float], every: Mapping[str, int], share: float = 0.01
) -> Decision | None:
    """What is decided where each step takes a second and costs always the same."""
    budget = Budget(share)
    for _ in range(WINDOW):
        budget.observe(1.0, fixed + sum(spent.values()), spent)
    return budget.decide(every)


@given(fixed=SHARES, spent=COSTS, data=st.data())
def test_a_decision_makes_rarer_only_and_until_it_is_enough(
    fixed: float, spent: dict[str, float], data: st.DataObject
) -> None:
    every = {probe: data.draw(INTERVALS) for probe in spent}
    took = fixed + sum(cost / every[probe] for probe, cost in spent.items())
    decision = _decide(fixed, spent, every)
    after = {**every, **(decision.every if decision else {})}
    assert all(every[probe] <= after[probe] <= CAP for probe in spent)
    if took <= 0.01 * (1 - 1e-9):
        assert decision is None
    own = sum(cost / after[probe] for probe, cost in spent.items())
    slack = 1 + 1e-9
    assert (
        fixed + own <= 0.01 * slack
        or own <= NEGLIGIBLE * 0.01 * slack
        or all(interval == CAP for interval in after.values())
    )


def test_the_dearest_over_its_interval_gives_way_first() -> None:
    decision = _decide(0.0, {"dear": 0.012, "cheap": 0.004}, {"dear": 1, "cheap": 1})
    assert decision is not None
    assert decision.every == {"dear": 2}
    assert decision.reason == "over the budget of 1%: took 1.6% of the step"
    decision = _decide(0.0, {"dear": 0.03, "cheap": 0.02}, {"dear": 8, "cheap": 1})
    assert decision is not None
    assert decision.every == {"cheap": 4}


def test_what_is_always_measured_leaves_nothing_to_decide() -> None:
    assert _decide(0.5, {}, {}) is None
    assert _decide(0.5, {"cheap": 0.0005}, {"cheap": 1}) is None


@given(
    quiet=st.floats(0, 0.009),
    hiccups=st.dictionaries(
        st.integers(0, WINDOW - 1), st.floats(0, 1e6), max_size=WINDOW // 2 - 1
    ),
)
def test_hiccups_decide_nothing(quiet: float, hiccups: dict[int, float]) -> None:
    for probe, core in ((1.0, 0.0), (0.0, 1.0)):
        budget = Budget(0.01)
        for step in range(WINDOW):
            seconds = hiccups.get(step, quiet)
            budget.observe(1.0, (probe + core) * seconds, {"probe": probe * seconds})
        assert budget.decide({"probe": 1}) is None


def test_nothing_is_decided_before_a_whole_window_nor_from_few_measurements() -> None:
    budget = Budget(0.01)
    for step in range(1, 2 * WINDOW + 1):
        spent = {"rare": 0.9} if step % 20 == 0 else {}
        budget.observe(1.0, sum(spent.values()), spent)
        decided = budget.decide({"rare": 20})
        assert (decided is not None) == (step == 2 * WINDOW), step
    assert FEW == 5


@pytest.mark.parametrize(
    ("seconds", "step", "ahead"), [(10.0, 30.0, 10), (10.0, 0.01, 1000), (10.0, 0.3, 34)]
)
def test_a_change_takes_effect_when_all_have_heard_of_it(
    seconds: float, step: float, ahead: int
) -> None:
    assert steps_ahead(seconds, step) == ahead


class Spender(Probe):
    """Puts its own count, and says that it took so long."""

    signals = ("host_memory_used_bytes",)

    def __init__(self, seconds: float, *, core: bool) -> None:
        self.name = "core" if core else "dear"
        self.core = core
        self._seconds = seconds

    def series(self) -> tuple[wire.Series, ...]:
        return (wire.Series("loss" if self.core else "host_memory_used_bytes"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first, self._barrier = first, barrier

    def read(self, sample: Sample) -> None:
        sample.put(self._first, 1.0)
        self._barrier.spent(self, self._seconds)


class Rank:
    """One rank's panel and its economy, driven by hand."""

    def __init__(self, rank: int, board: LocalBoard) -> None:
        probes = (Spender(0.05, core=True), Spender(0.9, core=False))
        self.panel = Panel(probes, torch.device("cpu"))
        self.panel.limit = 10.0  # s; nothing here is to be switched off
        self.panel.start(0)
        budget = Budget(0.01) if rank == 0 else None
        self.economy = Economy(self.panel, board, budget, interval=1e-9)
        self.measured: list[int] = []
        self.core: list[int] = []
        self.said: list[wire.Coverage] = []

    def step(self, step: int) -> None:
        self.economy.resumed()
        self.panel.read(step)
        for sample in self.panel.settled():
            self.core += [sample.step] * (not sample.is_missing(0))
            self.measured += [sample.step] * (not sample.is_missing(1))
        self.economy.reached(step)
        self.said += self.panel.changes()


def test_all_ranks_change_at_the_same_step_and_what_is_core_never_does() -> None:
    board = LocalBoard()
    ranks = [Rank(rank, board) for rank in range(3)]
    for step in range(1, 201):
        for rank in ranks:
            rank.step(step)
            if (step + id(rank) // 64) % 3 == 0:  # each looks when it likes
                rank.economy.refresh(step)
    first = ranks[0]
    assert [rank.said for rank in ranks] == [first.said] * 3
    (change,) = first.said
    assert change.signal == "host_memory_used_bytes"
    assert WINDOW + 10 <= change.step <= WINDOW + 14
    assert change.reason.startswith("over the budget of 1%: took ")
    expected = [n for n in range(1, 201) if n < change.step or n % change.every == 0]
    for rank in ranks:
        assert rank.measured == expected
        assert rank.core == list(range(1, 201))
        assert rank.panel.rescheduled == {change.signal: change}


def test_a_rank_that_reads_it_too_late_follows_at_once_and_says_from_when() -> None:
    board = LocalBoard()
    first, late = Rank(0, board), Rank(1, board)
    for step in range(1, 101):
        for rank in (first, late):
            rank.step(step)
        first.economy.refresh(step)
        if step == 90:
            late.economy.refresh(step)
    assert late.said[0].step == 92
    assert late.said[0].every == first.said[0].every > 1
    assert first.said[0].step < 92


def test_no_notice_makes_anything_more_frequent_or_touches_what_is_core() -> None:
    board = LocalBoard()
    rank = Rank(1, board)
    for number, every in ((1, 8), (2, 4)):
        notice = Notice(3, {"dear": every, "core": 50, "unknown": 7}, "because")
        board.publish(f"budget/{number}", msgspec.json.encode(notice).decode())
        rank.economy.refresh(1)
    for step in range(1, 18):
        rank.step(step)
    assert [(one.step, one.every) for one in rank.said] == [(3, 8)]
    assert rank.measured == [1, 2, 8, 16]


def test_a_probe_that_was_switched_off_is_not_said_to_be_measured_again() -> None:
    board = LocalBoard()
    rank = Rank(1, board)
    dear = rank.panel.probes[1]
    rank.panel.reschedule(dear, 4, "dear")
    rank.panel.retire(dear, "broke")
    assert rank.panel.rescheduled == {}
    notice = Notice(1, {"dear": 8}, "because")
    board.publish("budget/1", msgspec.json.encode(notice).decode())
    rank.economy.refresh(1)
    rank.step(1)
    assert [one.every for one in rank.said] == [4, 0]


def test_a_board_that_fails_or_lies_ends_neither_training_nor_the_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "")

    class Broken(LocalBoard):
        def look_up(self, name: str) -> str | None:
            raise RuntimeError("the store is gone")

    rank = Rank(1, Broken())
    rank.economy.refresh(1)
    board = LocalBoard()
    board.publish("budget/1", '{"step": 0}')
    misled = Rank(1, board)
    misled.economy.refresh(1)
    for step in range(1, 4):
        rank.step(step)
        misled.step(step)
    assert rank.measured == misled.measured == [1, 2, 3]
    assert len(caplog.records) == 2


def test_a_daemon_that_comes_later_is_told_of_every_interval_and_why(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = sentinel.attach(
        model=model, optimizer=optimizer, run="late", daemon=str(tmp_path / "none.sock")
    )
    panel = watch._adapter.panel
    (probe,) = [one for one in panel.probes if one.name == "host memory"]
    panel.reschedule(probe, 8, "dear")
    engine = RunEngine("late", [])
    for message in watch.greeting():
        engine.feed(0, message, 1.0)
    watch.detach()
    lines = {one.signal: one for one in engine.coverage().signals}
    line = lines["host_memory_used_bytes"]
    assert (line.state, line.every, line.reason) == ("sampled", 8, "dear")


@pytest.mark.parametrize("budget", [0.0, -1.0, 1.5, float("nan")])
def test_a_budget_that_is_no_share_is_refused(budget: float) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(AttachError, match=r"share of the step's time, such as 0\.01"):
        sentinel.attach(model=model, optimizer=torch.optim.SGD(model.parameters()), budget=budget)


class Listener:
    """The daemon's end of a job's connections: an engine that all messages go to."""

    def __init__(self, path: Path) -> None:
        self._listener = address.listen(path)
        self._rules = load(ROOT / "rules" / "default.yaml")
        self.engine = RunEngine("run", self._rules)
        self.received: dict[int, list[wire.FromRank]] = {}
        self._lines: dict[Any, tuple[wire.Splitter, list[int]]] = {}

    def listen(self, process: subprocess.Popen[str]) -> None:
        """Take in what comes until the job has ended and said it all."""
        deadline = time.monotonic() + 120
        while process.poll() is None or self._lines:
            assert time.monotonic() < deadline, "the job does not end"
            readable, _, _ = select.select([self._listener, *self._lines], [], [], 0.1)
            for one in readable:
                if one is self._listener:
                    line, _ = self._listener.accept()
                    self._lines[line] = (wire.Splitter(), [])
                else:
                    self._take(one)

    def _take(self, line: Any) -> None:
        data = line.recv(1 << 20)
        splitter, ranks = self._lines[line]
        for body in splitter.feed(data):
            message = wire.decode_from_rank(body)
            assert not isinstance(message, wire.Unknown)
            if isinstance(message, wire.Hello):
                ranks.append(message.rank)
                line.sendall(wire.encode(wire.Welcome(wire.VERSION, 0.1)))
            self.received.setdefault(ranks[0], []).append(message)
            self.engine.feed(ranks[0], message, time.monotonic())
        if not data:
            del self._lines[line]
            line.close()


def _frames(messages: list[wire.FromRank], signal: str) -> tuple[list[int], list[int]]:
    """All steps, and those at which a signal was measured."""
    hello = next(one for one in messages if isinstance(one, wire.Hello))
    at = next(index for index, one in enumerate(hello.series) if one.signal == signal)
    frames = [one for one in messages if isinstance(one, wire.Frame)]
    bits = [int.from_bytes(one.missing, "little") for one in frames]
    measured = [one.step for one, gone in zip(frames, bits, strict=True) if not gone >> at & 1]
    return [one.step for one in frames], measured


@pytest.mark.slow
def test_in_a_real_job_a_slow_probe_is_made_rarer_at_the_same_step_on_both_ranks(
    tmp_path: Path,
) -> None:
    listener = Listener(tmp_path / "sentinel.sock")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", "-m", "tests.hooks.scripts.dear_run", str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "SENTINEL_DAEMON": str(tmp_path / "sentinel.sock"),
            },
            stdout=log,
            stderr=log,
            text=True,
        )
        listener.listen(process)
    assert process.wait() == 0, (tmp_path / "log").read_text()[-4000:]

    said = {
        rank: [
            (one.step, one.every, one.reason)
            for one in messages
            if isinstance(one, wire.Coverage) and one.signal == "host_memory_used_bytes"
        ]
        for rank, messages in listener.received.items()
    }
    assert said[0] == said[1]
    assert said[0], "nothing was made rarer"
    schedule = {step: every for step, every, _ in said[0]}
    assert all("over the budget of 1%: took" in reason for _, _, reason in said[0])
    for messages in listener.received.values():
        steps, measured = _frames(messages, "host_memory_used_bytes")
        every = 1
        expected = []
        for step in steps:
            every = schedule.get(step, every)
            expected += [step] * (step % every == 0)
        assert measured == expected
        assert len(measured) < len(steps)
        steps, core = _frames(messages, "loss")
        assert core == steps == list(range(1, steps[-1] + 1))
        _, share = _frames(messages, "monitor_share")
        assert share == steps[1:]

    lines = [one for one in listener.engine.coverage().signals if one.ranks == "0-1"]
    (line,) = [one for one in lines if one.signal == "host_memory_used_bytes"]
    assert (line.state, line.every, line.reason) == ("sampled", said[0][-1][1], said[0][-1][2])
    for rank in (0, 1):
        losses = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert losses["watched"] == losses["plain"]
