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

from sentinel_hooks.adapters.membership import (
    Members,
    Membership,
    fragmented,
    partitioned,
    replicas_of,
)
from sentinel_hooks.adapters.parameters import Parameters, is_expert, parameters_of
from sentinel_hooks.adapters.slices import ZERO_MASTERS, ZERO_WORKING, slices
from sentinel_hooks.probes.probe import Gradients

_IN_FLIGHT = "offloaded gradients may still be on their way to the host"
Read = Callable[[], "tuple[list[Tensor], list[int]]"]


@dataclass(frozen=True)
class Shards:
    """How to read the shards of this rank, or why not.

    `members[i]` are the ranks that have parameter `i`; `announced` those parameters that this
    rank answers for; `whole`: it holds every gradient of the model, so that it knows their norm.
    """

    parameters: Parameters
    members: tuple[Membership, ...]
    announced: tuple[int, ...]
    whole: bool
    read: Read
    absent: str = ""

    def gradients(self, scale: float | Tensor) -> Gradients:
        """The shards as they are now."""
        tensors, owners = self.read()
        return Gradients(tensors, owners, scale)


def replicated(
    parameters: Parameters, members: Members, *, whole: bool = True, absent: str = ""
) -> Shards:
    """Gradients are in `p.grad`, the same on several ranks: the first answers for each."""
    held = tuple(map(members, parameters.every))
    announced = tuple(place for place, one in enumerate(held) if one.reports)

    def read() -> tuple[list[Tensor], list[int]]:
        shards, owners = [], []
        for place, parameter in enumerate(parameters.every):
            gradient = parameter.grad
            if gradient is not None:
                shards.append(local(gradient))
                owners.append(place)
        return shards, owners

    return Shards(parameters, held, announced, whole, read, absent)


def local(gradient: Tensor) -> Tensor:
    """The elements of a gradient that this rank holds: those that are there, if it is sparse."""
    if type(gradient) is Tensor and not gradient.is_sparse:
        return gradient
    own: Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return own.coalesce().values() if own.is_sparse else own


def of_engine(engine: object, root: Module, optimizer: object, device: torch.device) -> Shards:
    """The shards of a DeepSpeed engine, its optimizer and its model."""
    parameters = parameters_of(root, _counter(optimizer))
    if any(hasattr(parameter, "ds_id") for parameter in parameters.every):
        return _partitions(parameters, optimizer, device)
    if any(hasattr(parameter, "_hp_mapping") for parameter in parameters.every):
        return _fragments(parameters, optimizer, device)
    whole = is_complete(engine) and not any(map(is_expert, parameters.every))
    return replicated(parameters, lambda one: replicas_of(engine, one), whole=whole)


def is_complete(engine: object) -> bool:
    """Whether every rank has the complete model: no pipeline, no tensor parallelism."""
    return all(getattr(engine, name, 1) in (1, None) for name in ("num_stages", "mp_world_size"))


def _counter(optimizer: object) -> Callable[[Parameter], bool]:
    """Which parameters this rank counts: DeepSpeed's own rule for model-parallel replicas."""
    first = getattr(optimizer, "model_parallel_rank", 0) in (0, None)

    def counts(parameter: Parameter) -> bool:
        split = getattr(parameter, "model_parallel", False) or getattr(
            parameter, "tensor_model_parallel", False
        )
        return bool(split or first) and not getattr(parameter, "ds_pipe_replicated", False)

    return counts


def _fragments(parameters: Parameters, optimizer: object, device: torch.device) -> Shards:
    """ZeRO 1 and 2, and the bf16 optimizer: a slice of the flattened parameters."""
    members = tuple(map(fragmented, parameters.every))
    offloaded = bool(getattr(optimizer, "cpu_offload", False))
    held = getattr(optimizer, "params_in_partition", None)
    if held is not None and not offloaded:
        return _averaged(parameters, members, optimizer, held)
    if offloaded:
        return _offloaded(parameters, members, optimizer, device)
    mine = [
        (place, parameter)
        for place, parameter in enumerate(parameters.every)
        if getattr(parameter, "_hp_mapping", None) is not None
    ]
    announced = tuple(place for place, _ in mine)

    def read() -> tuple[list[Tensor], list[int]]:
        return [_fragment(parameter) for _, parameter in mine], list(announced)

    return Shards(parameters, members, announced, False, read)


