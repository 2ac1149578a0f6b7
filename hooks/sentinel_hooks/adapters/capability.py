"""What is read from a DeepSpeed engine. Whether it can be is for `survey` to find out first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Module

from sentinel_hooks.adapters.rate_scale import Group
from sentinel_hooks.probes.compression import CompressionProbe, compression_of


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


def ask(engine: object, name: str) -> object:
    """What a method of the engine without arguments returns; None if it has no such method."""
    method = getattr(engine, name, None)
    return method() if callable(method) else None


def is_half(engine: Engine) -> bool:
    """Whether gradients are computed in fp16, with a scale on the loss."""
    return bool(ask(engine, "fp16_enabled")) or grad_scaler(engine) is not None


def is_rescaled(engine: Engine) -> bool:
    """Whether an overflow is answered by a smaller loss scale, as normal work."""
    dynamic = bool(ask(engine, "fp16_enabled")) and bool(ask(engine, "dynamic_loss_scale"))
    return dynamic or grad_scaler(engine) is not None


def grad_scaler(engine: Engine) -> object:
    """torch's GradScaler, where the engine trains under torch's autocast in fp16."""
    return getattr(engine.optimizer, "torch_autocast_gradscaler", None) or outer_scaler(engine)


def outer_scaler(engine: Engine) -> object:
    """The GradScaler at stage 0, which leaves out the optimizer's step on overflow."""
    return getattr(engine, "torch_autocast_z0_gradscaler", None)


def loss_scale(engine: Engine) -> float | Tensor | None:
    """The factor on the loss now; on a device it may be a tensor there."""
    scaler = grad_scaler(engine)
    if scaler is not None:
        scale = getattr(scaler, "_scale", None)
        return scale if isinstance(scale, Tensor) else None
    config = getattr(engine.optimizer, "loss_scale_config", None)
    for place, name in ((config, "cur_scale"), (engine.optimizer, "cur_scale")):
        scale = getattr(place, name, None)
        if isinstance(scale, float | int | Tensor):
            return scale
    return None


def loss_scale_floor(engine: Engine) -> float | None:
    """How small DeepSpeed's dynamic scaler may make the scale; None if it does not say.

    ZeRO has a `DynamicLossScaler`; the fp16 optimizers keep it in a config, in older versions in
    attributes of their own.
    """
    optimizer = engine.optimizer
    for place, name in (
        (getattr(optimizer, "loss_scaler", None), "min_scale"),
        (getattr(optimizer, "loss_scale_config", None), "min_loss_scale"),
        (optimizer, "min_loss_scale"),
    ):
        floor = getattr(place, name, None)
        if isinstance(floor, float | int):
            return float(floor)
    return None


def clip_threshold(engine: Engine) -> float | None:
    """The gradient norm beyond which gradients are clipped, 0 for none; None if nobody says.

    A checkpoint may bring another one with it than the configuration has.
    """
    own = getattr(engine.optimizer, "clip_grad", None)
    threshold = own if isinstance(own, float | int) else ask(engine, "gradient_clipping")
    return float(threshold) if isinstance(threshold, float | int) else None


def rates(engine: Engine) -> list[float | Tensor]:
    """The learning rate of every group. Raises `KeyError` or `TypeError` where one has none."""
    found: list[float | Tensor] = []
    for group in engine.optimizer.param_groups:
        rate = group["lr"]
        if not isinstance(rate, float | int | Tensor):
            raise TypeError(f"a learning rate of type {type(rate).__name__}")
        found.append(rate)
    return found


def clips_outside(engine: Engine) -> bool:
    """Whether gradients are clipped before the optimizer's step: at stage 0 in fp32."""
    on = ("fp16_enabled", "bfloat16_enabled", "zero_optimization")
    return not any(ask(engine, name) for name in on)


def gradient_scale(engine: Engine) -> float | Tensor:
    """What the gradients are multiplied by on entry to the optimizer's step."""
    if outer_scaler(engine) is not None:
        return 1.0  # that scaler has divided them by now
    scale = loss_scale(engine)
    return 1.0 if scale is None else scale


def own_norm(engine: Engine) -> float | Tensor | None:
    """The engine's global gradient norm of the last step, before clipping, if it has one.

    The unfused fp16 optimizer does not divide its norm by the loss scale: that one has none.
    """
    if type(engine.optimizer).__name__ == "FP16_UnfusedOptimizer":
        return None
    norm = ask(engine, "get_global_grad_norm")
    return norm if isinstance(norm, float | int | Tensor) else None


def skipped_steps(engine: Engine) -> int:
    """Steps so far that left the weights alone; 0 where they are not counted."""
    count = getattr(engine, "skipped_steps", 0)
    return count if isinstance(count, int) else 0


def was_skipped(engine: Engine, skipped_before: int) -> bool:
    """Whether the step just taken left the weights alone."""
    return skipped_steps(engine) > skipped_before or ask(engine, "was_step_applied") is False


def compression_probe(engine: Engine) -> CompressionProbe:
    """Gradient compression of this engine."""
    if ask(engine, "zero_quantized_gradients"):
        return CompressionProbe(
            None,
            "ZeRO++ quantizes gradients inside DeepSpeed's own kernels, which do not say how many "
            "bytes they send",
        )
    return compression_of(getattr(engine.optimizer, "optimizer", engine.optimizer), engine.module)
