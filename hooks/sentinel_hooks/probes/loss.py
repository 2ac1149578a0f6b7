"""The loss of the rank's own micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample


class LossProbe(Probe):
    """Mean loss over the micro-batches of a step, as the trainer was handed it, unscaled.

    What is handed to the trainer's own `backward` counts. A loop that calls `loss.backward()`
    itself shows its loss only if the model returns it: as its output, as the field or item
    `loss`, or as the one scalar of a tuple. Where neither is so, the loss is missing.
    """

    name = "loss"
    signals = ("loss",)

    def __init__(self) -> None:
        self._first = 0
        self._handed: list[Tensor | float] = []
        self._returned: list[Tensor | float] = []
        self._averaged = False

    def series(self) -> Sequence[Series]:
        return (Series("loss"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def forward_ended(self, output: object) -> None:
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
        self._handed, self._returned = [], []
        if not losses:
            return
        parts = 1 if averaged else len(losses)
        on_device = [loss for loss in losses if isinstance(loss, Tensor)]
        known = sum(loss for loss in losses if not isinstance(loss, Tensor))
        if not on_device:
            sample.put(self._first, known / parts)
            return

        def fill(values: list[float]) -> None:
            sample.put(self._first, (known + sum(values)) / parts)

        sample.later(torch.cat(on_device), fill)


def _keep(loss: Tensor) -> Tensor | float:
    """The loss as it stands now: its number, or on a device a copy that nobody changes."""
    if loss.device.type == "cpu":
        return float(loss.detach())
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
