"""The rank's own GPU: its health, load and limits, as the node's sampler reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from sentinel import clock
from sentinel.wire import Series
from sentinel_hooks.hardware.keeper import INTERVAL, Keeper
from sentinel_hooks.hardware.place import report_path
from sentinel_hooks.hardware.quantities import NEW_ERRORS, SERIES, SIGNALS, key
from sentinel_hooks.hardware.report import Gpu, Reader, Report
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

LOOK = 1.0  # s between two looks at the sampler's file
FRESH = 3  # intervals after which a reading does not count any more
GRACE = 15.0  # s for the first report: without a resident driver nvmlInit alone takes seconds
EVENT_LIFE = 60.0  # s for which an Xid is shown

_UNCORRECTED = "gpu_ecc_uncorrected_errors|"
_CHOSEN = "SENTINEL_GPU"  # index or UUID of the rank's GPU, whatever torch says


@dataclass(frozen=True)
class Identity:
    """How a GPU is known to the rank: its UUID, its PCI address, or its number in NVML."""

    uuid: str = ""
    bus: str = ""
    index: int | None = None

    def find(self, gpus: Sequence[Gpu]) -> Gpu | None:
        """The one among these. A MIG device is found as the GPU that it is a part of."""
        for gpu in gpus:
            if self.uuid and self.uuid in map(_bare, (gpu.uuid, *gpu.parts)):
                return gpu
        for gpu in gpus:
            if (self.bus and self.bus == gpu.bus) or self.index == gpu.index:
                return gpu
        return None

    def __str__(self) -> str:
        known = (self.uuid and f"UUID {self.uuid}", self.bus and f"PCI address {self.bus}")
        return " or ".join(filter(None, known)) or f"number {self.index}"


def _bare(uuid: str) -> str:
    """NVML says `GPU-` or `MIG-` in front of what CUDA calls the UUID."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def identity_of(device: torch.device) -> Identity | None:
    """The GPU of this device, None if it is none. `CUDA_VISIBLE_DEVICES` renumbers them: it is
    known by UUID and PCI address. `$SENTINEL_GPU` overrules.
    """
    if chosen := os.environ.get(_CHOSEN, "").strip():
        return Identity(index=int(chosen)) if chosen.isdecimal() else Identity(uuid=_bare(chosen))
    if device.type != "cuda":
        return None
    properties: object = torch.cuda.get_device_properties(device)
    address = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    bus = ":".join(f"{part:x}" for part in address if isinstance(part, int))
    uuid = _bare(str(getattr(properties, "uuid", "")))
    return Identity(uuid, bus if bus.count(":") == 2 else "")


