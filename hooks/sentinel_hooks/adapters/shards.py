"""Where a DeepSpeed engine keeps the gradient shards of its rank.

Read on entry to `engine.optimizer.step`: reduced over ranks, not clipped, still multiplied by
the loss scale, and reached without a collective or a wait. What is private here to DeepSpeed is
probed for; a version that has it no more makes the signals missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from sentinel_hooks.adapters.layers import Layers, layers_of
from sentinel_hooks.probes.probe import Gradients

_IN_FLIGHT = "offloaded gradients may still be on their way to the host"
Read = Callable[[], "tuple[list[Tensor], list[int]]"]


@dataclass(frozen=True)
class Shards:
    """How to read the shards of this rank, or why not.

    `announced` are the layers that this rank answers for; `whole`: it holds every gradient of
    the model, so that it knows their norm.
    """

    layers: Layers
    announced: tuple[int, ...]
    whole: bool
    read: Read
    absent: str = ""

    def gradients(self, scale: float | Tensor) -> Gradients:
        """The shards as they are now."""
        tensors, layers = self.read()
        return Gradients(tensors, layers, scale)


def replicated(
    layers: Layers,
    answers: Callable[[Parameter], bool],
    *,
    whole: bool = True,
    absent: str = "",
) -> Shards:
    """Gradients are in `p.grad`, the same on several ranks: one of them `answers` for each."""
    announced = {layer for parameter, layer in layers.owners if answers(parameter)}

    def read() -> tuple[list[Tensor], list[int]]:
        there = [(p.grad, layer) for p, layer in layers.owners if p.grad is not None]
        return [_dense(grad) for grad, _ in there], [layer for _, layer in there]

    return Shards(layers, tuple(sorted(announced)), whole, read, absent)


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def of_engine(
    root: Module,
    optimizer: object,
    device: torch.device,
    answers: Callable[[Parameter], bool],
    *,
    complete: bool,
) -> Shards:
    """The shards of a DeepSpeed engine.

    `answers` says whether this rank reports a parameter that several hold, `complete` whether
    every rank has the complete model.
    """
    layers = layers_of(root, _counter(optimizer))
    parameters = [parameter for parameter, _ in layers.owners]
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return _partitions(layers, optimizer, device)
    if any(hasattr(parameter, "_hp_mapping") for parameter in parameters):
        return _fragments(layers, optimizer, device)
    whole = complete and not any(map(is_expert, parameters))
    return replicated(layers, answers, whole=whole)


def is_expert(parameter: Parameter) -> bool:
    """Whether this belongs to an expert of DeepSpeed's, which not every rank has."""
    return getattr(parameter, "allreduce", True) is False


def _counter(optimizer: object) -> Callable[[Parameter], bool]:
    """Which parameters this rank counts: DeepSpeed's own rule for model-parallel replicas."""
    first = getattr(optimizer, "model_parallel_rank", 0) in (0, None)

    def counts(parameter: Parameter) -> bool:
        split = getattr(parameter, "model_parallel", False) or getattr(
            parameter, "tensor_model_parallel", False
        )
        return bool(split or first) and not getattr(parameter, "ds_pipe_replicated", False)

    return counts


def _fragments(layers: Layers, optimizer: object, device: torch.device) -> Shards:
    """ZeRO 1 and 2, and the bf16 optimizer: a slice of the flattened parameters."""
    offloaded = bool(getattr(optimizer, "cpu_offload", False))
    held = getattr(optimizer, "params_in_partition", None)
    if held is not None and not offloaded:
        return _averaged(layers, optimizer, held)
    absent = _IN_FLIGHT if offloaded and device.type != "cpu" else ""
    mine = [
        (parameter, layer)
        for parameter, layer in layers.owners
        if getattr(parameter, "_hp_mapping", None) is not None
    ]

    def read() -> tuple[list[Tensor], list[int]]:
        return [_fragment(parameter) for parameter, _ in mine], [layer for _, layer in mine]

    return Shards(layers, tuple(sorted({layer for _, layer in mine})), False, read, absent)


def _averaged(layers: Layers, optimizer: object, held: Sequence[Sequence[Parameter]]) -> Shards:
    """The lists that DeepSpeed takes its own norm of: `held` are the parameters, in groups."""
    owner = {id(parameter): layer for parameter, layer in layers.owners}
    mine = {owner[id(one)] for group in held for one in group if id(one) in owner}

    def read() -> tuple[list[Tensor], list[int]]:
        averaged: Mapping[int, Sequence[Tensor]] = getattr(optimizer, "averaged_gradients", {})
        shards: list[Tensor] = []
        owners: list[int] = []
        for place, group in enumerate(held):
            real = (one for one in averaged[place] if not getattr(one, "_zero_padding", False))
            for gradient, parameter in zip(real, group, strict=False):  # padding may follow
                if id(parameter) in owner:
                    shards.append(gradient)
                    owners.append(owner[id(parameter)])
        return shards, owners

    return Shards(layers, tuple(sorted(mine)), False, read)


def _fragment(parameter: Parameter) -> Tensor:
    mapping = getattr(parameter, "_hp_mapping")  # noqa: B009 - DeepSpeed's, unknown to torch
    place = getattr(parameter, "_index_in_param_group")  # noqa: B009
    gradient: Tensor = mapping.get_lp_grad_fragment(place)
    address = mapping.lp_fragment_address
    if gradient.numel() != address.numel:  # the bf16 optimizer accumulates the whole parameter
        return gradient.view(-1).narrow(0, address.start, address.numel)
    return gradient


def _partitions(layers: Layers, optimizer: object, device: torch.device) -> Shards:
    """ZeRO 3: a partition of every parameter."""
    offloaded = bool(getattr(optimizer, "offload_optimizer", False))
    absent = _IN_FLIGHT if offloaded and device.type != "cpu" else ""
    owner = {id(parameter): layer for parameter, layer in layers.owners}
    every = tuple(range(len(layers.names)))

    def read() -> tuple[list[Tensor], list[int]]:
        averaged = getattr(optimizer, "averaged_gradients", None)
        groups: Sequence[Sequence[Parameter]] = getattr(optimizer, "fp16_groups", ())
        if not averaged:
            return _local(layers)
        pairs = [
            (gradient, owner[id(parameter)])
            for place, group in enumerate(groups)
            for gradient, parameter in zip(averaged[place], group, strict=True)
            if id(parameter) in owner
        ]
        return [gradient for gradient, _ in pairs], [layer for _, layer in pairs]

    return Shards(layers, every, False, read, absent)


def _local(layers: Layers) -> tuple[list[Tensor], list[int]]:
    """The partitions through DeepSpeed's public call, which copies: for offloaded gradients."""
    shards: list[Tensor] = []
    owners: list[int] = []
    for parameter, layer in layers.owners:
        optimizer = getattr(parameter, "_z3_optimizer")  # noqa: B009 - DeepSpeed's
        shard = optimizer.get_local_fp32_grad_for_param(parameter)
        if shard is not None:
            shards.append(shard)
            owners.append(layer)
    return shards, owners
