"""The fault barrier around the probes, and the samples that pass it."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sentinel.wire import Coverage, Finding, Series
from sentinel_hooks.probes.fence import Fence
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

CPU = torch.device("cpu")


class Steady(Probe):
    """Reports the number of steps it has read."""

    name = "steady"
    signals = ("loss",)

    def __init__(self) -> None:
        self.count = 0
        self.first = 0

    def series(self) -> Sequence[Series]:
        return (Series("loss"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self.first = first

    def read(self, sample: Sample) -> None:
        self.count += 1
        sample.put(self.first, float(self.count))


class Faulty(Probe):
    """Does as it is told at a given event of a given step."""

    name = "faulty"
    signals = ("lr", "grad_norm")

    def __init__(self, event: str, at: int = 2, seconds: float = 0.0) -> None:
        self.event = event
        self.at = at
        self.seconds = seconds
        self.first = 0
        self.calls: dict[str, int] = {}
        self.detached = 0

    def act(self, event: str) -> None:
        self.calls[event] = self.calls.get(event, 0) + 1
        if event == self.event and self.calls[event] == self.at:
            if self.seconds:
                time.sleep(self.seconds)
            else:
                raise RuntimeError("broken on purpose")

    def series(self) -> Sequence[Series]:
        self.act("series")
        return (Series("lr"), Series("grad_norm"))

    def missing(self) -> Mapping[str, str]:
        return {"overflow": "not here"}

    def start(self, first: int, barrier: Barrier) -> None:
        self.first = first
        self.act("start")

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        self.act("forward_began")

    def optimizer_ended(self, outcome: Outcome) -> None:
        self.act("optimizer_ended")

    def read(self, sample: Sample) -> None:
        sample.put(self.first, 1.0)
        self.act("read")
        sample.put(self.first + 1, 2.0)

    def detach(self) -> None:
        self.detached += 1
        self.act("detach")


def drive(panel: Panel, steps: int) -> list[Sample]:
    samples = []
    for step in range(1, steps + 1):
        panel.forward_began((), {}, True)
        panel.optimizer_ended(Outcome(step))
        panel.read(step)
        samples += panel.settled()
        panel.resumed()
    return samples


@pytest.fixture(autouse=True)
def _as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENTINEL_RAISE", raising=False)


@pytest.mark.parametrize("event", ["forward_began", "optimizer_ended", "read"])
def test_a_probe_that_raises_is_off_from_that_step_and_the_others_go_on(event: str) -> None:
    faulty = Faulty(event)
    panel = Panel([faulty, Steady()], CPU)
    panel.start(0)
    samples = drive(panel, 4)
    assert [sample.is_missing(0) for sample in samples] == [False, True, True, True]
    assert [sample.is_missing(1) for sample in samples] == [False, True, True, True]
    assert [sample.values[2] for sample in samples] == [1, 2, 3, 4]
    assert faulty.calls[event] == 2
    assert faulty.detached == 1
    reason = "RuntimeError: broken on purpose"
    lost = [(one.step, one.signal, one.reason) for one in panel.changes()]
    assert lost == [(2, "grad_norm", reason), (2, "lr", reason)]
    assert panel.changes() == []
    assert panel.missing == {"overflow": "not here", "lr": reason, "grad_norm": reason}
    assert len(panel.series) == 3


def test_a_probe_that_cannot_say_what_it_measures_is_missing_from_the_start() -> None:
    panel = Panel([Faulty("series", at=1), Steady()], CPU)
    assert [one.signal for one in panel.series] == ["loss"]
    assert set(panel.missing) == {"lr", "grad_norm"}
    panel.start(0)
    assert drive(panel, 1)[0].values[0] == 1


def test_a_probe_that_fails_to_start_or_to_detach_hurts_nobody() -> None:
    for event in ("start", "detach"):
        faulty = Faulty(event, at=1)
        panel = Panel([faulty, Steady()], CPU)
        panel.start(7)
        assert drive(panel, 1)[0].values[2] == 1
        panel.detach()
        assert faulty.detached == 1


def test_a_probe_that_takes_too_long_once_is_switched_off() -> None:
    slow = Faulty("optimizer_ended", seconds=0.02)
    panel = Panel([slow, Steady()], CPU)
    panel.limit = 0.01
    panel.start(0)
    samples = drive(panel, 3)
    assert [sample.is_missing(0) for sample in samples][1:] == [True, True]
    assert any("in one call" in one.reason for one in panel.changes())


def test_faults_are_raised_in_our_own_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    panel = Panel([Faulty("read", at=1)], CPU)
    panel.start(0)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        panel.read(1)


def test_the_fence_speaks_once_and_lets_an_exit_pass(caplog: pytest.LogCaptureFixture) -> None:
    fence = Fence()

    def fail() -> None:
        raise ValueError("x")

    for _ in range(3):
        fence.run("something", fail)
    assert len(caplog.records) == 1

    def leave() -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        fence.run("something", leave)


def test_our_own_time_is_counted_and_taken_once() -> None:
    panel = Panel([Steady()], CPU)
    panel.start(0)
    drive(panel, 2)
    assert panel.cost.take() > 0
    assert panel.cost.take() == 0


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=40))
def test_a_sample_carries_every_value_and_says_what_is_missing(
    values: list[float | None],
) -> None:
    sample = Sample(3, len(values), 0.0)
    for index, value in enumerate(values):
        if value is not None:
            sample.put(index, value)
    packed = struct.unpack(f"<{len(values)}d", sample.value_bytes())
    bitmap = sample.missing_bytes()
    for index, value in enumerate(values):
        missing = bool(bitmap and bitmap[index // 8] >> index % 8 & 1)
        assert missing == (value is None) == sample.is_missing(index)
        if value is not None:
            assert packed[index] == value or math.isnan(value)
    assert (bitmap == b"") == (None not in values)


def test_what_was_put_can_be_taken_back() -> None:
    sample = Sample(1, 2, 0.0)
    sample.put(0, 1.0)
    sample.put(1, 2.0)
    sample.put_missing(0)
    assert sample.is_missing(0)
    assert not sample.is_missing(1)


def test_findings_of_the_forward_come_first_and_no_more_are_kept_than_a_frame_holds() -> None:
    sample = Sample(1, 0, 0.0)
    for place in range(20):
        sample.find(Finding("nonfinite_gradient", str(place)))
    assert len(sample.findings) == 16
    sample = Sample(1, 0, 0.0)
    sample.find(Finding("nonfinite_gradient", "head"))
    sample.find(Finding("nonfinite_activation", "body"))
    assert [one.module for one in sample.findings] == ["body", "head"]


class Slow:
    """A device whose values arrive when the test says so."""

    def __init__(self) -> None:
        self.arrived = 0
        self.submitted: list[Copy] = []

    def submit(self, tensors: Sequence[Tensor]) -> Copy:
        copy = Copy(self, len(self.submitted) + 1, [tensor.clone() for tensor in tensors])
        self.submitted.append(copy)
        return copy


class Copy:
    def __init__(self, device: Slow, number: int, tensors: list[Tensor]) -> None:
        self.device = device
        self.number = number
        self.tensors = tensors

    def ready(self) -> bool:
        return self.device.arrived >= self.number

    def wait(self) -> None:
        self.device.arrived = max(self.device.arrived, self.number)

    def values(self) -> list[list[float]]:
        assert self.ready()
        return [tensor.tolist() for tensor in self.tensors]


class OnDevice(Steady):
    """Its value is the step, and has to be waited for."""

    def read(self, sample: Sample) -> None:
        def fill(values: list[float]) -> None:
            if values[0] == self.count:
                raise ZeroDivisionError("bad luck")
            sample.put(self.first, values[0])

        sample.later(torch.tensor([float(sample.step)]), fill)


def test_samples_wait_for_the_device_and_come_out_in_order() -> None:
    device = Slow()
    panel = Panel([OnDevice()], CPU, readback=device)
    panel.start(0)
    assert drive(panel, 3) == []
    device.arrived = 2
    assert [(sample.step, sample.values[0]) for sample in panel.settled()] == [(1, 1), (2, 2)]
    assert panel.settled() == []
    assert [sample.step for sample in panel.settled(wait=True)] == [3]


def test_a_fault_in_reading_back_is_the_probes_own() -> None:
    device = Slow()
    probe = OnDevice()
    probe.count = 2
    panel = Panel([probe, Steady()], CPU, readback=device)
    panel.start(0)
    drive(panel, 3)
    samples = panel.settled(wait=True)
    assert [sample.is_missing(0) for sample in samples] == [False, True, True]
    assert [sample.values[1] for sample in samples] == [1, 2, 3]
    assert "bad luck" in panel.changes()[0].reason


def test_a_probe_is_told_of_the_steps_that_its_interval_divides_and_of_no_others() -> None:
    rare, steady = Faulty("never"), Steady()
    rare.every = 3
    panel = Panel([rare, steady], CPU)
    assert panel.every == {"lr": 3, "grad_norm": 3}
    panel.start(1)  # attached after the first step: the schedule is that of the run
    measured = []
    for step in range(2, 8):
        panel.forward_began((), {}, True)
        panel.read(step)
        measured += [one.step for one in panel.settled() if not one.is_missing(0)]
    assert measured == [3, 6]
    assert rare.calls["forward_began"] == rare.calls["read"] == 2
    assert steady.count == 6


def test_a_new_interval_counts_from_the_next_step_and_is_reported() -> None:
    rare = Faulty("never")
    panel = Panel([rare], CPU)
    panel.start(0)
    drive(panel, 2)
    panel.reschedule(rare, 4, "dear")
    assert panel.changes() == [Coverage(3, name, "dear", 4) for name in ("grad_norm", "lr")]
    assert not panel.due(rare)
    for step in (3, 4):
        panel.read(step)
    assert [one.is_missing(0) for one in panel.settled()] == [True, False]


def test_series_found_while_measuring_follow_those_announced() -> None:
    class Growing(Steady):
        def start(self, first: int, barrier: Barrier) -> None:
            super().start(first, barrier)
            self.barrier = barrier
            self.places: list[int] = []

        def read(self, sample: Sample) -> None:
            super().read(sample)
            for place in self.places:
                sample.put(place, 7.0)
            if not self.places:
                self.places = self.barrier.extend(self, [Series("logged", "bleu")])

    growing = Growing()
    panel = Panel([growing, Faulty("read", at=2)], CPU)
    panel.start(0)
    first, second, third = drive(panel, 3)
    assert len(first.values) == 3
    assert list(second.values) == [2.0, 0.0, 0.0, 7.0]
    assert panel.series[3] == Series("logged", "bleu")
    assert not third.is_missing(3)


class Fickle(Steady):
    """Loses its signal at the second step, and finds it again at the third."""

    def start(self, first: int, barrier: Barrier) -> None:
        super().start(first, barrier)
        self.barrier = barrier

    def read(self, sample: Sample) -> None:
        self.count += 1
        if self.count in (2, 3):
            self.barrier.cover(self, {"loss": "it hides" if self.count == 2 else ""})


def test_a_signal_that_comes_and_goes_is_missing_with_a_reason_while_it_is_gone() -> None:
    panel = Panel([Fickle()], CPU)
    panel.start(0)
    panel.read(1)
    assert (panel.changes(), panel.missing) == ([], {})
    panel.read(2)
    assert panel.changes() == [Coverage(2, "loss", "it hides", 0)]
    assert panel.missing == {"loss": "it hides"}
    panel.read(3)
    assert panel.changes() == [Coverage(3, "loss", "", 1)]
    assert panel.missing == {}
    assert panel.series == (Series("loss"),)
