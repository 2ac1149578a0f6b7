"""The loss of the rank's own micro-batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Finding, Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample
from sentinel_hooks.probes.readback import number


class LossProbe(Probe):
    """Mean loss over the micro-batches of a step, as the trainer was handed it, unscaled.

    What is handed to the trainer's own `backward` counts. A loop that calls `loss.backward()`
    itself shows its loss only if the model returns it: as its output, as the field or item
    `loss`, or as the one scalar of a tuple. Where neither is so, the loss is missing. The first
    micro-batch whose loss is not finite is told, too.
    """

    name = "loss"
    signals = ("loss",)

    def __init__(self) -> None:
        self._first = 0
        self._handed: list[Tensor | float] = []
        self._returned: list[Tensor | float] = []
        self._averaged = False
        self._passes = 0  # forward passes of the step

    def series(self) -> Sequence[Series]:
        return (Series("loss"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def forward_ended(self, output: object) -> None:
        self._passes += 1
        loss = find_loss(output)
        if loss is not None:
            self._returned.append(_keep(loss))

    def loss_known(self, loss: Tensor, averaged: bool) -> None:
        if loss.numel() == 1:
            self._handed.append(_keep(loss))
            self._averaged = averaged

    def read(self, sample: Sample) -> None:
        losses = self._handed or self._returned
        averaged = bool(self._handed) and self._averaged
        by_micro_batch = len(losses) == self._passes  # else nobody knows whose each is
        self._handed, self._returned, self._passes = [], [], 0
        if not losses:
            return
        parts = 1 if averaged else len(losses)
        on_device = [loss for loss in losses if isinstance(loss, Tensor)]

        def fill(read: list[float]) -> None:
            rest = iter(read)
            values = [next(rest) if isinstance(loss, Tensor) else loss for loss in losses]
            sample.put(self._first, sum(values) / parts)
            bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
            if bad is not None and by_micro_batch:
                sample.find(Finding("loss", "", bad))

        if on_device:
            sample.later(torch.cat(on_device) if len(on_device) > 1 else on_device[0], fill)
        else:
            fill([])


def _keep(loss: Tensor) -> Tensor | float:
    """The loss as it stands now: its number, or on a device a copy that nobody changes."""
    if loss.device.type == "cpu":
        return number(loss)
    return loss.detach().to(torch.float32, copy=True).reshape(1)


def find_loss(output: object) -> Tensor | None:
    """The scalar loss in what a model returned, or None if there is not exactly one."""
    if isinstance(output, Tensor):
        return output if _is_scalar(output) else None
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(named, Tensor):
        return named if _is_scalar(named) else None
    if isinstance(output, tuple | list):
        scalars: list[Tensor] = [
            one for one in output if isinstance(one, Tensor) and _is_scalar(one)
        ]
        if len(scalars) == 1 or (scalars and scalars[0] is output[0]):
            return scalars[0]
    return None


def _is_scalar(tensor: Tensor) -> bool:
    return tensor.numel() == 1 and tensor.is_floating_point() and tensor.requires_grad
