"""The record of a live run, replayed, gives the very transitions that were live."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentinel.control import outcome as control
from sentinel.engine.transition import Transition
from sentinel.replay.messages import replay_messages
from sentinel.replay.recorded import moments
from sentinel.store import Recording
from sentinel.wire import (
    Checkpoint,
    Coverage,
    Extension,
    FromRank,
    Goodbye,
    Heartbeat,
    Report,
    Series,
    Stack,
)
from tests.engine import world
from tests.engine.world import default_rules, seconds, steps
from tests.replay.live import LiveDaemon

NAMES = ["loss", "grad_norm", "nonfinite_activation", "nonfinite_update", "skipped"]
RANKS = 3
RULES = [
    *default_rules(),
    world.rule("robust_z(loss, window=8) > 3 and loss > mean(loss[3])", "Z", keeps=steps(3)),
    world.rule("by_rank(loss) > 1.5 * loss", "Out", holds=seconds(0.3), keeps=seconds(0.5)),
    world.rule("by_rank(silence) > 3", "Quiet", keeps=seconds(2), actions=("pause",)),
    world.rule("by_rank(stall) > 4", "Stuck", holds=seconds(1.5)),
    world.rule("missing(loss)", "NoLoss", holds=steps(2)),
]
KINDS = (
    ["step"] * 12
    + ["frame"] * 6
    + ["tick"] * 6
    + ["heartbeat"] * 3
    + ["partial", "alarm", "late", "lose", "rewind", "coverage", "extension", "saved"]
    + ["stack", "waits"]
    + ["cut", "hello", "restart", "goodbye", "report", "daemon", "other job", "all done", "ended"]
)
OPERATIONS = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, RANKS - 1),
    st.sampled_from([1.0, 1.0, 1.0, 2.0, 9.0, math.nan, math.inf, None]),
    st.sampled_from([0.0, 0.01, 0.1, 0.37, 1.0, 1.5, 4.0, 16.0, 40.0]),  # s later
)
Operation = tuple[str, int, float | None, float]


class Course:
    """Ranks that do what was drawn, to a live daemon."""

    def __init__(self, daemon: LiveDaemon) -> None:
        self.daemon = daemon
        self.now = 1000.0
        self.life = 0
        self.pid = 100
        self.at = [0] * RANKS
        self.sequence = [0] * RANKS
        self.serial = 0
        self.names = {rank: list(NAMES) for rank in range(RANKS)}
        daemon.start(self.now)
        self.all_hello()

    def do(self, operation: Operation) -> None:
        kind, rank, value, pause = operation
        self.now += pause
        say: dict[str, FromRank] = {
            "heartbeat": Heartbeat(self.at[rank], "held" if pause > 10 else "forward", self.now),
            "alarm": Heartbeat(
                self.at[rank], "forward", self.now, alarms={"nonfinite_activation": 1.0}
            ),
            "coverage": Coverage(self.at[rank], "loss", "too dear", 0 if value is None else 2),
            "saved": self._saved(),
            "goodbye": Goodbye("exception" if value is None else "finished", "ValueError"),
            "report": self._report(value),
            "stack": Stack(self.daemon.incident, "data.py:8 read", "MainThread"),
            "waits": Heartbeat(
                self.at[rank], "backward", self.now, collectives={"all:0-2": (6 + (rank > 0), 6)}
            ),
        }
        if kind in say:
            self.daemon.says(rank, say[kind], self.now)
        elif kind in ("frame", "late", "lose", "rewind", "partial"):
            self._frame(kind, rank, value)
        elif kind == "step":
            for each in range(RANKS):
                self._frame("frame", each, value if each == rank else 1.0)
        elif kind == "tick":
            self.daemon.tick(self.now)
        elif kind == "extension":
            self._extend(rank)
        elif kind == "cut":
            self.daemon.cut(rank, self.now)
        elif kind == "hello":
            self.hello(rank)
        else:
            self._all(kind, pause)

    def _all(self, kind: str, pause: float) -> None:
        """What happens to the whole job, or to the daemon."""
        if kind == "daemon":
            self.daemon.stop(self.now)
            self.now += pause
            self.daemon.start(self.now)
            self.pid += 1000 * (pause > 10)  # then it is another job
        elif kind == "all done":
            for rank in range(RANKS):
                self.daemon.says(rank, Goodbye("finished"), self.now)
                self.daemon.cut(rank, self.now)
        elif kind == "ended":
            self.daemon.launcher_ended(self.now, well=pause > 1.0)
        if kind in ("restart", "other job"):
            self.life += 1
            self.at = [max(0, at - 3) for at in self.at]
            self.sequence = [0] * RANKS
            self.names = {rank: list(NAMES) for rank in range(RANKS)}
        if kind == "other job":
            self.pid += 1000
        self.all_hello()

    def all_hello(self) -> None:
        for rank in range(RANKS):
            self.hello(rank)

    def hello(self, rank: int) -> None:
        hello = world.hello(
            rank, RANKS, self.names[rank], incarnation=str(self.life), step=self.at[rank]
        )
        self.daemon.hello(msgspec.structs.replace(hello, pid=self.pid + rank), self.now)

    def _frame(self, kind: str, rank: int, value: float | None) -> None:
        if kind == "rewind":
            self.at[rank] = max(0, self.at[rank] - 4)
        self.sequence[rank] += {"lose": 3, "late": 0}.get(kind, 1)
        self.at[rank] += kind not in ("late", "partial")
        bad = value is not None and not math.isfinite(value)
        measured: Mapping[str, float] = {
            "grad_norm": 1.0,
            "nonfinite_activation": float(bad),
            "nonfinite_update": float(bad and rank == 1),
            "skipped": float(bad and rank == 2),
            **({} if value is None else {"loss": value}),
        }
        frame = world.frame(
            max(1, self.at[rank]),
            self.sequence[rank],
            self.names[rank],
            measured,
            {"nonfinite_activation": "layers.1"} if bad else None,
        )
        if kind == "partial":
            frame = msgspec.structs.replace(frame, step=self.at[rank] + 1, partial=True)
        self.daemon.says(rank, frame, self.now)

    def _extend(self, rank: int) -> None:
        if "lr" not in self.names[rank]:
            self.names[rank].append("lr")
            self.daemon.says(rank, Extension((Series("lr"),)), self.now)

    def _saved(self) -> Checkpoint:
        step = max(self.at)
        return Checkpoint(step, f"step{step}", "/checkpoints", 1.0, present=(f"step{step}",))

    def _report(self, value: float | None) -> Report:
        """What the ranks agreed on, or nonsense."""
        if value is None:
            return Report(b"nonsense")
        self.serial += 1
        phase: control.Phase = "resumed" if value == 1.0 else "held"
        told = control.Outcome(self.serial, self.serial, phase, max(self.at), 1, "user root")
        return Report(control.encode(told))


def lived(state_dir: Path, operations: list[Operation]) -> list[Transition]:
    """What a daemon told of a run like this while it lived."""
    daemon = LiveDaemon(state_dir, RULES)
    course = Course(daemon)
    for operation in operations:
        course.do(operation)
    daemon.stop(course.now)
    return daemon.told


def replayed(state_dir: Path) -> list[Transition]:
    """The same, of the record that it left."""
    recording = Recording.open(state_dir, readonly=True)
    try:
        return list(replay_messages("run", moments(recording, "run"), RULES))
    finally:
        recording.close()


HELD_AND_RESUMED: list[Operation] = [
    *[("step", 0, 1.0, 0.1)] * 3,
    ("step", 1, math.nan, 0.1),
    ("report", 0, 2.0, 0.1),
    ("report", 0, 1.0, 1.0),
    ("step", 0, 1.0, 0.1),
    ("step", 1, math.nan, 0.1),
    ("daemon", 0, 1.0, 1.0),
    *[("step", 0, 1.0, 0.1)] * 12,
]
SILENT_BETWEEN_TICKS: list[Operation] = [
    *[("step", 0, 1.0, 0.1)] * 3,
    ("tick", 0, 1.0, 1.5),
    ("heartbeat", 0, 1.0, 1.7),
    ("tick", 0, 1.0, 1.0),
    ("heartbeat", 1, 1.0, 0.5),
    ("tick", 0, 1.0, 1.0),
    ("ended", 0, 1.0, 4.0),
    ("step", 0, 1.0, 1.0),
    ("daemon", 0, 1.0, 40.0),
]


WAITING = (("waits", 0), ("waits", 1), ("waits", 2), ("tick", 0))
HUNG: list[Operation] = [
    ("step", 0, 1.0, 0.1),
    *[(kind, rank, 1.0, 0.3) for _ in range(12) for kind, rank in WAITING],
    ("stack", 0, 1.0, 0.1),
    *[("tick", 0, 1.0, 4.0)] * 3,  # rank 1 has not answered by then
    ("stack", 1, 1.0, 0.1),
    ("daemon", 0, 1.0, 1.0),
    *[(kind, rank, 1.0, 0.3) for _ in range(12) for kind, rank in WAITING],
]


@example(HELD_AND_RESUMED)
@example(HUNG)
@example(SILENT_BETWEEN_TICKS)
@settings(max_examples=20, deadline=None)
@given(st.lists(OPERATIONS, min_size=15, max_size=40))
def test_the_record_of_a_live_run_replays_to_the_same_transitions(
    operations: list[Operation],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        live = lived(Path(name), operations)
        again = replayed(Path(name))
    assert list(map(repr, again)) == list(map(repr, live))  # repr, since NaN is not NaN
