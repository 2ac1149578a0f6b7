"""The sampler's process, with unmodified nvidia-ml-py, on a library that says what it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sentinel import clock
from sentinel_hooks.hardware.keeper import PAUSES, Keeper
from sentinel_hooks.hardware.quantities import NEW_ERRORS, SERIES, SIGNALS, key
from sentinel_hooks.hardware.report import Gpu, Reader, Report
from tests.hooks.fake_nvml.library import FakeNvml, build, is_alive, until

INTERVAL = 0.05


class Node:
    """A rank's keeper, tended until the test has seen what it waits for."""

    def __init__(self, path: Path, nvml: FakeNvml) -> None:
        self.path = path
        self.nvml = nvml
        self.keeper = Keeper(path, INTERVAL)
        self.reader = Reader(path)
        self.report = Report(INTERVAL)

    def wait(self, enough: Callable[[Report], bool], what: str) -> Report:
        def look() -> bool:
            self.keeper.tend(clock.monotonic(), wanted=True)
            self.report = self.reader.read() or self.report
            return enough(self.report)

        until(look, f"{what}; last {self.report}")
        return self.report

    def gpu(self, enough: Callable[[Gpu], bool], index: int = 0) -> Gpu:
        """GPU `index`, once it has been read and is like this."""
        self.wait(
            lambda report: any(
                gpu.index == index and gpu.at > 0 and enough(gpu) for gpu in report.gpus
            ),
            f"GPU {index}",
        )
        return next(gpu for gpu in self.report.gpus if gpu.index == index)

    @property
    def pid(self) -> int:
        process = self.keeper._process
        assert process is not None
        return process.pid


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("library"))


