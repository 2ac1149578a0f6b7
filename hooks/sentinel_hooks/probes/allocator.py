"""torch's caching allocator of one CUDA device, and what the driver says of that device."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch


class Allocator(Protocol):
    """What the memory probes ask of a device; all of it is the host's own knowledge.

    Nothing here waits for a kernel.
    """

    def statistics(self) -> Mapping[str, object]:
        """As `torch.cuda.memory_stats_as_nested_dict`; empty before the device is in use."""
        ...

    def segments(self) -> Sequence[Mapping[str, object]]:
        """As `torch.cuda.memory_snapshot`, of this device alone."""
        ...

    def free_and_total(self) -> tuple[int, int]:
        """Bytes of the device that nobody uses, and that there are: a call of the driver."""
        ...

    def fraction(self) -> float:
        """The share of the device that torch may take."""
        ...

    def others(self) -> int:
        """Bytes that other processes hold on the device. Raises `LookupError` with the reason."""
        ...

    def pinned(self) -> int:
        """Bytes of the host's memory that torch has pinned for devices."""
        ...


class CudaAllocator:
    """The `Allocator` of a real device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def statistics(self) -> Mapping[str, object]:
        found: Mapping[str, object] = torch.cuda.memory_stats_as_nested_dict(self._device)
        return found

    def segments(self) -> Sequence[Mapping[str, object]]:
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        snapshot = torch.cuda.memory_snapshot
        traces = "include_traces" in inspect.signature(snapshot).parameters
        everything = snapshot(include_traces=False) if traces else snapshot()  # type: ignore[no-untyped-call]
        return [one for one in everything if one.get("device", index) == index]

    def free_and_total(self) -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(self._device)
        return int(free), int(total)

    def fraction(self) -> float:
        ask = getattr(torch.cuda, "get_per_process_memory_fraction", None)
        return 1.0 if ask is None else float(ask(self._device))

    def others(self) -> int:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            raise LookupError("nvidia-ml-py is not installed") from None
        try:
            nvml.nvmlInit()
            identity = torch.cuda.get_device_properties(self._device).uuid
            handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
            held = {
                one.pid: one.usedGpuMemory
                for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            }
        except nvml.NVMLError as error:
            raise LookupError(f"NVML: {error}") from error
        except AttributeError as error:
            raise LookupError(f"this torch does not say which device it is: {error}") from error
        return others_of(held, os.getpid())

    def pinned(self) -> int:
        ask = getattr(torch.cuda, "host_memory_stats", None)
        return 0 if ask is None else int(ask().get("allocated_bytes.current", 0))


def others_of(held: Mapping[int, int | None], own: int) -> int:
    """What processes but this one hold, by process. Raises `LookupError` where it cannot be told.

    In a container with process numbers of its own NVML's are those of the host.
    """
    if own not in held:
        raise LookupError("NVML does not list this process: it numbers those of the host")
    amounts = [amount for process, amount in held.items() if process != own]
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts):
        raise LookupError("NVML does not say what each process holds")
    return sum(known)


def allocator_of(device: torch.device) -> Allocator | None:
    """The allocator of this device; None if it is not a CUDA device."""
    return CudaAllocator(device) if device.type == "cuda" else None
