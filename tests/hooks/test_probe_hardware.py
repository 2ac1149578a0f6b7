"""What a rank makes of the sampler's reports, and the whole way from the library to its sample."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sentinel import clock
from sentinel.wire import Coverage, Heartbeat
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.hardware.quantities import NEW_ERRORS, SIGNALS
from sentinel_hooks.hardware.report import Gpu, Report, XidEvent, write
from sentinel_hooks.probes.hardware import HardwareProbe, Identity, identity_of
from sentinel_hooks.probes.panel import Panel
from tests.engine import world
from tests.engine.world import Job
from tests.hooks.fake_nvml.library import FakeNvml, build, is_alive, until
from tests.hooks.watched import Watched

CPU = torch.device("cpu")
INTERVAL = 0.1


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A runtime folder of the test's own."""
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("SENTINEL_GPU", raising=False)


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    (tmp_path / "library").mkdir()
    return FakeNvml(build(tmp_path / "library"), tmp_path, monkeypatch)


class Rank:
    """A panel with this probe alone."""

    def __init__(self, probe: HardwareProbe) -> None:
        self.probe = probe
        self.panel = Panel([probe], CPU)
        self.panel.start(0)
        self.step = 0
        self.told: list[Coverage] = []

    def values(self) -> dict[str, float]:
        """What it measures at one more step."""
        self.step += 1
        self.panel.read(self.step)
        (sample,) = self.panel.settled()
        self.told += self.panel.changes()
        return {
            f"{one.signal}|{one.label}" if one.label else one.signal: sample.values[index]
            for index, one in enumerate(self.panel.series)
            if not sample.is_missing(index)
        }

    def until(self, signal: str, value: float) -> dict[str, float]:
        """The first step at which a signal is this."""
        seen: dict[str, float] = {}

        def there() -> bool:
            nonlocal seen
            seen = self.values()
            return seen.get(signal, math.nan) == value

        until(there, f"{signal} = {value}; last {seen}, told {self.told}")
        return seen


@pytest.fixture
def rank(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rank]:
    monkeypatch.setenv("SENTINEL_GPU", "1")
    nvml.say({"count": 2, "0.temperature": 40, "1.temperature": 61})
    made = Rank(HardwareProbe(CPU, INTERVAL))
    yield made
    made.panel.detach()


def sampler_of(probe: HardwareProbe) -> int:
    assert probe._keeper is not None
    assert probe._keeper._process is not None
    return probe._keeper._process.pid


def test_a_rank_without_a_gpu_says_so_and_starts_nothing(tmp_path: Path) -> None:
    probe = HardwareProbe(CPU)
    panel = Panel([probe], CPU)
    panel.start(0)
    panel.read(1)
    panel.detach()
    assert panel.series == ()
    assert panel.missing == dict.fromkeys(SIGNALS, "no CUDA device: the model is on cpu")
    assert list(tmp_path.iterdir()) == []


def test_without_nvidia_ml_py_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SENTINEL_GPU", "0")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    probe = HardwareProbe(CPU)
    why = "nvidia-ml-py is not installed: pip install sentinel-train[gpu]"
    assert probe.missing() == dict.fromkeys(SIGNALS, why)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_gets_the_values_of_its_own_gpu_and_training_never_loads_nvml(
    rank: Rank, nvml: FakeNvml
) -> None:
    values = rank.until("gpu_temperature_celsius", 61.0)
    assert values["gpu_xid"] == values["gpu_lost"] == values[NEW_ERRORS] == 0.0
    nvml.say({"1.temperature": 62, "1.uncorrected_volatile": 3, "1.xids": 1, "1.xid": 48})
    values = rank.until("gpu_temperature_celsius", 62.0)
    assert values[NEW_ERRORS] == 3.0
    assert rank.until("gpu_xid", 48.0)
    assert "libnvidia-ml" not in Path("/proc/self/maps").read_text()
    assert rank.panel.missing == {
        "gpu_nvlink_replays": "nvmlDeviceGetNvLinkErrorCounter: Not Supported"
    }
    assert rank.told == [
        Coverage(
            rank.told[0].step,
            "gpu_nvlink_replays",
            "nvmlDeviceGetNvLinkErrorCounter: Not Supported",
        )
    ]


def test_a_hanging_gpu_is_missing_with_the_call_that_hangs_until_it_answers_again(
    rank: Rank, nvml: FakeNvml
) -> None:
    rank.until("gpu_temperature_celsius", 61.0)
    nvml.say({"1.nvmlDeviceGetPowerUsage.hang": 1})
    until(lambda: rank.values() == {}, "values that are too old to vanish")
    until(lambda: rank.values() == {} and len(rank.panel.missing) == len(SIGNALS), "the reason")
    assert set(rank.panel.missing.values()) == {"NVML: nvmlDeviceGetPowerUsage does not return"}
    rank.told.clear()
    nvml.say({"1.temperature": 63}, forget="1.nvmlDeviceGetPowerUsage")
    rank.until("gpu_temperature_celsius", 63.0)
    assert list(rank.panel.missing) == ["gpu_nvlink_replays"]
    again = {one.signal for one in rank.told if (one.reason, one.every) == ("", 1)}
    assert again == set(SIGNALS) - {"gpu_nvlink_replays"}


