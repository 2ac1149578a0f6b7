"""Where parameters lie in the flat tensors that DeepSpeed shares out over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sentinel_hooks.adapters.parameters import Parameters
from sentinel_hooks.probes.holdings import Piece

ZERO_WORKING = "bit16_groups_flat"  # of ZeRO 1 and 2: the flattened parameters, in groups
ZERO_MASTERS = "single_partition_of_fp32_groups"  # and the masters of this rank's share of each


def slices(parameters: Parameters, optimizer: object, working: str) -> list[Piece]:
    """This rank's equal share of each of the flat tensors `working` of an optimizer.

    Where a parameter lies in them is read off its address: DeepSpeed's own table has them in
    another order when gradients go round robin (0.19). Without a group for each the share is all.
    """
    flats: Sequence[Tensor] = getattr(optimizer, working)
    groups: Sequence[torch.distributed.ProcessGroup]
    groups = getattr(optimizer, "real_dp_process_group", ())
    pieces = []
    for storage, flat in enumerate(flats):
        ranks, rank = 1, 0
        if groups:
            ranks = torch.distributed.get_world_size(groups[storage])
            rank = torch.distributed.get_rank(groups[storage])
        share = flat.numel() // ranks
        first = share * rank
        for place, parameter in enumerate(parameters.every):
            if parameter.untyped_storage().data_ptr() != flat.untyped_storage().data_ptr():
                continue
            at = int(parameter.storage_offset()) - int(flat.storage_offset())
            left, right = max(at, first), min(at + parameter.numel(), first + share)
            if left < right:
                pieces.append(Piece(place, storage, left - first, left - at, right - left))
    return pieces
