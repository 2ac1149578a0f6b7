"""torch, CUDA and NVML, each asked in a process of its own: a broken one hangs or dies there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
from msgspec import Struct

from sentinel.cli.doctor.check import Finding, Setup, check, note, ok, problem

GROUP = "devices"
_PATIENCE = 6.0  # importing torch from a cold network disk takes most of a minute
_LONGEST = 5.0  # of it for the process, so that it is ended and not left behind
_DRIVER = Path("/proc/driver/nvidia/version")

_TORCH = """
import json, torch
cuda = torch.version.cuda or torch.version.hip
there = bool(cuda) and torch.cuda.is_available()
names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if there else []
print("\\n" + json.dumps({"version": str(torch.__version__), "cuda": cuda, "devices": names}))
"""
_NVML = """
import json, pynvml
text = lambda found: found.decode() if isinstance(found, bytes) else found
try:
    pynvml.nvmlInit()
    found = {"version": text(pynvml.nvmlSystemGetDriverVersion()),
             "devices": [str(n) for n in range(pynvml.nvmlDeviceGetCount())]}
except pynvml.NVMLError as error:
    found = {"version": "", "devices": [], "error": str(error)}
print("\\n" + json.dumps(found))
"""


class _Seen(Struct):
    version: str
    devices: list[str]
    cuda: str | None = None
    error: str = ""


@check(GROUP, "torch", patience=_PATIENCE)
def torch(setup: Setup) -> Iterator[Finding]:
    """It can be imported, and sees the GPUs that the driver has."""
    if find_spec("torch") is None:
        yield ok("not installed here: only training processes need it")
        return
    seen = _ask(_TORCH, setup.within * _LONGEST)
    if isinstance(seen, str):
        yield problem(
            f"torch cannot be imported: {seen}", "install torch anew: training does not work either"
        )
        return
    many = f"{len(seen.devices)} GPU{'s' * (len(seen.devices) != 1)}"
    if seen.devices:
        yield ok(f"{seen.version}, CUDA {seen.cuda}, {many}: {seen.devices[0]}")
    elif _DRIVER.exists() and seen.cuda is None:
        yield problem(
            f"{seen.version} is built without CUDA, and there is an NVIDIA driver",
            "install a build of torch with CUDA, see pytorch.org/get-started",
        )
    elif _DRIVER.exists():
        yield problem(
            f"{seen.version} sees no GPU, though there is an NVIDIA driver",
            f"look at $CUDA_VISIBLE_DEVICES, and at whether the driver is new enough for CUDA "
            f"{seen.cuda} (`nvidia-smi`)",
        )
    else:
        yield ok(f"{seen.version}, no GPU and no NVIDIA driver here")


@check(GROUP, "NVML", patience=_PATIENCE)
def nvml(setup: Setup) -> Iterator[Finding]:
    """The health of GPUs can be read."""
    if find_spec("pynvml") is None:
        there = _DRIVER.exists()
        yield (
            note("nvidia-ml-py is not installed", "pip install 'sentinel-train[gpu]'")
            if there
            else ok("not installed, and no NVIDIA driver here")
        )
        return
    seen = _ask(_NVML, setup.within * _LONGEST)
    if isinstance(seen, str):
        yield problem(f"NVML cannot be asked: {seen}", "pip install --upgrade nvidia-ml-py")
    elif not seen.error:
        yield ok(f"driver {seen.version}, {len(seen.devices)} device(s)")
    elif _DRIVER.exists():
        yield problem(
            f"NVML does not load: {seen.error}",
            "reinstall the driver's libnvidia-ml.so.1, or give the container the capability "
            "`utility`",
        )
    else:
        yield ok("no NVIDIA driver here")


def _ask(program: str, within: float) -> _Seen | str:
    """What a program prints in its last line, or why it prints nothing."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "0"}
    try:
        ran = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"it takes longer than {within:g} s"
    except OSError as error:
        return f"{sys.executable} cannot be run: {error.strerror}"
    lines = ran.stdout.strip().splitlines()
    if ran.returncode < 0:
        return f"its process was killed by signal {-ran.returncode}"
    if ran.returncode or not lines:
        return (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1][:300]
    try:
        return msgspec.json.decode(lines[-1], type=_Seen)
    except msgspec.MsgspecError:
        return "it says nothing that can be understood"
