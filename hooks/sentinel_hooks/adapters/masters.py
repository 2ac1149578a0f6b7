"""Where the weights that the optimizer updates are: fp32 masters where there are some.

What is private here to DeepSpeed is probed for; what a version does not have, or keeps on a disk,
makes the signals missing, with the reason. Nothing is read yet: only places are noted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from sentinel_hooks.adapters.membership import own_rank
from sentinel_hooks.adapters.shards import Shards
from sentinel_hooks.adapters.slices import ZERO_MASTERS, ZERO_WORKING, slices
from sentinel_hooks.probes.holdings import Holdings, Piece

_SWAPPED = "the optimizer keeps its weights on a disk (NVMe offload)"
_UNKNOWN = "this version of DeepSpeed does not show where the optimizer keeps its weights"
_NO_MOMENT = "the optimizer ({name}) is none of Adam's kind: it has no betas and eps"
_NO_HOOKS = "the optimizer ({name}) is no torch.optim.Optimizer: its steps cannot be seen"

# Masters of this rank, in one tensor for each group of parameters, and the flattened parameters.
_FLAT = (
    (ZERO_MASTERS, ZERO_WORKING),  # ZeRO 1 and 2
    ("fp32_groups_flat_partition", "bf16_groups_flat"),  # bf16 with its own optimizer
    ("fp32_groups_flat", "fp16_groups_flat"),  # 16 bits without ZeRO
)


def of_parameters(shards: Shards, absent: str = "") -> Holdings:
    """The parameters themselves are what the optimizer is given."""
    every, tensors = shards.parameters.every, shards.parameters.tensors
    pieces = tuple(Piece(one, one, 0, 0, tensors.sizes[one]) for one in shards.announced)
    return Holdings(tensors, pieces, lambda: every, absent)


def of_engine(shards: Shards, optimizer: object) -> Holdings:
    """The weights that a DeepSpeed engine's optimizer updates on this rank."""
    every = shards.parameters.every
    if getattr(optimizer, "swap_optimizer", False):
        return Holdings(shards.parameters.tensors, (), tuple, _SWAPPED)
    if any(hasattr(parameter, "ds_id") for parameter in every):
        return _flat(shards, optimizer, "fp32_partitioned_groups_flat", _partitions)
    for masters, working in _FLAT:
        if hasattr(optimizer, masters) and hasattr(optimizer, working):
            return _flat(shards, optimizer, masters, partial(_slices, working))
    if hasattr(optimizer, "fp32_groups"):
        return _separate(shards, optimizer)
    return of_parameters(shards)


def base_of(optimizer: object) -> object:
    """The optimizer that does the steps, inside those that DeepSpeed puts around it."""
    while not isinstance(optimizer, torch.optim.Optimizer):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            break
        optimizer = inner
    return optimizer


def without_moment(base: object) -> str:
    """Why this base optimizer has no second moment of Adam's; "" where it may have one."""
    name = type(base).__name__
    if not isinstance(base, torch.optim.Optimizer):
        return _NO_HOOKS.format(name=name)
    adam = all("betas" in group and "eps" in group for group in base.param_groups)
    return "" if adam else _NO_MOMENT.format(name=name)


def _flat(
    shards: Shards, optimizer: object, name: str, find: Callable[[Shards, object], list[Piece]]
) -> Holdings:
    """Masters in flat tensors, which the optimizer has a list of."""
    tensors = shards.parameters.tensors

    def storages() -> Sequence[Tensor]:
        found: Sequence[Tensor] = getattr(optimizer, name)
        return found

    try:
        pieces = find(shards, optimizer)
        fits = all(
            piece.offset + piece.count <= storages()[piece.storage].numel() for piece in pieces
        )
    except (AttributeError, LookupError, TypeError) as error:
        return Holdings(tensors, (), tuple, f"{_UNKNOWN}: {type(error).__name__}: {error}")
    if not fits:
        return Holdings(tensors, (), tuple, _UNKNOWN)
    answered = set(shards.announced)
    return Holdings(tensors, tuple(one for one in pieces if one.tensor in answered), storages)


def _slices(working: str, shards: Shards, optimizer: object) -> list[Piece]:
    """Shares of the flattened parameters that have this name."""
    return slices(shards.parameters, optimizer, working)


def _partitions(shards: Shards, optimizer: object) -> list[Piece]:
    """ZeRO 3: partitions of parameters, side by side in sub-groups; the last ones are padded."""
    found = getattr(optimizer, "grad_position")  # noqa: B009 - DeepSpeed's
    pieces = []
    for place, parameter in enumerate(shards.parameters.every):
        position = found.get(getattr(parameter, "ds_id", None))
        if position is None:
            continue  # not one that the optimizer was given
        storage, offset, count = position
        start = count * shards.members[place].shards.index(own_rank())
        count = min(count, shards.parameters.tensors.sizes[place] - start)
        if count > 0:
            pieces.append(Piece(place, storage, offset, start, count))
    return pieces


def _separate(shards: Shards, optimizer: object) -> Holdings:
    """The same without flattening: a master for every parameter."""
    index = shards.parameters.index()
    groups: Sequence[Sequence[Parameter]] = getattr(optimizer, "fp16_groups")  # noqa: B009
    answered = set(shards.announced)
    places = [index.get(id(parameter)) for group in groups for parameter in group]
    sizes = shards.parameters.tensors.sizes
    pieces = tuple(
        Piece(one, storage, 0, 0, sizes[one])
        for storage, one in enumerate(places)
        if one is not None and one in answered
    )

    def storages() -> Sequence[Tensor]:
        masters: Sequence[Sequence[Tensor]] = getattr(optimizer, "fp32_groups")  # noqa: B009
        return [master for group in masters for master in group]

    return Holdings(shards.parameters.tensors, pieces, storages)
