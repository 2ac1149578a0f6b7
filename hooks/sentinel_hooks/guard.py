"""No rank applies a step whose gradients are not finite on every rank: `attach(guard=True)`.

Right before the optimizer's step one number is all-reduced over the job's default process group,
and the host waits for it: the one collective and the one wait that Sentinel adds, and only where
it is asked for. The default group, because all ranks that attach are in it, it is there already
on whatever connects the ranks (NCCL or gloo), and its collectives are started in one order by the
thread that trains; a communicator of our own could be scheduled against the job's on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor

from sentinel_hooks.probes.fence import Fence, Stopwatch

Look = Callable[[], "bool | Tensor"]


class Guard:
    """Decides with all ranks whether a step is to be left out.

    `device` is where the collective takes place. A fault of ours on one rank means that this rank
    cannot tell: it takes part all the same, with gradients taken for finite, and says so once. A
    collective that fails raises what any other of the job's would, for the trainer to handle.
    """

    def __init__(self, device: torch.device, fence: Fence, cost: Stopwatch) -> None:
        self._device = device
        self._fence = fence
        self._cost = cost
        self._together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def forbids(self, doubt: Look, proof: Look) -> bool:
        """Whether the gradients of some rank are not finite: the same answer on all ranks.

        `doubt()`: whether this rank's may not be; it must be so if they are not. `proof()`:
        whether they really are not. It is asked for where some rank has a doubt, at the price of
        a second collective and another look at the gradients: squares may just have overflowed.
        """
        return self._anywhere(self._ask(doubt)) and self._anywhere(self._ask(proof))

    def _ask(self, look: Look) -> bool | Tensor:
        began = perf_counter()
        found: bool | Tensor = False
        try:
            found = look()
        except Exception as error:  # noqa: BLE001 - the others wait for us in the collective
            self._fence.fault("the guard", error)
        self._cost.add(perf_counter() - began)
        return found

    def _anywhere(self, here: bool | Tensor) -> bool:
        if not self._together:
            return bool(here)
        flag = torch.as_tensor(here, dtype=torch.float32, device=self._device).reshape(1)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