def _offloaded(
    parameters: Parameters,
    members: tuple[Membership, ...],
    optimizer: object,
    device: torch.device,
) -> Shards:
    """ZeRO 1 and 2 with the optimizer on the host: gradients beside the masters there."""
    absent = _IN_FLIGHT if device.type != "cpu" else ""
    pieces = slices(parameters, optimizer, ZERO_WORKING)
    announced = tuple(sorted({piece.tensor for piece in pieces}))

    def read() -> tuple[list[Tensor], list[int]]:
        masters: Sequence[Tensor] = getattr(optimizer, ZERO_MASTERS)
        flat = [None if master.grad is None else master.grad.view(-1) for master in masters]
        there = [(flat[piece.storage], piece) for piece in pieces]
        shards = [grad.narrow(0, one.offset, one.count) for grad, one in there if grad is not None]
        return shards, [one.tensor for grad, one in there if grad is not None]

    return Shards(parameters, members, announced, False, read, absent)


def _averaged(
    parameters: Parameters,
    members: tuple[Membership, ...],
    optimizer: object,
    held: Sequence[Sequence[Parameter]],
) -> Shards:
    """The lists that DeepSpeed takes its own norm of: `held` are the parameters, in groups."""
    index = parameters.index()
    mine = {index[id(one)] for group in held for one in group if id(one) in index}

    def read() -> tuple[list[Tensor], list[int]]:
        averaged: Mapping[int, Sequence[Tensor]] = getattr(optimizer, "averaged_gradients", {})
        shards: list[Tensor] = []
        owners: list[int] = []
        for place, group in enumerate(held):
            real = (one for one in averaged[place] if not getattr(one, "_zero_padding", False))
            for gradient, parameter in zip(real, group, strict=False):  # padding may follow
                if id(parameter) in index:
                    shards.append(gradient)
                    owners.append(index[id(parameter)])
        return shards, owners

    return Shards(parameters, members, tuple(sorted(mine)), False, read)


def _fragment(parameter: Parameter) -> Tensor:
    mapping = getattr(parameter, "_hp_mapping")  # noqa: B009 - DeepSpeed's, unknown to torch
    place = getattr(parameter, "_index_in_param_group")  # noqa: B009
    gradient: Tensor = mapping.get_lp_grad_fragment(place)
    address = mapping.lp_fragment_address
    if gradient.numel() != address.numel:  # the bf16 optimizer accumulates the whole parameter
        return gradient.view(-1).narrow(0, address.start, address.numel)
    return gradient


def _partitions(parameters: Parameters, optimizer: object, device: torch.device) -> Shards:
    """ZeRO 3: a partition of every parameter."""
    offloaded = bool(getattr(optimizer, "offload_optimizer", False))
    absent = _IN_FLIGHT if offloaded and device.type != "cpu" else ""
    index = parameters.index()
    members = tuple(map(partitioned, parameters.every))
    announced = tuple(place for place, one in enumerate(members) if one.reports)

    def read() -> tuple[list[Tensor], list[int]]:
        averaged = getattr(optimizer, "averaged_gradients", None)
        groups: Sequence[Sequence[Parameter]] = getattr(optimizer, "fp16_groups", ())
        if not averaged:
            return _local(parameters)
        pairs = [
            (gradient, index[id(parameter)])
            for place, group in enumerate(groups)
            for gradient, parameter in zip(averaged[place], group, strict=True)
            if id(parameter) in index
        ]
        return [gradient for gradient, _ in pairs], [place for _, place in pairs]

    return Shards(parameters, members, announced, False, read, absent)


def _local(parameters: Parameters) -> tuple[list[Tensor], list[int]]:
    """The partitions through DeepSpeed's public call, which copies: for offloaded gradients."""
    shards: list[Tensor] = []
    owners: list[int] = []
    for place, parameter in enumerate(parameters.every):
        optimizer = getattr(parameter, "_z3_optimizer")  # noqa: B009 - DeepSpeed's
        shard = optimizer.get_local_fp32_grad_for_param(parameter)
        if shard is not None:
            shards.append(shard)
            owners.append(place)
    return shards, owners
