"""Look for weights that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import Module

from sentinel_hooks.probes.holdings import Holdings


def first_bad(root: Module, masters: Holdings | None = None) -> str:
    """The first parameter of which this rank holds a NaN or Inf, or "" if there is none.

    Under ZeRO 3 a rank looks at its own partitions. With `masters` also at this rank's share of
    what the optimizer updates. One pass over them; waits for each device once.
    """
    held = list(_held(root))
    place = _first(tensor for _, tensor in held)
    if place is not None:
        return held[place][0]
    return "" if masters is None else _bad_master(masters, {id(tensor) for _, tensor in held})


def _held(root: Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in root.named_parameters():
        tensor = getattr(parameter, "ds_tensor", parameter)
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            yield name, tensor


def _bad_master(masters: Holdings, seen: set[int]) -> str:
    storages: Sequence[Tensor] = masters.storages()
    looked_at = [place for place, one in enumerate(storages) if id(one) not in seen]
    found = _first(storages[place] for place in looked_at)
    if found is None:
        return ""
    flat = storages[looked_at[found]].detach().reshape(-1)
    for piece in masters.pieces:
        if piece.storage == looked_at[found]:
            part = flat[piece.offset : piece.offset + piece.count]
            if not bool(torch.isfinite(part).all()):
                return f"{masters.tensors.names[piece.tensor]} (the optimizer's copy)"
    return f"the optimizer's copy of the weights, part {looked_at[found]}"


def _first(tensors: Iterator[Tensor]) -> int | None:
    """The place of the first of them with a NaN or Inf; sums are quick, and tell most."""
    values = [_local(one) for one in tensors]
    for _, places in groupby(range(len(values)), lambda place: values[place].device):
        run = list(places)
        sums = torch.stack([values[one].sum(dtype=torch.float32) for one in run]).tolist()
        for place, total in zip(run, sums, strict=True):
            if not math.isfinite(total) and not bool(torch.isfinite(values[place]).all()):
                return place
    return None


def _local(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach()
