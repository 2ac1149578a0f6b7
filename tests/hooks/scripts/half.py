"""fp16 training as DeepSpeed does it, where no CPU can: its own loss scaler around a plain loop."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from torch import Tensor

from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from tests.hooks.scripts.gpt import Gpt, batch


class HalfOptimizer(torch.optim.SGD):
    """Skips what overflows on any rank and lets the scaler answer, as ZeRO does."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.01)
        self.loss_scaler = DynamicLossScaler(
            init_scale=8.0,
            scale_window=1000,
            min_scale=2.0,
            delayed_shift=1,
            consecutive_hysteresis=False,
            raise_error_at_min_scale=False,
            dtype=torch.half,
        )
        self.overflow = False

    @property
    def cur_scale(self) -> float:
        return float(self.loss_scaler.cur_scale)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        bad = torch.tensor(float(not all(one.isfinite().all() for one in gradients)))
        dist.all_reduce(bad, dist.ReduceOp.MAX)
        scale = self.cur_scale
        self.overflow = bool(bad)
        self.loss_scaler.update_scale(self.overflow)
        if self.overflow:
            return
        for one in gradients:
            one.div_(scale)
        super().step()


class HalfEngine:
    """The surface of a DeepSpeed engine in fp16."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.module = Gpt()
        self.optimizer = HalfOptimizer(self.module)
        self.device = torch.device("cpu")
        self.global_steps = 0
        self.skipped_steps = 0

    def fp16_enabled(self) -> bool:
        return True

    def dynamic_loss_scale(self) -> bool:
        return True

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss * self.optimizer.cur_scale)

    def step(self) -> None:
        self.optimizer.step()
        self.skipped_steps += self.optimizer.overflow
        self.optimizer.zero_grad()
        self.global_steps += 1


def run(overflows: list[bool], describe: Any) -> dict[str, Any]:
    """Train a step for each of these; where it says so, rank 1 overflows."""
    engine = HalfEngine()
    adapter = DeepSpeedAdapter(engine)
    adapter.install(lambda _: None, lambda _: None)
    samples = []
    for step, overflow in enumerate(overflows, 1):
        rows = batch(1000 * step + dist.get_rank())
        loss = engine.module(rows[:, :-1], rows[:, 1:])
        engine.backward(loss * float("inf") if overflow and dist.get_rank() == 1 else loss)
        engine.step()
        samples += [describe(adapter, one) for one in adapter.panel.settled()]
    missing = dict(adapter.panel.missing)
    adapter.detach()
    return {"samples": samples, "missing": missing, "skipped_steps": engine.skipped_steps}
