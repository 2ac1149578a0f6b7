"""What one DeepSpeed engine can show: its internals, asked for before they are relied on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from sentinel_hooks.adapters.remedy import Group
from sentinel_hooks.adapters.shards import Shards, is_expert
from sentinel_hooks.probes.gradient import GradientProbe
from sentinel_hooks.probes.rate import RateProbe, Reading
from sentinel_hooks.probes.skip import SkipProbe


class Optimizer(Protocol):
    """What every optimizer of an engine has; the rest is asked for."""

    @property
    def param_groups(self) -> Sequence[Group]:
        """The groups that it steps, with their learning rates."""
        ...

    def step(self) -> object:
        """Apply the gradients."""
        ...


class Engine(Protocol):
    """What every version of `DeepSpeedEngine` has; the rest is asked for."""

    @property
    def module(self) -> Module:
        """The model."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """DeepSpeed's own optimizer, around the base one; in fp32 at stage 0 the base one."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        ...

    @property
    def global_steps(self) -> int:
        """Optimizer steps taken, skipped ones included."""
        ...

    @property
    def skipped_steps(self) -> int:
        """How many of them left the weights alone."""
        ...


def ask(engine: object, name: str) -> object:
    """What a method of the engine without arguments returns; None if it has no such method."""
    method = getattr(engine, name, None)
    return method() if callable(method) else None


def is_half(engine: Engine) -> bool:
    """Whether gradients are computed in fp16, with a scale on the loss."""
    return bool(ask(engine, "fp16_enabled")) or _scaler(engine) is not None


def is_rescaled(engine: Engine) -> bool:
    """Whether an overflow is answered by a smaller loss scale, as normal work."""
    dynamic = bool(ask(engine, "fp16_enabled")) and bool(ask(engine, "dynamic_loss_scale"))
    return dynamic or _scaler(engine) is not None


def _scaler(engine: Engine) -> object:
    """torch's GradScaler, where the engine trains under torch's autocast in fp16."""
    return getattr(engine.optimizer, "torch_autocast_gradscaler", None) or outer_scaler(engine)


def outer_scaler(engine: Engine) -> object:
    """The GradScaler at stage 0, which leaves out the optimizer's step on overflow."""
    return getattr(engine, "torch_autocast_z0_gradscaler", None)


def loss_scale(engine: Engine) -> float | Tensor | None:
    """The factor on the loss now; on a device it may be a tensor there."""
    scaler = _scaler(engine)
    if scaler is not None:
        scale = getattr(scaler, "_scale", None)
        return scale if isinstance(scale, Tensor) else None
    config = getattr(engine.optimizer, "loss_scale_config", None)
    for place, name in ((config, "cur_scale"), (engine.optimizer, "cur_scale")):
        scale = getattr(place, name, None)
        if isinstance(scale, float | int | Tensor):
            return scale
    return None


def gradient_scale(engine: Engine) -> float | Tensor:
    """What the gradients are multiplied by on entry to the optimizer's step."""
    if outer_scaler(engine) is not None:
        return 1.0  # that scaler has divided them by now
    scale = loss_scale(engine)
    return 1.0 if scale is None else scale


def own_norm(engine: Engine) -> float | Tensor | None:
    """The engine's global gradient norm of the last step, before clipping, if it has one."""
    norm = ask(engine, "get_global_grad_norm")
    return norm if isinstance(norm, float | int | Tensor) else None


def was_skipped(engine: Engine, skipped_before: int) -> bool:
    """Whether the step just taken left the weights alone."""
    return engine.skipped_steps > skipped_before or ask(engine, "was_step_applied") is False


def answers(engine: Engine, parameter: Parameter) -> bool:
    """Whether this rank is the first of those that hold the same copy of this parameter."""
    if not torch.distributed.is_initialized():
        return True
    if is_expert(parameter):
        groups = sys.modules.get("deepspeed.utils.groups")
        find = getattr(groups, "_get_expert_data_parallel_group", None)
        if find is None:
            return False
        return torch.distributed.get_rank(find(getattr(parameter, "group_name", ""))) == 0
    for name in ("seq_data_parallel_group", "data_parallel_group"):
        group = getattr(engine, name, None)
        if group is not None:
            return torch.distributed.get_rank(group) == 0
    return torch.distributed.get_rank() == 0


def is_complete(engine: Engine) -> bool:
    """Whether every rank has the complete model: no pipeline, no tensor parallelism."""
    return all(getattr(engine, name, 1) in (1, None) for name in ("num_stages", "mp_world_size"))


def rate_probe(engine: Engine) -> RateProbe:
    """Learning rate and loss scale of this engine."""

    def rate() -> float | Tensor | None:
        value = engine.optimizer.param_groups[0].get("lr")
        return value if isinstance(value, float | int | Tensor) else None

    scale: Reading | None = (lambda: loss_scale(engine)) if is_half(engine) else None
    return RateProbe(rate, scale, "training is not in fp16: the loss is not scaled")


def skip_probe(engine: Engine) -> SkipProbe:
    """Skipped steps of this engine."""
    if is_rescaled(engine):
        return SkipProbe({})
    return SkipProbe({"overflow": "no dynamic fp16 loss scaler is in use"})


def gradient_probe(engine: Engine, shards: Shards) -> GradientProbe:
    """Gradient norms of this engine."""
    no_norm = ""
    if not shards.whole and ask(engine, "zero_compute_grad_norm") is False:
        no_norm = "DeepSpeed does not compute it: zero_optimization.compute_grad_norm is false"
    elif not shards.whole and isinstance(engine.optimizer, torch.optim.Optimizer):
        no_norm = "no rank has all gradients, and at stage 0 in fp32 DeepSpeed takes no norm"
    return GradientProbe(
        shards.layers.names,
        shards.announced,
        whole=shards.whole,
        no_norm=no_norm,
        no_shards=shards.absent,
    )
