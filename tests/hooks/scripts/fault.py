"""A value that is not finite, put into a model where and when a case says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


class Fault:
    """Puts a value into one module's output at one step and micro-batch of one rank."""

    def __init__(self, spec: dict[str, Any], engine: Any) -> None:
        self.spec = spec
        self.module = engine.module.get_submodule(spec["module"])
        self.here = dist.get_rank() == spec["rank"]
        self.now = False

    def corrupt(self, output: torch.Tensor) -> torch.Tensor:
        if not (self.now and self.here):
            return output
        bad = output.clone()
        bad.view(-1)[3] = float(self.spec.get("value", "nan"))
        return bad

    def hook(self, module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        return self.corrupt(output)

    def backward(self, module: object, args: object, output: torch.Tensor) -> None:
        if self.now and self.here:
            output.register_hook(self.corrupt)  # type: ignore[no-untyped-call]

    def place(self) -> None:
        if self.spec["how"] == "gradient":  # one element, of what is on this rank alone
            next(self.module.parameters()).register_hook(self.corrupt)
        elif self.spec["how"] == "hook":
            self.module.register_forward_hook(self.hook)
        elif self.spec["how"] == "backward":
            self.module.register_forward_hook(self.backward)
        elif self.spec["how"] == "patch":
            original = self.module.forward
            self.module.forward = lambda *args, **kwargs: self.corrupt(original(*args, **kwargs))

    def around(self, step: int, micro_batch: int) -> Callable[[], None]:
        """Arm for this pass; the result disarms."""
        steps = (self.spec["step"], self.spec.get("also"))
        self.now = step in steps and self.spec.get("micro_batch", 0) == micro_batch
        if self.spec["how"] == "just before" and self.now:
            remove: Callable[[], None] = self.module.register_forward_hook(self.hook).remove
            return remove
        return lambda: None