@pytest.fixture
def nvml(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    return FakeNvml(library, tmp_path, monkeypatch)


@pytest.fixture
def node(nvml: FakeNvml, tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "gpu.report", nvml)
    yield made
    made.keeper.close()


SAID = {
    "utilization": 97,
    "memory_utilization": 41,
    "memory_used": 70_000_000_000,
    "power": 650_500,
    "power_limit": 700_000,
    "temperature": 71,
    "memory_temperature": 88,
    "clock": 1755,
    "memory_clock": 2619,
    "throttling": 0x48,
    "corrected_volatile": 1,
    "corrected_aggregate": 11,
    "uncorrected_volatile": 2,
    "uncorrected_aggregate": 3_000_000_000_000,
    "rows_correctable": 4,
    "rows_uncorrectable": 5,
    "remap_pending": 1,
    "remap_failure": 1,
    "links": 3,
    "replays_0": 10,
    "replays_1": 20,
    "replays_2": 40,
    "replays_3": 500,
    "pcie_replays": 9,
}
MEANT = {
    "gpu_utilization": 0.97,
    "gpu_memory_utilization": 0.41,
    "gpu_memory_used_bytes": 70e9,
    "gpu_power_watts": 650.5,
    "gpu_power_limit_watts": 700.0,
    "gpu_temperature_celsius": 71.0,
    "gpu_memory_temperature_celsius": 88.0,
    "gpu_clock_hertz": 1.755e9,
    "gpu_memory_clock_hertz": 2.619e9,
    "gpu_throttled|hardware_slowdown": 1.0,
    "gpu_throttled|hardware_thermal": 1.0,
    "gpu_slowdown": 1.0,
    "gpu_ecc_corrected_errors|volatile": 1.0,
    "gpu_ecc_corrected_errors|aggregate": 11.0,
    "gpu_ecc_uncorrected_errors|volatile": 2.0,
    "gpu_ecc_uncorrected_errors|aggregate": 3e12,
    "gpu_remapped_rows|correctable": 4.0,
    "gpu_remapped_rows|uncorrectable": 5.0,
    "gpu_row_remap_pending": 1.0,
    "gpu_row_remap_failure": 1.0,
    "gpu_nvlink_replays": 70.0,  # of the three links that are active
    "gpu_pcie_replays": 9.0,
}


def test_every_quantity_of_every_gpu_is_reported_in_its_unit(node: Node) -> None:
    node.nvml.say(
        {"count": 2, "1.parts": 1, **{f"1.{name}": number for name, number in SAID.items()}}
    )
    gpu = node.gpu(lambda gpu: True, 1)
    assert {name: value for name, value in gpu.values.items() if value} == pytest.approx(MEANT)
    expected = {key(*one) for one in SERIES} - {"gpu_xid", NEW_ERRORS}
    assert set(gpu.values) == expected
    assert gpu.reasons == {}
    assert gpu.uuid == "GPU-00000001-aaaa-bbbb-cccc-0123456789ab"
    assert gpu.bus == "0:1b:0"
    assert gpu.parts == ("MIG-00000001-aaaa-bbbb-cccc-0123456789ab",)
    idle = node.gpu(lambda gpu: True, 0)
    assert set(idle.values) == expected - {"gpu_nvlink_replays"}
    assert idle.reasons == {"gpu_nvlink_replays": "nvmlDeviceGetNvLinkErrorCounter: Not Supported"}


def test_only_heat_and_the_hardware_count_as_slowdown(node: Node) -> None:
    node.nvml.say({"0.throttling": 0x117})  # idle, chosen clocks, power cap, sync, display
    gpu = node.gpu(lambda gpu: gpu.values["gpu_throttled|software_power_cap"] > 0)
    assert gpu.values["gpu_slowdown"] == 0.0
    for bit in (0x08, 0x20, 0x40, 0x80):
        node.nvml.say({"0.throttling": bit})
        node.gpu(lambda gpu: gpu.values["gpu_slowdown"] > 0)
        node.nvml.say({"0.throttling": 0})
        node.gpu(lambda gpu: gpu.values["gpu_slowdown"] == 0)


def test_what_a_gpu_does_not_support_is_missing_with_nvmls_own_word_and_the_rest_is_not(
    node: Node,
) -> None:
    node.nvml.say(
        {
            "0.links": 1,
            "0.nvmlDeviceGetRemappedRows.return": 3,
            "0.nvmlDeviceGetTotalEccErrors.return": 3,
            "0.nvmlDeviceGetFieldValues.return": 4,
            "0.nvmlDeviceRegisterEvents.return": 3,
            "0.nvmlDeviceGetPowerUsage.return": 777,
        }
    )
    gpu = node.gpu(lambda gpu: "gpu_xid" in gpu.reasons)
    ecc, rows = "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows"
    assert gpu.reasons == {
        **dict.fromkeys(("gpu_remapped_rows",), f"{rows}: Not Supported"),
        **dict.fromkeys(("gpu_row_remap_pending",), f"{rows}: Not Supported"),
        **dict.fromkeys(("gpu_row_remap_failure",), f"{rows}: Not Supported"),
        **dict.fromkeys(("gpu_ecc_corrected_errors",), f"{ecc}: Not Supported"),
        **dict.fromkeys(("gpu_ecc_uncorrected_errors", NEW_ERRORS), f"{ecc}: Not Supported"),
        "gpu_memory_temperature_celsius": "nvmlDeviceGetFieldValues: Insufficient Permissions",
        "gpu_power_watts": f"nvmlDeviceGetPowerUsage: {gpu.reasons['gpu_power_watts'][25:]}",
        "gpu_xid": "nvmlDeviceRegisterEvents: Not Supported",
    }
    assert "an error that only the driver knows" in gpu.reasons["gpu_power_watts"]
    measured = {name.partition("|")[0] for name in gpu.values}
    assert measured == set(SIGNALS) - set(gpu.reasons)


def test_an_older_driver_tells_why_clocks_are_held_down_under_the_former_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    nvml = FakeNvml(build(tmp_path / "old", "-DOLD_DRIVER"), tmp_path, monkeypatch)
    nvml.say({"0.throttling": 0x40})
    node = Node(tmp_path / "gpu.report", nvml)
    try:
        gpu = node.gpu(lambda gpu: True)
        assert gpu.values["gpu_throttled|hardware_thermal"] == 1.0
    finally:
        node.keeper.close()


def test_an_xid_is_told_with_its_code_of_the_gpu_that_had_it(node: Node) -> None:
    node.nvml.say({"count": 2, "1.xids": 4, "1.xid": 31})  # those of before are not ours
    node.gpu(lambda gpu: True, 1)
    began = clock.monotonic()
    node.nvml.say({"1.xids": 5, "1.xid": 79})
    gpu = node.gpu(lambda gpu: bool(gpu.events), 1)
    assert [event.code for event in gpu.events] == [79]
    assert began <= gpu.events[0].at <= clock.monotonic()
    assert node.gpu(lambda gpu: True, 0).events == ()


def test_a_gpu_that_the_driver_has_lost_is_said_to_be_lost(node: Node) -> None:
    node.nvml.say({"count": 2})
    assert node.gpu(lambda gpu: True, 1).values["gpu_lost"] == 0.0
    node.nvml.say({f"1.nvmlDeviceGet{name}.return": 15 for name in ("PowerUsage", "ClockInfo")})
    gpu = node.gpu(lambda gpu: gpu.values["gpu_lost"] > 0, 1)
    assert gpu.reasons["gpu_power_watts"] == "nvmlDeviceGetPowerUsage: GPU is lost"
    assert node.gpu(lambda gpu: True, 0).values["gpu_lost"] == 0.0


def test_a_call_that_does_not_return_is_named_and_other_gpus_are_read_on(node: Node) -> None:
    node.nvml.say({"count": 2, "0.temperature": 50})
    before = node.gpu(lambda gpu: True, 1).at
    node.nvml.say({"1.nvmlDeviceGetTemperature.hang": 1, "0.temperature": 51})
    stuck = node.gpu(lambda gpu: bool(gpu.hanging), 1)
    assert stuck.hanging == "nvmlDeviceGetTemperature"
    node.gpu(lambda gpu: gpu.values["gpu_temperature_celsius"] == 51.0, 0)
    node.nvml.say({"0.temperature": 52})
    node.gpu(lambda gpu: gpu.values["gpu_temperature_celsius"] == 52.0, 0)
    assert node.gpu(lambda gpu: True, 1).at == stuck.at >= before
    node.nvml.say(forget="1.nvmlDeviceGetTemperature")
    assert node.gpu(lambda gpu: gpu.at > stuck.at, 1).hanging == ""


def test_a_driver_that_hangs_from_the_start_is_reported(node: Node) -> None:
    node.nvml.say({"nvmlInitWithFlags.hang": 1})
    report = node.wait(lambda report: bool(report.trouble), "trouble")
    assert (report.trouble, report.lasting) == ("nvmlInit has not returned yet", False)
    node.nvml.say(forget="nvmlInit")
    node.gpu(lambda gpu: True)


def test_a_crash_in_the_library_costs_a_sampler_which_is_started_again(node: Node) -> None:
    node.gpu(lambda gpu: True)
    first = node.pid
    node.nvml.say({"0.nvmlDeviceGetPowerUsage.crash": 1})
    report = node.wait(lambda report: bool(report.trouble), "trouble")
    assert report.trouble == "the sampler was killed by SIGSEGV; it will be started again"
    node.nvml.say(forget="0.nvmlDeviceGetPowerUsage")
    node.gpu(lambda gpu: True)
    assert node.pid != first


def test_a_sampler_that_always_crashes_is_given_up(node: Node) -> None:
    node.nvml.say({"nvmlDeviceGetCount_v2.crash": 1})
    report = node.wait(lambda report: report.lasting, "giving up")
    assert report.trouble == "the sampler was killed by SIGSEGV; it is not started again"
    assert node.keeper._deaths == 1 + len(PAUSES)
    assert node.keeper._process is None


@pytest.mark.parametrize(
    ("says", "trouble"),
    [
        ({"nvmlInitWithFlags.return": 9}, "NVML: the driver is not loaded"),
        ({"nvmlInitWithFlags.return": 4}, "NVML: this user may not talk to the driver"),
        ({"count": 0}, "NVML: the driver lists no GPU"),
    ],
)
def test_where_nothing_can_be_read_the_reason_is_left_and_the_sampler_does_not_come_back(
    node: Node, says: dict[str, int], trouble: str
) -> None:
    node.nvml.say(says)
    report = node.wait(lambda report: report.lasting, trouble)
    assert report == Report(INTERVAL, (), trouble, True)
    node.wait(lambda _: node.keeper._over, "the end of the keeper's work")
    assert node.keeper._process is None


def test_what_the_driver_says_of_a_failed_start_is_in_the_reason(node: Node) -> None:
    node.nvml.say({"nvmlInitWithFlags.return": 20})
    report = node.wait(lambda report: "status 1" in report.trouble, "the end of the sampler")
    said = "the sampler ended with status 1 (NVML: Insufficient Memory); it will be started again"
    assert report.trouble == said
    node.nvml.say(forget="nvmlInit")
    node.gpu(lambda gpu: True)


def test_a_missing_library_is_named(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nonexistent")
    report = node.wait(lambda report: report.lasting, "trouble")
    assert report.trouble.startswith("NVML: libnvidia-ml.so.1 not found")


KEEPING = """
import sys, time
from pathlib import Path
from sentinel import clock
from sentinel_hooks.hardware.keeper import Keeper
keeper = Keeper(Path(sys.argv[1]), 0.05)
while True:
    keeper.tend(clock.monotonic(), wanted=True)
    if keeper._process is not None:
        print(keeper._process.pid, flush=True)
        time.sleep(600)
    time.sleep(0.02)
"""


def keeping(path: Path) -> subprocess.Popen[str]:
    """Another rank's process, which prints the pid of its sampler when it has one."""
    command = [sys.executable, "-c", KEEPING, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_one_sampler_a_node_and_another_rank_takes_over_when_its_keeper_is_killed(
    node: Node,
) -> None:
    with keeping(node.path) as other:
        assert other.stdout is not None
        sampler = int(other.stdout.readline())
        node.gpu(lambda gpu: True)
        assert node.keeper._process is None  # whatever it tried meanwhile
        assert is_alive(sampler)
        other.kill()
        until(lambda: not is_alive(sampler), "the end of the orphan")
        node.wait(lambda _: node.keeper._process is not None, "taking over")
    assert node.gpu(lambda gpu: True).index == 0


def test_a_sampler_that_hangs_in_the_library_dies_with_its_rank_all_the_same(node: Node) -> None:
    node.nvml.say({"0.nvmlDeviceGetMemoryInfo.hang": 1, "nvmlEventSetWait_v2.hang": 1})
    with keeping(node.path) as other:
        assert other.stdout is not None
        sampler = int(other.stdout.readline())
        node.wait(lambda report: any(gpu.hanging for gpu in report.gpus), "the hang")
        other.kill()
        until(lambda: not is_alive(sampler), "the end of the orphan")


def test_closing_ends_a_hanging_sampler_and_leaves_nothing_behind(node: Node) -> None:
    node.nvml.say({"0.nvmlDeviceGetMemoryInfo.hang": 1})
    node.wait(lambda report: any(gpu.hanging for gpu in report.gpus), "the hang")
    sampler = node.pid
    node.keeper.close()
    assert not is_alive(sampler)
    assert sorted(one.name for one in node.path.parent.iterdir()) == ["nvml"]
    node.keeper.tend(clock.monotonic(), wanted=True)
    assert node.keeper._process is None


def test_a_sampler_stops_when_its_lifeline_is_cut(node: Node) -> None:
    node.gpu(lambda gpu: True)
    process = node.keeper._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0


def test_a_forked_child_neither_tends_nor_ends_the_sampler(node: Node) -> None:
    node.gpu(lambda gpu: True)
    child = os.fork()
    if child == 0:
        node.keeper.tend(clock.monotonic(), wanted=True)
        node.keeper.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert is_alive(node.pid)
    assert node.path.exists()


def test_the_sampler_ignores_ctrl_c_which_is_meant_for_training(node: Node) -> None:
    last = node.gpu(lambda gpu: True)
    os.kill(node.pid, signal.SIGINT)
    node.gpu(lambda gpu: gpu.at > last.at + INTERVAL)
    assert is_alive(node.pid)


def test_the_sampler_is_light() -> None:
    program = (
        "import sys, json, sentinel_hooks.hardware.__main__;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    brought = set(json.loads(ran.stdout))
    assert {"msgspec", "pynvml"} <= brought
    assert brought.isdisjoint({"torch", "deepspeed", "numpy", "asyncio"})