def test_a_crash_of_the_sampler_is_told_and_measuring_goes_on_with_the_next(
    rank: Rank, nvml: FakeNvml
) -> None:
    rank.until("gpu_temperature_celsius", 61.0)
    first = sampler_of(rank.probe)
    nvml.say({"0.nvmlDeviceGetClockInfo.crash": 1})
    why = "the sampler was killed by SIGSEGV; it will be started again"
    until(lambda: rank.values() == {} and why in rank.panel.missing.values(), why)
    nvml.say({"1.temperature": 64}, forget="0.nvmlDeviceGetClockInfo")
    rank.until("gpu_temperature_celsius", 64.0)
    assert sampler_of(rank.probe) != first


def test_two_ranks_of_a_node_share_one_sampler_and_the_second_takes_over(
    rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_GPU", "GPU-00000000-aaaa-bbbb-cccc-0123456789ab")
    other = Rank(HardwareProbe(CPU, INTERVAL))
    try:
        other.until("gpu_temperature_celsius", 40.0)
        rank.until("gpu_temperature_celsius", 61.0)
        assert other.probe._keeper is not None
        assert other.probe._keeper._process is None
        pid = sampler_of(rank.probe)
        rank.panel.detach()
        assert not is_alive(pid)
        until(
            lambda: bool(other.values()) and other.probe._keeper._process is not None,  # type: ignore[union-attr]
            "the other to take over",
        )
    finally:
        other.panel.detach()


def test_what_a_killed_job_left_behind_is_not_believed(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_GPU", "0")
    nvml.say({"0.temperature": 40})
    probe = HardwareProbe(CPU, INTERVAL)
    assert probe._reader is not None
    write(probe._reader._path, Report(INTERVAL, (), "NVML: the driver is not loaded", True))
    rank = Rank(probe)
    try:
        rank.until("gpu_temperature_celsius", 40.0)
        assert {one.signal for one in rank.told} == {"gpu_nvlink_replays"}
    finally:
        rank.panel.detach()


def test_a_gpu_that_nvml_does_not_list_is_named(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_GPU", "GPU-99")
    lonely = Rank(HardwareProbe(CPU, INTERVAL))
    try:
        until(lambda: lonely.values() == {} and bool(lonely.panel.missing), "the reason")
        assert set(lonely.panel.missing.values()) == {"NVML lists no GPU with UUID 99"}
    finally:
        lonely.panel.detach()


def test_detaching_ends_the_sampler_and_leaves_no_file(rank: Rank, tmp_path: Path) -> None:
    rank.until("gpu_temperature_celsius", 61.0)
    pid = sampler_of(rank.probe)
    assert list((tmp_path / "sentinel").iterdir())
    rank.panel.detach()
    rank.panel.detach()
    assert not is_alive(pid)
    assert list((tmp_path / "sentinel").iterdir()) == []


def test_every_trainer_has_it(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_GPU", "0")
    nvml.say({"0.power": 250_000})
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = Watched(choose(None, model=model, optimizer=optimizer))
    try:

        def seen() -> bool:
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            time.sleep(0.02)
            return watched.steps[-1].values.get("gpu_power_watts") == 250.0

        until(seen, "a step with the power of the GPU")
    finally:
        watched.adapter.detach()


# Reports made by hand: what would take minutes otherwise.


def report_of(*events: XidEvent, values: dict[str, float] | None = None) -> Gpu:
    return Gpu(0, "GPU-a", "0:1:0", at=clock.monotonic(), values=values or {}, events=events)


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HardwareProbe:
    monkeypatch.setenv("SENTINEL_GPU", "0")
    return HardwareProbe(CPU, 5.0)


def test_an_xid_from_the_driver_names_the_rank_of_an_incident_that_names_none(
    rank: Rank, nvml: FakeNvml
) -> None:
    """From the library to the incident; the mean loss alone does not tell which rank it was."""
    job = Job([world.rule("loss > 5", "Spike")], ["loss"], 4)
    job.step(1, {"loss": 1.0})
    rank.until("gpu_xid", 0.0)
    nvml.say({"1.xids": 1, "1.xid": 79})
    until(lambda: bool(rank.probe.alarms()), "the Xid is told")
    beat = Heartbeat(1, "forward", 0.0, alarms=dict(rank.probe.alarms()))
    assert job.engine.feed(2, beat, job.now) == []
    job.now += 9.0
    (opened,) = world.incidents(job.step(2, {"loss": 9.0}))
    assert (opened.cause.rule, opened.cause.rank, opened.cause.host) == ("Spike", 2, "host2")
    assert opened.certainty == "inferred: the GPU of this rank alone failed within 60 s of it"
    (found,) = opened.evidence
    assert (found.kind, found.title) == ("hardware", "GPU of rank 2 reported Xid 79 9 s before")


def test_of_several_xids_the_oldest_is_shown_for_a_minute_and_then_the_next(
    by_hand: HardwareProbe,
) -> None:
    gpu = report_of(XidEvent(79, 1000.0), XidEvent(45, 1030.0))
    shown = [by_hand._xid(gpu, now) for now in (1000.0, 1030.0, 1060.0, 1061.0, 1090.0, 1091.0)]
    assert shown == [79, 79, 79, 45, 45, 0]


def test_an_xid_that_happened_during_a_long_step_is_shown_all_the_same(
    by_hand: HardwareProbe,
) -> None:
    gpu = report_of(XidEvent(31, 1000.0), XidEvent(45, 1001.0))
    assert [by_hand._xid(gpu, now) for now in (5000.0, 5000.0, 5000.0)] == [31, 45, 0]


def test_alarms_are_recent_xids_and_a_gpu_that_is_lost(
    by_hand: HardwareProbe, tmp_path: Path
) -> None:
    assert by_hand._reader is not None
    path, now = by_hand._reader._path, clock.monotonic()
    assert by_hand.alarms() == {}
    old, new, newer = XidEvent(31, now - 70), XidEvent(79, now - 2), XidEvent(45, now - 1)
    write(path, Report(5.0, (report_of(old, values={"gpu_lost": 0.0}),)))
    assert by_hand.alarms() == {}
    write(path, Report(5.0, (report_of(old, new, newer, values={"gpu_lost": 1.0}),)))
    assert by_hand.alarms() == {"gpu_xid": 79.0, "gpu_lost": 1.0}
    write(path, Report(5.0, (Gpu(0, "GPU-a", "0:1:0", at=now - 20, values={"gpu_lost": 1.0}),)))
    assert by_hand.alarms() == {}


def test_errors_from_before_the_run_are_not_new(by_hand: HardwareProbe) -> None:
    def new(volatile: float, aggregate: float) -> float:
        name = "gpu_ecc_uncorrected_errors"
        values = {f"{name}|volatile": volatile, f"{name}|aggregate": aggregate}
        return by_hand._new_errors(report_of(values=values))[NEW_ERRORS]

    assert new(2, 50) == 0
    assert new(3, 50) == 1
    assert new(3, 52) == 2
    assert new(0, 52) == 2  # the driver was loaded again
    assert new(1, 52) == 2
    assert by_hand._new_errors(report_of()) == {}


def test_a_report_of_before_a_reboot_is_not_fresh(by_hand: HardwareProbe) -> None:
    assert by_hand._reader is not None
    later = clock.monotonic() + 1000
    gpu = Gpu(0, "GPU-a", "0:1:0", at=later, values={"gpu_lost": 0.0})
    write(by_hand._reader._path, Report(5.0, (gpu,)))
    by_hand._keeper = SimpleNamespace(tend=lambda now, wanted: None)  # type: ignore[assignment]
    by_hand._look(clock.monotonic())
    assert by_hand._values == ()


GPUS = (
    Gpu(0, "GPU-AAAA-1", "0:1a:0", parts=("MIG-cccc-3", "MIG-dddd-4")),
    Gpu(1, "GPU-BBBB-2", "0:1b:0"),
)


@pytest.mark.parametrize(
    ("identity", "index"),
    [
        (Identity(uuid="bbbb-2"), 1),
        (Identity(uuid="dddd-4"), 0),
        (Identity(uuid="bbbb-2", bus="0:1a:0"), 1),
        (Identity(uuid="unknown", bus="0:1b:0"), 1),
        (Identity(index=1), 1),
        (Identity(uuid="unknown", bus="0:1c:0"), None),
        (Identity(index=7), None),
    ],
)
def test_a_gpu_is_found_by_uuid_then_by_its_place_on_the_bus(
    identity: Identity, index: int | None
) -> None:
    found = identity.find(GPUS)
    assert (found.index if found else None) == index


def test_the_gpu_of_a_device_is_known_by_what_torch_says_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says = SimpleNamespace(uuid="BBBB-2", pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: says)
    assert identity_of(torch.device("cuda:0")) == Identity("bbbb-2", "0:1b:0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    assert identity_of(torch.device("cuda:0")) == Identity()
    assert Identity().find(GPUS) is None
    assert identity_of(CPU) is None
