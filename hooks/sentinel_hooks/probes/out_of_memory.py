"""Out-of-memory errors: what they are, and the step that they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

LINES = 3  # of an error's text that are told
_ERRORS: tuple[type[Exception], ...] = (MemoryError, torch.cuda.OutOfMemoryError)
_TEXTS = (  # of a RuntimeError: torch's allocator on the host, the CUDA driver, cuBLAS
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_SIZES = (
    ("process", "host_memory_process_bytes"),
    ("host used", "host_memory_used_bytes"),
    ("host limit", "host_memory_limit_bytes"),
    ("device allocated", "device_memory_allocated_bytes"),
    ("device reserved", "device_memory_reserved_bytes"),
    ("device limit", "device_memory_limit_bytes"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory, of the host or of a device, has run out."""
    if isinstance(error, _ERRORS):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def describe(error: BaseException, measured: Mapping[str, float]) -> str:
    """The first lines of the error, and the sizes of memory, in bytes by signal, at that time."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = " ".join([f"{type(error).__name__}:", *lines[:LINES]])[:1000]
    words = words.encode("utf-8", "replace").decode()  # of an error's text nothing is certain
    sizes = [
        f"{name} {measured[signal] / 2**30:.2f} GiB"
        for name, signal in _SIZES
        if signal in measured
    ]
    return f"{words} ({', '.join(sizes)})" if sizes else words


class OutOfMemoryProbe(Probe):
    """Whether memory ran out in a step.

    Of errors that the adapter did not see, because the script caught them itself, the device's
    allocator tells: `counted` is how many it has thrown so far.
    """

    name = "out of memory"
    signals = ("out_of_memory",)

    def __init__(self, counted: Callable[[], int]) -> None:
        self._counted = counted
        self._before = 0
        self._first = 0
        self._ran_out = False

    def series(self) -> Sequence[Series]:
        return (Series("out_of_memory"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first
        self._before = self._counted()

    def ran_out(self, sample: Sample) -> None:
        self._ran_out = True
        sample.put(self._first, 1.0)

    def read(self, sample: Sample) -> None:
        counted = self._counted()
        ran_out = self._ran_out or counted > self._before
        sample.put(self._first, float(ran_out))
        self._before, self._ran_out = counted, False
