"""Memory of the host: what is read from which tree of files, and from a real control group."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sentinel_hooks.probes.host_memory import HostMemoryProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Probe, Sample

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def named(panel: Panel, sample: Sample) -> dict[str, float]:
    return {
        one.signal: sample.values[at]
        for at, one in enumerate(panel.series)
        if not sample.is_missing(at)
    }


def measured(probe: Probe) -> dict[str, float]:
    """What one reading gives, by signal."""
    panel = Panel([probe], CPU)
    panel.start(0)
    panel.read(1)
    (sample,) = panel.settled()
    panel.detach()
    return named(panel, sample)


PROC = {
    "proc/self/statm": "1000 500 100 1 0 300 0\n",
    "proc/self/status": "Name:\tpython\nVmLck:\t      12 kB\nVmPin:\t       8 kB\n",
    "proc/self/task/7/children": "8 9 \n",
    "proc/8/statm": "1000 20 1 1 0 1 0\n",
    "proc/8/task/8/children": "10 \n",
    "proc/10/statm": "1000 3 1 1 0 1 0\n",  # 9 has ended meanwhile
    "proc/meminfo": (
        "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n"
        "SwapTotal:  200 kB\nSwapFree: 150 kB\n"
    ),
    "proc/vmstat": "pgfault 1\noom_kill 4\n",
}
OF_MACHINE = {"used": 600 * 1024, "limit": 1000 * 1024, "swap": 50 * 1024, "kills": 4}
HOSTS: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "a machine": ({"proc/self/cgroup": "0::/\n"}, OF_MACHINE),
    "a v2 group under a tighter one": (
        {
            "proc/self/cgroup": "0::/job/step\n",
            "sys/fs/cgroup/job/step/memory.max": "max\n",
            "sys/fs/cgroup/job/step/memory.events": "low 0\noom 9\noom_kill 2\noom_group_kill 0\n",
            "sys/fs/cgroup/job/memory.max": "500000\n",
            "sys/fs/cgroup/job/memory.current": "300000\n",
            "sys/fs/cgroup/job/memory.swap.current": "7000\n",
            "sys/fs/cgroup/job/memory.stat": "anon 1\nfile 2\ninactive_file 100000\n",
            "sys/fs/cgroup/job/memory.events": "oom_kill 77\n",
        },
        {"used": 200_000, "limit": 500_000, "swap": 7000, "kills": 2},
    ),
    "a v1 group": (
        {
            "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/x\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "400000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "350000\n",
            "sys/fs/cgroup/memory/memory.memsw.usage_in_bytes": "360000\n",
            "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 50000\n",
            "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\noom_kill 3\n",
        },
        {"used": 300_000, "limit": 400_000, "swap": 10_000, "kills": 3},
    ),
    "a group without a limit": (
        {
            "proc/self/cgroup": "4:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\noom_kill 0\n",
        },
        OF_MACHINE,
    ),
}
SHORT = {
    "used": "host_memory_used_bytes",
    "limit": "host_memory_limit_bytes",
    "swap": "host_swap_used_bytes",
    "kills": "host_oom_kills",
}


@pytest.mark.parametrize("host", HOSTS)
def test_memory_is_read_where_it_is_limited(host: str, tmp_path: Path) -> None:
    files, expected = HOSTS[host]
    write(tmp_path, {**PROC, **files})
    found = measured(HostMemoryProbe(tmp_path, pinned=lambda: 1000))
    assert {name: found[signal] for name, signal in SHORT.items()} == expected
    page = os.sysconf("SC_PAGE_SIZE")
    assert found["host_memory_process_bytes"] == 500 * page
    assert found["host_memory_children_bytes"] == 23 * page
    assert found["host_memory_pinned_bytes"] == 20 * 1024 + 1000


def test_what_a_kernel_does_not_tell_is_missing_with_the_reason(tmp_path: Path) -> None:
    files, _ = HOSTS["a v1 group"]
    write(tmp_path, {**PROC, **files})
    for name in ("proc/self/task/7/children", "proc/vmstat"):
        (tmp_path / name).unlink()
    group = tmp_path / "sys/fs/cgroup/memory"
    (group / "memory.memsw.usage_in_bytes").unlink()
    (group / "memory.oom_control").unlink()
    panel = Panel([HostMemoryProbe(tmp_path)], CPU)
    assert "CONFIG_PROC_CHILDREN" in panel.missing.pop("host_memory_children_bytes")  # type: ignore[attr-defined]
    assert set(panel.missing) == {"host_swap_used_bytes", "host_oom_kills"}
    panel.start(0)
    panel.read(1)
    assert named(panel, panel.settled()[0])["host_memory_used_bytes"] == 300_000
    panel.detach()


def test_without_proc_memory_is_missing_with_a_reason(tmp_path: Path) -> None:
    panel = Panel([HostMemoryProbe(tmp_path)], CPU)
    assert panel.series == ()
    assert "/proc" in panel.missing["host_memory_process_bytes"]
    panel.start(0)
    panel.read(1)


def test_a_limit_that_is_changed_while_we_run_is_followed(tmp_path: Path) -> None:
    files, _ = HOSTS["a v2 group under a tighter one"]
    write(tmp_path, {**PROC, **files})
    panel = Panel([probe := HostMemoryProbe(tmp_path)], CPU)
    panel.start(0)
    limits = []
    for limit in ("500000\n", "600000\n", "max\n"):
        write(tmp_path, {"sys/fs/cgroup/job/memory.max": limit})
        sample = Sample(1, len(panel.series), 0.0)
        probe._put_rarely(sample)
        probe._put_often(sample)
        limits.append(named(panel, sample)["host_memory_limit_bytes"])
    assert limits == [500_000, 600_000, 1000 * 1024]
    panel.detach()


def test_steps_that_are_fast_are_read_more_rarely_and_dear_numbers_more_rarely_still() -> None:
    panel = Panel([HostMemoryProbe()], CPU)
    panel.start(0)
    found = []
    for step in range(1, 60):
        panel.read(step)
        found += [named(panel, sample) for sample in panel.settled()]
    panel.detach()
    assert "host_memory_children_bytes" in found[0]
    assert {} in found
    often = sum("host_memory_used_bytes" in one for one in found)
    assert sum("host_memory_pinned_bytes" in one for one in found) <= often


def test_this_machine_shows_its_own_memory_and_that_of_children() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print('here', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = measured(HostMemoryProbe())
        child.kill()
    assert 1e6 < found["host_memory_process_bytes"] < found["host_memory_limit_bytes"]
    assert 1e6 < found["host_memory_used_bytes"] <= found["host_memory_limit_bytes"]
    if Path("/proc/thread-self/children").exists():
        assert found["host_memory_children_bytes"] > 1e6


IN_GROUP = """
import json, os, subprocess, sys, torch
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
from sentinel_hooks.probes.host_memory import HostMemoryProbe
from tests.hooks.test_host_memory import measured
before = measured(HostMemoryProbe())
died = subprocess.run([sys.executable, "-c", "bytearray(2 << 30)"])
after = measured(HostMemoryProbe())
print(json.dumps([before, died.returncode, after]))
"""


@contextlib.contextmanager
def real_group(limit: int) -> Iterator[Path]:
    """A control group of the kernel's that limits memory: v2 if it does that here, else v1."""
    base = Path("/sys/fs/cgroup")
    v1 = not (base / "cgroup.controllers").exists()
    folder = base / ("memory" if v1 else "") / f"sentinel-test-{os.getpid()}"
    try:
        folder.mkdir()
        names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] if v1 else ["memory.max"]
        for name in names:
            (folder / name).write_text(str(limit))
        if not v1:
            (folder / "memory.swap.max").write_text("0")
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield folder
    finally:
        folder.rmdir()


@pytest.mark.slow
def test_in_a_real_control_group_its_limit_and_its_kills_are_seen() -> None:
    with real_group(1 << 30) as folder:
        done = subprocess.run(
            [sys.executable, "-c", IN_GROUP, str(folder / "cgroup.procs")],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=400,
            check=True,
        )
    before, died, after = json.loads(done.stdout)
    assert before["host_memory_limit_bytes"] == 1 << 30
    assert 1e6 < before["host_memory_used_bytes"] < 1 << 30
    assert died == -signal.SIGKILL
    assert after["host_oom_kills"] == before["host_oom_kills"] + 1
