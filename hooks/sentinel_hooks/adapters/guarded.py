"""The step of a DeepSpeed engine's optimizer, under guard."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sentinel.errors import AttachError
from sentinel_hooks.adapters import capability
from sentinel_hooks.adapters.overflow import Overflow
from sentinel_hooks.adapters.shards import Shards
from sentinel_hooks.guard import Guard
from sentinel_hooks.probes.finite import not_finite
from sentinel_hooks.probes.gradient import GradientProbe, Measured
from sentinel_hooks.probes.panel import Panel


class GuardedStep:
    """Stands in for `optimizer.step`: leaves it out where the gradients of a rank are not finite.

    What `probe` has measured right before is used again. In fp16 it stands aside: there
    DeepSpeed's loss scaler agrees with all ranks on what overflows, and must see it to scale down.
    Raises `AttachError` where the gradients cannot be read or the step cannot be left out.
    """

    def __init__(
        self, engine: capability.Engine, shards: Shards, probe: GradientProbe, panel: Panel
    ) -> None:
        self._aside = capability.is_half(engine)
        self._shards = shards
        self._probe = probe
        if self._aside:
            return
        if shards.absent:
            raise AttachError(f"guard=True: the gradients cannot be read: {shards.absent}")
        self._guard = Guard(torch.device(engine.device), panel.fence, panel.cost)
        self._overflow = Overflow(engine.optimizer)

    def __call__(self, step: Callable[..., object], *args: object, **options: object) -> object:
        """Do this step, or leave it out."""
        if self._aside or not self._guard.forbids(self._doubt, self._proof):
            return step(*args, **options)
        self._overflow.declare(step)
        return None

    def over(self) -> None:
        """The engine has looked at how the step went."""
        if not self._aside:
            self._overflow.over()

    def _doubt(self) -> bool | Tensor:
        measured = self._probe.measured or Measured(self._shards.gradients(1.0))
        return measured.doubtful()

    def _proof(self) -> bool:
        return any(bool(not_finite(one)) for one in self._shards.gradients(1.0).shards)
