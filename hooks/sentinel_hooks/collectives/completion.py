"""NCCL's own timing: what its watchdog thread tells of each collective that has completed.

Through `ProcessGroup._register_on_completion_hook`. NCCL measures with CUDA events from the launch
of a collective to its end, so a duration includes the wait for ranks that come later. A hook cannot
be taken back: when the watch is over, it is left behind and does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_KINDS = {
    "ALLREDUCE": "all_reduce",
    "ALLREDUCE_COALESCED": "all_reduce",
    "ALLGATHER": "all_gather",
    "_ALLGATHER_BASE": "all_gather",
    "ALLGATHER_COALESCED": "all_gather",
    "REDUCE_SCATTER": "reduce_scatter",
    "_REDUCE_SCATTER_BASE": "reduce_scatter",
    "REDUCE_SCATTER_TENSOR_COALESCED": "reduce_scatter",
    "ALLTOALL": "all_to_all",
    "ALLTOALL_BASE": "all_to_all",
    "BROADCAST": "broadcast",
    "REDUCE": "reduce",
    "GATHER": "gather",
    "SCATTER": "scatter",
    "BARRIER": "barrier",
    "SEND": "send",
    "RECV": "recv",
    "RECVANYSOURCE": "recv",
    "COALESCED": "coalesced",
}

Tell = Callable[[str, float], None]  # kind of collective, seconds


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class WorkInfo(Protocol):
    """What torch says of a completed collective (`torch._C._distributed_c10d.WorkInfo`)."""

    @property
    def op_type(self) -> _Named:
        """Its kind."""
        ...

    @property
    def active_duration(self) -> timedelta:
        """From its launch to its end, by CUDA events."""
        ...


class CompletionHook:
    """Passes durations on, from NCCL's watchdog thread, until it is closed."""

    def __init__(self, group: ProcessGroup, tell: Tell) -> None:
        """Raises `RuntimeError` or `ValueError` where torch takes no such hook."""
        self._tell: Tell | None = tell
        self._pid = os.getpid()
        enable = getattr(group, "_enable_collectives_timing", None)
        if enable is not None:  # what TORCH_NCCL_ENABLE_TIMING=1 does in older versions
            enable()
        register: Callable[[Callable[[WorkInfo], None]], None]
        register = getattr(group, "_register_on_completion_hook")  # noqa: B009 - not in its stubs
        register(self._completed)

    def _completed(self, info: WorkInfo) -> None:
        tell = self._tell
        if tell is not None and os.getpid() == self._pid:
            kind = _KINDS.get(info.op_type.name, info.op_type.name.lower())
            tell(kind, info.active_duration.total_seconds())

    def close(self) -> None:
        """Pass nothing on any more."""
        self._tell = None
