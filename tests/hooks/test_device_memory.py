"""Memory of a device, from statistics in the format of torch's allocator. See tests/hooks/data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sentinel_hooks.probes.allocator import allocator_of, others_of
from sentinel_hooks.probes.device_blocks import DeviceBlocksProbe
from sentinel_hooks.probes.device_memory import DeviceMemoryProbe
from sentinel_hooks.probes.out_of_memory import OutOfMemoryProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Probe, Sample

CPU = torch.device("cpu")
GIB, MIB = 1 << 30, 1 << 20
DATA = Path(__file__).with_name("data")
STATISTICS = json.loads((DATA / "memory_stats.json").read_text())["statistics"]
SEGMENTS = json.loads((DATA / "memory_snapshot.json").read_text())["segments"]


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")


class Recorded:
    """An `Allocator` that says what was recorded, and counts how often it was asked."""

    def __init__(self, **changes: Any) -> None:
        self.numbers: Mapping[str, object] = {**STATISTICS, **changes}
        self.asked = {"segments": 0, "driver": 0}
        self.share = 1.0
        self.of_others: int | str = 2 * GIB

    def statistics(self) -> Mapping[str, object]:
        return self.numbers

    def segments(self) -> Sequence[Mapping[str, object]]:
        self.asked["segments"] += 1
        return [one for one in SEGMENTS if one["device"] == 0]

    def free_and_total(self) -> tuple[int, int]:
        self.asked["driver"] += 1
        return 8 * GIB, 80 * GIB

    def fraction(self) -> float:
        return self.share

    def others(self) -> int:
        if isinstance(self.of_others, str):
            raise LookupError(self.of_others)
        return self.of_others

    def pinned(self) -> int:
        return 0


def panel_of(*probes: Probe) -> Panel:
    panel = Panel(probes, CPU)
    panel.start(0)
    return panel


def named(panel: Panel, sample: Sample) -> dict[str, float]:
    return {
        one.signal.removeprefix("device_memory_"): sample.values[at]
        for at, one in enumerate(panel.series)
        if not sample.is_missing(at)
    }


def read(panel: Panel, step: int) -> dict[str, float]:
    panel.read(step)
    (sample,) = panel.settled()
    return named(panel, sample)


def test_the_allocator_and_the_driver_are_told_in_bytes() -> None:
    assert read(panel_of(DeviceMemoryProbe(Recorded())), 1) == {
        "allocated_bytes": 38 * GIB + 96 * MIB,
        "reserved_bytes": 66 * GIB + 128 * MIB,
        "peak_bytes": 61 * GIB + 128 * MIB,
        "inactive_split_bytes": 5 * GIB + 32 * MIB,
        "retries": 3,
        "ooms": 1,
        "used_bytes": 72 * GIB,
        "others_bytes": 2 * GIB,
        "limit_bytes": 74 * GIB + 128 * MIB,  # what is held and what is free
    }


def test_the_limit_is_the_share_that_the_process_may_take_where_that_is_tighter() -> None:
    allocator = Recorded()
    allocator.share = 0.5
    assert read(panel_of(DeviceMemoryProbe(allocator)), 1)["limit_bytes"] == 40 * GIB


def test_the_driver_is_not_asked_at_every_step() -> None:
    allocator = Recorded()
    panel = panel_of(DeviceMemoryProbe(allocator, seldom=3600.0))
    assert "used_bytes" in read(panel, 1)
    for step in range(2, 20):
        found = read(panel, step)
        assert "allocated_bytes" in found
        assert "used_bytes" not in found
    assert allocator.asked["driver"] == 1


def test_what_an_older_torch_does_not_count_is_not_put() -> None:
    allocator = Recorded()
    allocator.numbers = {name: STATISTICS[name] for name in ("allocated_bytes", "reserved_bytes")}
    found = read(panel_of(DeviceMemoryProbe(allocator)), 1)
    assert set(found) & {"retries", "ooms", "inactive_split_bytes"} == set()
    assert found["allocated_bytes"] > 0


def test_what_others_hold_is_missing_with_the_reason_where_it_cannot_be_told() -> None:
    allocator = Recorded()
    allocator.of_others = "nvidia-ml-py is not installed"
    panel = panel_of(DeviceMemoryProbe(allocator))
    assert panel.missing == {"device_memory_others_bytes": "nvidia-ml-py is not installed"}
    assert "others_bytes" not in read(panel, 1)
    assert "limit_bytes" in read(panel_of(DeviceMemoryProbe(allocator)), 1)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({5: 3 * GIB}, 0),
        ({5: 3 * GIB, 6: GIB, 7: GIB}, 2 * GIB),
        ({6: GIB}, "does not list this process"),
        ({}, "does not list this process"),
        ({5: None, 6: GIB}, GIB),
        ({5: 3 * GIB, 6: None}, "does not say"),
    ],
)
def test_others_are_those_that_are_not_this_process(
    held: dict[int, int | None], expected: int | str
) -> None:
    if isinstance(expected, int):
        assert others_of(held, 5) == expected
    else:
        with pytest.raises(LookupError, match=expected):
            others_of(held, 5)


def test_free_memory_in_pieces_is_fragmented() -> None:
    allocator = Recorded()
    panel = panel_of(DeviceBlocksProbe(allocator))
    panel.reschedule(panel.probes[0], 1, "for the test")
    found = read(panel, 1)
    assert found["largest_free_bytes"] == 3 * GIB
    assert found["fragmentation"] == pytest.approx(1 - 3 / (5.5 + 1 / 1024))


def test_blocks_are_listed_rarely_and_by_a_probe_that_may_be_made_rarer() -> None:
    allocator = Recorded()
    panel = panel_of(probe := DeviceBlocksProbe(allocator))
    for step in range(1, 100):
        read(panel, step)
    assert allocator.asked["segments"] == 0
    assert panel.every == dict.fromkeys(probe.signals, 100)
    assert not probe.core
    assert "largest_free_bytes" in read(panel, 100)


def test_without_free_blocks_the_largest_has_no_bytes_and_fragmentation_no_value() -> None:
    allocator = Recorded()
    allocator.segments = list  # type: ignore[method-assign]
    panel = panel_of(DeviceBlocksProbe(allocator))
    panel.reschedule(panel.probes[0], 1, "for the test")
    assert read(panel, 1) == {"largest_free_bytes": 0.0}


def test_without_a_device_all_is_missing_with_the_reason() -> None:
    assert allocator_of(CPU) is None
    probes = (DeviceMemoryProbe(None), DeviceBlocksProbe(None))
    panel = panel_of(*probes)
    assert panel.series == ()
    assert set(panel.missing) == {name for probe in probes for name in probe.signals}
    assert all(why.startswith("no CUDA device") for why in panel.missing.values())
    assert read(panel, 1) == {}


def test_an_error_that_the_script_caught_unseen_is_known_from_the_allocator() -> None:
    allocator = Recorded()
    device = DeviceMemoryProbe(allocator)
    panel = panel_of(device, OutOfMemoryProbe(lambda: device.ooms))
    before = read(panel, 1)["out_of_memory"]
    allocator.numbers = {**allocator.numbers, "num_ooms": 2}
    assert [before, *(read(panel, step)["out_of_memory"] for step in (2, 3))] == [0.0, 1.0, 0.0]


def test_when_memory_runs_out_everything_is_read_at_once() -> None:
    allocator = Recorded()
    device = DeviceMemoryProbe(allocator, seldom=3600.0)
    panel = panel_of(device, DeviceBlocksProbe(allocator), OutOfMemoryProbe(lambda: device.ooms))
    read(panel, 1)
    panel.failed(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 2.00 GiB"), "backward")
    (sample,) = panel.settled()
    assert (sample.step, sample.partial) == (2, True)
    assert len(named(panel, sample)) == len(panel.series)
    (finding,) = sample.findings
    assert (finding.signal, finding.module) == ("out_of_memory", "backward")
    assert finding.detail == (
        "OutOfMemoryError: CUDA out of memory. Tried 2.00 GiB (device allocated 38.09 GiB, "
        "device reserved 66.12 GiB, device limit 74.12 GiB)"
    )
