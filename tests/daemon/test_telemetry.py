"""What led up to an incident is read back from the recording as the ranks have told it."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from msgspec.structs import replace

from sentinel import wire
from sentinel.daemon.looking_back import Question, Spoken, Wanted, look_back
from sentinel.daemon.telemetry import RecordedTelemetry, question_about
from sentinel.engine.run import RunEngine
from sentinel.notify.notice import Cause, Leading, Notice
from sentinel.notify.telemetry import Measured
from sentinel.store.chunk import DAEMON
from sentinel.store.recording import Recording
from sentinel.store.store import Store
from tests.notify.notices import notice

NAN = math.nan
SERIES = (wire.Series("loss"), wire.Series("grad_norm"), wire.Series("layer_grad_norm", "h.0"))


def hello(rank: int, world: int, incarnation: str = "now") -> wire.Hello:
    return wire.Hello((1, 2), "gpt", rank, world, incarnation, "h", 1, "cpu", "t", 0, SERIES)


class Told:
    """A run as it was recorded: each rank's values at each step, a second apart."""

    def __init__(self, state: Path, ranks: int = 2) -> None:
        Store.open(state).close()
        self.state = state
        self.recording = Recording.open(state)
        self.engine = RunEngine("gpt", [])
        self.now = 1000.0
        self._sequence = 0
        self.say(*((rank, hello(rank, ranks)) for rank in range(ranks)))

    def say(self, *messages: tuple[int, wire.FromRank]) -> None:
        for rank, message in messages:
            self.recording.append("gpt", rank, self.now, wire.encode(message)[wire.HEADER :])
            self.engine.feed(rank, message, self.now)

    def step(self, step: int, *values: tuple[float | None, ...], partial: bool = False) -> None:
        """All ranks do a step; None is what was not measured."""
        self.now += 1.0
        for rank, own in enumerate(values):
            missing = sum(1 << at for at, value in enumerate(own) if value is None)
            packed = struct.pack(f"<{len(own)}d", *(value or 0.0 for value in own))
            self._sequence += 1
            bits = missing.to_bytes(1, "little")
            frame = wire.Frame(step, self._sequence, self.now, packed, bits, (), partial)
            self.say((rank, frame))
        if step % 10 == 0:
            self.recording.flush()

    def around(self, shown: Notice) -> Measured:
        self.recording.flush()
        return look_back(self.recording, question_about(shown, self.engine, self.state))


def at(step: int, signal: str = "loss", rank: int | None = None, opened: float = 0.0) -> Notice:
    shown = notice(run="gpt", cause=Cause("Rule", signal, step, rank))
    return replace(shown, opened_at=opened, leading=Leading(1.0, {}))


def healthy(told: Told, first: int = 1, last: int = 59) -> None:
    for step in range(first, last + 1):
        told.step(step, (2.0 + step % 3 / 10, 1.0, 9.0), (4.0, 1.0, 16.0))


def test_the_blamed_ranks_values_lie_beside_those_of_the_others(tmp_path: Path) -> None:
    told = Told(tmp_path, ranks=3)
    for step in range(1, 60):
        told.step(step, (2.0 + step % 3 / 10, 1.0, 9.0), (4.0, 1.0, 16.0), (5.0, 1.0, 0.0))
    told.step(60, (NAN, NAN, 0.0), (4.5, NAN, 0.0), (math.inf, NAN, 0.0))
    measured = told.around(at(60, rank=0))

    loss, norm = measured.courses
    assert (loss.signal, norm.signal, measured.rank, measured.others) == ("loss", "grad_norm", 0, 2)
    assert (loss.steps[-1], loss.odd) == (60, (60,))
    assert math.isnan(loss.values[-1])
    assert (loss.low[-1], loss.high[-1]) == (4.5, 4.5)
    assert (loss.low[-2], loss.high[-2]) == (4.0, 5.0)
    assert measured.normal is not None
    assert measured.normal.median == pytest.approx(2.1)
    assert (measured.normal.low, measured.normal.high) == pytest.approx((2.0, 2.2))
    assert measured.normal.count == 29


def test_where_nobody_is_blamed_ranks_are_put_together_as_the_catalog_says(tmp_path: Path) -> None:
    told = Told(tmp_path)
    healthy(told)
    loss, norm = told.around(at(59)).courses
    assert loss.values[-1] == pytest.approx((2.2 + 4.0) / 2)
    assert (loss.low[-1], loss.high[-1]) == pytest.approx((2.2, 4.0))
    assert norm.values[-1] == 1.0
    layer = at(59, "layer_grad_norm")
    layer = Notice(layer.at, layer.incident, leading=Leading(5.0, {"layer": "h.0"}))
    shown = told.around(layer).courses[0]
    assert (shown.label, shown.values[-1], shown.low) == ("h.0", 5.0, ())


def test_only_steps_near_the_incident_are_shown_and_long_ago_is_not_what_is_normal(
    tmp_path: Path,
) -> None:
    told = Told(tmp_path, ranks=1)
    for step in range(1, 901):
        told.step(step, (100.0 if step < 600 else 2.0, 1.0, 1.0))
    measured = told.around(at(850, rank=0))
    loss = measured.courses[0]
    assert (loss.steps[0], loss.steps[-1], loss.low) == (790, 900, ())
    assert measured.normal is not None
    assert (measured.normal.low, measured.normal.high, measured.normal.count) == (2.0, 2.0, 200)