class HardwareProbe(Probe):
    """What the sampler last read of this rank's GPU, put at every step while it is fresh.

    Looks at one small file, no more than once a second. A reading older than three intervals
    does not count. Of several Xid events of the last minute the oldest is shown, since the others
    mostly follow from it, and each one is shown at least once.
    """

    name = "hardware"
    signals = SIGNALS
    core = False

    def __init__(self, device: torch.device, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._first = 0
        self._barrier: Barrier | None = None
        self._keeper: Keeper | None = None
        self._reader: Reader | None = None
        self._alarm_reader: Reader | None = None  # another thread's
        self._identity: Identity | None = None
        self._absent = self._prepare(device)
        self._look_at = 0.0
        self._grace = 0.0  # until then the first report may still be on its way
        self._values: tuple[tuple[int, float], ...] = ()
        self._until = 0.0  # when they cease to count
        self._counted: dict[str, float] = {}  # by counter, the least that it has said
        self._heard = 0.0  # when the last Xid happened that has been put
        self._reasons: dict[str, str] = {}

    def _prepare(self, device: torch.device) -> str:
        """Find out whether anything can be read here. Returns why not, or ""."""
        self._identity = identity_of(device)
        if self._identity is None:
            return f"no CUDA device: the model is on {device.type}"
        if torch.version.hip is not None:
            return "NVML reads NVIDIA GPUs, and this torch is made for AMD's"
        if find_spec("pynvml") is None:
            return "nvidia-ml-py is not installed: pip install sentinel-train[gpu]"
        try:
            path = report_path(os.environ)
        except OSError as error:
            return f"no place for the sampler's report: {error}"
        self._keeper = Keeper(path, self._interval)
        self._reader, self._alarm_reader = Reader(path), Reader(path)
        return ""

    def series(self) -> Sequence[Series]:
        return () if self._absent else [Series(*one) for one in SERIES]

    def missing(self) -> Mapping[str, str]:
        return dict.fromkeys(SIGNALS, self._absent) if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first, self._barrier = first, barrier
        now = clock.monotonic()
        self._grace, self._heard = now + GRACE, now
        if self._keeper is not None:
            self._keeper.tend(now, wanted=True)  # whatever a job that was killed has left there
            self._look(now)

    def read(self, sample: Sample) -> None:
        if self._keeper is None:
            return
        now = clock.monotonic()
        if now >= self._look_at:
            self._look(now)
        if now <= self._until:
            for index, value in self._values:
                sample.put(index, value)

    def _look(self, now: float) -> None:
        """See what the sampler says now, and see to it that there is one."""
        assert self._reader is not None
        assert self._keeper is not None
        self._look_at = now + min(LOOK, self._interval)
        report = self._reader.read()
        gpu = self._own(report)
        fresh = gpu is not None and 0 <= now - gpu.at <= FRESH * self._interval
        self._until = gpu.at + FRESH * self._interval if gpu is not None and fresh else 0.0
        self._values = self._of(gpu, now) if gpu is not None and fresh else ()
        lasting = report is not None and report.lasting
        self._keeper.tend(now, wanted=not (fresh or lasting))
        reasons = self._why(report, gpu, fresh=fresh, now=now)
        if reasons is not None:
            self._say(reasons)

    def _own(self, report: Report | None) -> Gpu | None:
        return self._identity.find(report.gpus) if report and self._identity else None

    def alarms(self) -> Mapping[str, float]:
        """A GPU that fails mostly takes the step with it: its frame never comes."""
        gpu = self._own(self._alarm_reader.read()) if self._alarm_reader else None
        if gpu is None:
            return {}
        now = clock.monotonic()
        recent = [event.code for event in gpu.events if 0 <= now - event.at <= EVENT_LIFE]
        lost = gpu.values.get("gpu_lost", 0.0)
        alarms = {"gpu_xid": float(recent[0]) if recent else 0.0}
        if 0 <= now - gpu.at <= FRESH * self._interval:
            alarms["gpu_lost"] = lost
        return {signal: value for signal, value in alarms.items() if value}

    def _of(self, gpu: Gpu, now: float) -> tuple[tuple[int, float], ...]:
        values = {**gpu.values, **self._new_errors(gpu)}
        if "gpu_xid" not in gpu.reasons:
            values["gpu_xid"] = self._xid(gpu, now)
        places = enumerate((key(*one) for one in SERIES), self._first)
        return tuple((index, values[name]) for index, name in places if name in values)

    def _new_errors(self, gpu: Gpu) -> dict[str, float]:
        """Uncorrected errors since this process first looked: counters are older than any run."""
        counts = {name: n for name, n in gpu.values.items() if name.startswith(_UNCORRECTED)}
        if not counts:
            return {}
        self._counted = {name: min(n, self._counted.get(name, n)) for name, n in counts.items()}
        return {NEW_ERRORS: max(n - self._counted[name] for name, n in counts.items())}

    def _xid(self, gpu: Gpu, now: float) -> float:
        for event in gpu.events:
            if event.at > self._heard or now - event.at <= EVENT_LIFE:
                self._heard = max(self._heard, event.at)
                return float(event.code)
        return 0.0

    def _why(
        self, report: Report | None, gpu: Gpu | None, *, fresh: bool, now: float
    ) -> dict[str, str] | None:
        """By signal, why it is not measured; None while the first reading may be on its way."""
        if gpu is not None and fresh:
            return dict(gpu.reasons)
        if gpu is not None and gpu.hanging:
            why = f"NVML: {gpu.hanging} does not return"
        elif report is not None and report.gpus and gpu is None:
            why = f"NVML lists no GPU with {self._identity}"
        elif report is not None and report.trouble:
            why = report.trouble
        elif now < self._grace:
            return None
        else:
            why = "the sampler says nothing new of this GPU"
        return dict.fromkeys(SIGNALS, why)

    def _say(self, reasons: dict[str, str]) -> None:
        """Tell what has changed of the reasons."""
        news = {name: why for name, why in reasons.items() if self._reasons.get(name) != why}
        news |= {name: "" for name in self._reasons if name not in reasons}
        self._reasons = reasons
        if news and self._barrier is not None:
            self._barrier.cover(self, news)

    def detach(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
