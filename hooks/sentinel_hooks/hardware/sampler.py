"""The sampler: reads all GPUs of a node again and again, and reports them.

Each GPU is read by a thread of its own, so that one whose calls never return takes only itself
out of the report. The main thread calls nothing of NVML: whatever hangs, it writes the reports and
notices when nobody needs them any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import pynvml

from sentinel import clock
from sentinel_hooks.hardware import report as reports
from sentinel_hooks.hardware.readings import Handle, ask_all
from sentinel_hooks.hardware.report import MAX_EVENTS, Gpu, Report, XidEvent

_EVENT_WAIT = 1000  # ms; each wait for an Xid is cut short after this long
_LASTING = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 not found: is the driver installed?",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the driver is not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not talk to the driver",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and driver are of different versions",
}


class WatchedGpu:
    """One GPU, read every `interval` seconds on a thread of its own."""

    def __init__(self, index: int, interval: float, changed: Callable[[], None]) -> None:
        self._interval = interval
        self._changed = changed
        self.handle: Handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self._last = Gpu(index, *_names_of(self.handle))
        self._events: deque[XidEvent] = deque(maxlen=MAX_EVENTS)
        self.no_events = ""  # why no Xid of it can be heard
        self._call = ("", 0.0)  # the one that is being made, and since when

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="gpu", daemon=True).start()

    def heard(self, code: int) -> None:
        """The driver tells of an Xid."""
        self._events.append(XidEvent(code, clock.monotonic()))
        self._changed()

    def now(self) -> Gpu:
        """What is known of it."""
        last, (call, since) = self._last, self._call
        hangs = bool(call) and clock.monotonic() - since > self._interval
        reasons = {**last.reasons, **({"gpu_xid": self.no_events} if self.no_events else {})}
        return Gpu(
            last.index,
            last.uuid,
            last.bus,
            last.parts,
            last.at,
            last.values,
            reasons,
            tuple(self._events),
            call if hangs else "",
        )

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            values, reasons = ask_all(self.handle, self._note)
            self._note("")
            last = self._last
            self._last = Gpu(
                last.index, last.uuid, last.bus, last.parts, clock.monotonic(), values, reasons
            )
            self._changed()
            pause.wait(self._interval)

    def _note(self, call: str) -> None:
        self._call = (call, clock.monotonic())


def _names_of(handle: Handle) -> tuple[str, str, tuple[str, ...]]:
    """UUID, PCI address, and the UUIDs of the MIG devices, as far as the GPU tells them."""
    uuid = bus = ""
    parts: list[str] = []
    with contextlib.suppress(pynvml.NVMLError):
        uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    with contextlib.suppress(pynvml.NVMLError):
        place = pynvml.nvmlDeviceGetPciInfo(handle)
        bus = f"{place.domain:x}:{place.bus:x}:{place.device:x}"
    with contextlib.suppress(pynvml.NVMLError):
        for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(pynvml.NVMLError):  # that place is empty
                part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                parts.append(str(pynvml.nvmlDeviceGetUUID(part)))
    return uuid, bus, tuple(parts)


class Sampler:
    """Writes a report to `path` every `interval` seconds, and whenever something has changed.

    It ends when `lifeline`, a pipe, comes to its end or the process that started it is gone.
    """

    def __init__(self, path: Path, interval: float, parent: int, lifeline: int) -> None:
        self._path = path
        self._interval = interval
        self._parent = parent
        self._lifeline = lifeline
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._gpus: tuple[WatchedGpu, ...] = ()
        self._trouble = "nvmlInit has not returned yet"
        self._status: int | None = None  # to end with

    def run(self) -> int:
        """Until it is not needed any more. Returns the exit status: 0 if it need not come back."""
        threading.Thread(target=self._begin, name="nvml", daemon=True).start()
        while True:
            ready, _, _ = select.select([self._lifeline, self._wake_out], [], [], self._interval)
            if self._lifeline in ready or os.getppid() != self._parent:
                return 0
            if self._wake_out in ready:
                os.read(self._wake_out, 4096)
            status = self._status
            with contextlib.suppress(OSError):  # a full disk: the report there grows old
                reports.write(self._path, self._report())
            if status is not None:
                return status

    def _report(self) -> Report:
        gpus = tuple(gpu.now() for gpu in self._gpus)
        return Report(self._interval, gpus, "" if gpus else self._trouble, self._status == 0)

    def _changed(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            os.write(self._wake_in, b"\0")

    def _begin(self) -> None:
        """Reach the driver and begin to read all GPUs; then listen for what they tell."""
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            gpus = [self._open(index) for index in range(count)]
            self._gpus = tuple(gpu for gpu in gpus if gpu is not None)
            if not self._gpus:
                self._trouble, self._status = "NVML: the driver lists no GPU", 0
        except pynvml.NVMLError as error:
            self._trouble = f"NVML: {_LASTING.get(error.value, error)}"
            self._status = 0 if error.value in _LASTING else 1
        except Exception as error:  # noqa: BLE001 - said in the report, for there is no other place
            self._trouble, self._status = f"{type(error).__name__}: {error}"[:400], 1
        self._changed()
        for gpu in self._gpus:
            gpu.start()
        if self._gpus:
            self._listen()

    def _open(self, index: int) -> WatchedGpu | None:
        try:
            return WatchedGpu(index, self._interval, self._changed)
        except pynvml.NVMLError:
            return None  # lost before we came, or not ours to see

    def _listen(self) -> None:
        """Wait for Xid events of all GPUs, for ever."""
        try:
            events = pynvml.nvmlEventSetCreate()
            by_address = {_address(gpu.handle): gpu for gpu in self._gpus if _register(gpu, events)}
            while by_address:
                _wait_for_one(events, by_address)
        except pynvml.NVMLError as error:
            for gpu in self._gpus:
                gpu.no_events = gpu.no_events or f"NVML events: {error}"


def _register(gpu: WatchedGpu, events: object) -> bool:
    """Ask to be told of the Xids of a GPU. Returns whether it will tell of them."""
    try:
        pynvml.nvmlDeviceRegisterEvents(gpu.handle, pynvml.nvmlEventTypeXidCriticalError, events)
    except pynvml.NVMLError as error:
        gpu.no_events = f"nvmlDeviceRegisterEvents: {error}"
    return not gpu.no_events


def _wait_for_one(events: object, by_address: Mapping[int, WatchedGpu]) -> None:
    try:
        event = pynvml.nvmlEventSetWait_v2(events, _EVENT_WAIT)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_TIMEOUT:
            return
        if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:  # said of one; the others may still tell
            threading.Event().wait(_EVENT_WAIT / 1000)
            return
        raise
    gpu = by_address.get(_address(event.device))
    if gpu is not None and event.eventType & pynvml.nvmlEventTypeXidCriticalError:
        gpu.heard(int(event.eventData))


def _address(handle: Handle) -> int:
    """Handles are opaque pointers: equal ones mean the same GPU."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