def test_nothing_is_said_of_what_is_normal_where_little_is_known(tmp_path: Path) -> None:
    told = Told(tmp_path)
    healthy(told, 1, 5)
    measured = told.around(at(5, rank=0))
    assert measured.normal is None
    assert measured.courses[0].steps == (1, 2, 3, 4, 5)


def test_what_was_not_measured_is_left_out_and_is_not_zero(tmp_path: Path) -> None:
    told = Told(tmp_path)
    for step in range(1, 21):
        told.step(step, (None if step % 2 else 2.0, 1.0, None), (None, None, None))
    loss, norm = told.around(at(20, rank=0)).courses
    assert (loss.steps, set(loss.values)) == (tuple(range(2, 21, 2)), {2.0})
    assert set(norm.values) == {1.0}


def test_values_of_a_process_that_is_gone_are_not_mixed_with_those_of_the_next(
    tmp_path: Path,
) -> None:
    told = Told(tmp_path, ranks=1)
    for step in range(1, 31):
        told.step(step, (50.0, 1.0, 1.0))
    told.say((0, hello(0, 1, "later")))
    for step in range(20, 40):
        told.step(step, (2.0, 1.0, 1.0))
    loss = told.around(at(39, rank=0)).courses[0]
    assert (loss.steps[0], set(loss.values)) == (20, {2.0})


def test_after_a_rollback_the_steps_in_which_it_happened_are_the_ones_shown(tmp_path: Path) -> None:
    told = Told(tmp_path, ranks=1)
    for step in range(1, 41):
        told.step(step, (2.0, 1.0, 1.0))
    told.step(41, (NAN, 1.0, 1.0))
    opened = told.now
    for step in range(30, 60):
        told.step(step, (3.0, 1.0, 1.0))
    loss = told.around(at(41, rank=0, opened=opened)).courses[0]
    values = dict(zip(loss.steps, loss.values, strict=True))
    assert math.isnan(values[41])
    assert {values[step] for step in range(30, 41)} == {2.0}

    again = told.around(at(59, rank=0, opened=told.now)).courses[0]
    values = dict(zip(again.steps, again.values, strict=True))
    assert {values[step] for step in range(30, 60)} == {3.0}


@pytest.mark.parametrize(
    ("signal", "labels", "shown"),
    [
        ("stall", {"rank": "0"}, ["loss", "grad_norm"]),  # no rank tells how long its steps take
        ("layer_update_norm", {"layer": "h.0"}, ["loss", "grad_norm"]),
        ("layer_grad_norm", {"layer": "h.0"}, ["layer_grad_norm", "loss", "grad_norm"]),
        ("grad_norm", {}, ["grad_norm", "loss"]),
        ("what_a_later_version_knows", {}, ["loss", "grad_norm"]),
    ],
)
def test_what_leads_is_shown_and_what_everybody_looks_at(
    tmp_path: Path, signal: str, labels: dict[str, str], shown: list[str]
) -> None:
    told = Told(tmp_path)
    led = at(1, signal)
    led = Notice(led.at, led.incident, leading=Leading(1.0, labels))
    assert [one.signal for one in question_about(led, told.engine, tmp_path).wanted] == shown


async def test_it_is_read_by_a_process_of_its_own_after_all_was_written(tmp_path: Path) -> None:
    told = Told(tmp_path)
    healthy(told)

    async def flush() -> None:
        told.recording.flush()

    known = RecordedTelemetry(tmp_path, {"gpt": told.engine}.get, flush)
    measured = await known.around(at(59, rank=1))
    assert measured is not None
    assert measured == told.around(at(59, rank=1))
    assert measured.courses[0].steps[-1] == 59
    unknown = notice(run="another", cause=Cause("Rule", "loss", 1))
    assert await known.around(unknown) is None


async def test_a_recording_that_cannot_be_read_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "state")

    async def flush() -> None:
        told.recording.flush()

    lost = RecordedTelemetry(tmp_path / "nowhere", {"gpt": told.engine}.get, flush)
    assert await lost.around(at(1)) is None
    assert "sentinel.daemon.looking_back failed" in caplog.text


def test_what_the_daemon_records_of_itself_and_damaged_messages_are_passed_over(
    tmp_path: Path,
) -> None:
    told = Told(tmp_path, ranks=1)
    for step in range(1, 21):
        told.step(step, (2.0, 1.0, 1.0))
        told.recording.append("gpt", DAEMON, told.now, b"\x91\xa6ticked")
        told.recording.append("gpt", 0, told.now, b"\x98\xa5frame nonsense")
        told.recording.append("gpt", 0, told.now, None)
    told.recording.flush()
    question = Question(
        str(tmp_path), "gpt", 20, told.now, 0, (Wanted("loss"),), (Spoken(0, "now", (0,)),)
    )
    assert look_back(told.recording, question).courses[0].steps == tuple(range(1, 21))
