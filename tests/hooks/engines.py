"""Engines such as no CPU can run, or as other versions of DeepSpeed have them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.hooks.scripts.gpt import Gpt, batch


class Half(torch.optim.SGD):
    """Like DeepSpeed's fp16 optimizer: gradients are scaled, and an overflow is skipped."""

    def __init__(self, model: torch.nn.Module, scale: float = 8.0) -> None:
        super().__init__(model.parameters(), lr=0.01)
        self.cur_scale = scale
        self.overflow = False
        self._global_grad_norm: float = 0.0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norm = float(torch.cat([grad.flatten() for grad in grads]).norm())
        self.overflow = not math.isfinite(norm)
        if self.overflow:
            self._global_grad_norm = math.inf
            self.cur_scale /= 2
            return
        self._global_grad_norm = norm / self.cur_scale
        for grad in grads:
            grad.div_(self.cur_scale)
        super().step()


class Engine:
    """The surface of a DeepSpeed engine, over a plain loop."""

    def __init__(self, *, dynamic: bool = True, masks: bool = False) -> None:
        torch.manual_seed(5)
        self.module = Gpt()
        self.optimizer = Half(self.module)
        self.device = torch.device("cpu")
        self.global_steps = 0
        self.skipped_steps = 0
        self._dynamic = dynamic
        self._masks = masks

    def fp16_enabled(self) -> bool:
        return True

    def dynamic_loss_scale(self) -> bool:
        return self._dynamic

    def get_global_grad_norm(self) -> float:
        norm = self.optimizer._global_grad_norm
        return norm if math.isfinite(norm) or not self._masks else -1.0

    def __call__(self, *args: Tensor) -> Tensor:
        loss: Tensor = self.module(*args)
        return loss

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss * self.optimizer.cur_scale)

    def step(self) -> None:
        self.optimizer.step()
        self.skipped_steps += self.optimizer.overflow
        self.optimizer.zero_grad()
        self.global_steps += 1


class Bare:
    """An engine of a version that has nothing but what every version has."""

    def __init__(self, kind: type[torch.optim.SGD] = torch.optim.SGD, steps: int = 10) -> None:
        torch.manual_seed(5)
        self.module = Gpt()
        self.optimizer = kind(self.module.parameters(), lr=0.01)
        self.device = torch.device("cpu")
        self.global_steps = steps
        self.skipped_steps = 0

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.global_steps += 1


class Pipeline(Bare):
    """Takes a whole batch at once, and its optimizer step is inside."""

    def train_batch(self) -> Tensor:
        losses = []
        for seed in (1, 2):
            rows = batch(seed)
            loss = self.module(rows[:, :-1], rows[:, 1:])
            torch.autograd.backward(loss / 2)
            losses.append(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.global_steps += 1
        return torch.stack(losses).mean()


def train(engine: Engine | Bare, corrupt: Callable[[Tensor], Tensor] = lambda loss: loss) -> float:
    rows = batch(engine.global_steps + 1)
    loss: Tensor = engine.module(rows[:, :-1], rows[:, 1:])
    engine.backward(corrupt(loss))
    engine.step()
    return float(loss.detach())
