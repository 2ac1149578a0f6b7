"""What others do at every step, so that its time can be measured beside ours.

Each is attached to a model and its optimizer and counts the seconds that its own code takes in the
training thread. The packages come with the extra `benchmarks`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

Remove = Callable[[], None]


class Rival(Protocol):
    """Something that watches a plain training loop."""

    @property
    def seconds(self) -> float:
        """Spent in its own code so far."""
        ...

    def attach(self, model: Module, optimizer: Optimizer) -> Remove:
        """Begin; the result ends it."""
        ...


class Simplest:
    """The simplest code that sees as much as our core: each output's sum, each gradient's norm."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sums: list[Tensor] = []

    def attach(self, model: Module, optimizer: Optimizer) -> Remove:
        """See `Rival.attach`."""
        handles = [module.register_forward_hook(self._sum) for module in model.modules()]

        def norms(*_: object) -> None:
            began = time.perf_counter()
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            found = torch._foreach_norm(grads, 2, dtype=torch.float32)
            torch.stack([*found, *self._sums]).tolist()
            self._sums = []
            self.seconds += time.perf_counter() - began

        handles.append(optimizer.register_step_pre_hook(norms))

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return remove

    def _sum(self, module: Module, args: object, output: Tensor) -> None:
        began = time.perf_counter()
        self._sums.append(output.detach().sum(dtype=torch.float32))
        self.seconds += time.perf_counter() - began


class LightningGradNorm:
    """`lightning.pytorch.utilities.grad_norm`, as its documentation calls it: before each step."""

    def __init__(self) -> None:
        from lightning.pytorch.utilities import grad_norm

        self.seconds = 0.0
        self._grad_norm = grad_norm

    def attach(self, model: Module, optimizer: Optimizer) -> Remove:
        """See `Rival.attach`."""

        def norms(*_: object) -> None:
            began = time.perf_counter()
            for norm in self._grad_norm(model, norm_type=2).values():
                float(norm)  # as a logger does
            self.seconds += time.perf_counter() - began

        handle = optimizer.register_step_pre_hook(norms)
        return handle.remove


class WandbWatch:
    """`wandb.watch(model, log="all", log_freq=1)` in an offline run, logged at each step."""

    def __init__(self) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        self.seconds = 0.0
        self._wandb: ModuleType = wandb

    def attach(self, model: Module, optimizer: Optimizer) -> Remove:
        """See `Rival.attach`."""
        run = self._wandb.init(mode="offline", dir=tempfile.mkdtemp(), project="overhead")
        run.watch(model, log="all", log_freq=1)
        history = run._torch
        measure = history.log_tensor_stats

        def timed(tensor: Tensor, name: str) -> None:
            began = time.perf_counter()
            measure(tensor, name)
            self.seconds += time.perf_counter() - began

        history.log_tensor_stats = timed

        def log(*_: object) -> None:
            began = time.perf_counter()
            run.log({})
            self.seconds += time.perf_counter() - began

        handle = optimizer.register_step_post_hook(log)

        def remove() -> None:
            handle.remove()
            run.unwatch(model)
            run.finish()

        return remove


RIVALS: dict[str, Callable[[], Rival]] = {
    "simplest equivalent of our core": Simplest,
    "lightning grad_norm": LightningGradNorm,
    'wandb.watch(log="all", log_freq=1)': WandbWatch,
}
