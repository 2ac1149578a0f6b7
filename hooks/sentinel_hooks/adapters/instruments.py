"""The probes that every kind of trainer gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import Module

from sentinel_hooks.adapters.options import Options
from sentinel_hooks.adapters.parameters import Parameters, root_name
from sentinel_hooks.collectives.group import Groups
from sentinel_hooks.probes.activation import ActivationProbe
from sentinel_hooks.probes.allocator import allocator_of
from sentinel_hooks.probes.backward import BackwardProbe
from sentinel_hooks.probes.collective_sequence import CollectiveSequenceProbe
from sentinel_hooks.probes.collective_time import CollectiveTimeProbe
from sentinel_hooks.probes.cost import CostProbe
from sentinel_hooks.probes.data import DataProbe
from sentinel_hooks.probes.device_blocks import DeviceBlocksProbe
from sentinel_hooks.probes.device_memory import DeviceMemoryProbe
from sentinel_hooks.probes.device_peak import peak_of
from sentinel_hooks.probes.experts import ExpertProbe
from sentinel_hooks.probes.hardware import HardwareProbe
from sentinel_hooks.probes.host_memory import HostMemoryProbe
from sentinel_hooks.probes.logged import LogProbe
from sentinel_hooks.probes.loss import LossProbe
from sentinel_hooks.probes.mark import Marker
from sentinel_hooks.probes.model_operations import operations_of
from sentinel_hooks.probes.out_of_memory import OutOfMemoryProbe
from sentinel_hooks.probes.probe import Probe
from sentinel_hooks.probes.throughput import ThroughputProbe
from sentinel_hooks.probes.timing import TimingProbe


def instruments(
    root: Module,
    device: torch.device,
    parameters: Parameters,
    own: Sequence[Probe],
    options: Options,
    groups: Groups,
    *,
    no_checkpoints: str = "",
    complete: bool = True,
) -> list[Probe]:
    """All probes, in the order in which they are read: others need what gradients found.

    `own` are those that are made otherwise for each kind of trainer. `no_checkpoints` says why
    nobody tells of checkpoints, `complete` whether this rank has the complete model.
    """
    peak, no_peak = peak_of(device, options.peak_flops)
    allocator = allocator_of(device)
    device_memory = DeviceMemoryProbe(allocator)
    return [
        LossProbe(),
        *own,
        BackwardProbe(parameters.named(), root_name(root), device, alone=is_alone()),
        ActivationProbe(root, root_name(root), device),
        ExpertProbe(root),
        DataProbe(Marker(device)),
        TimingProbe(device, no_checkpoints),
        ThroughputProbe(operations_of(root, complete=complete), peak, no_peak),
        HostMemoryProbe(pinned=allocator.pinned if allocator else lambda: 0),
        device_memory,
        DeviceBlocksProbe(allocator),
        OutOfMemoryProbe(lambda: device_memory.ooms),
        HardwareProbe(device),
        CollectiveSequenceProbe(groups),
        CollectiveTimeProbe(groups, device, nccl_timing=options.nccl_timing),
        LogProbe(device),
        CostProbe(),
    ]


def is_alone() -> bool:
    """Whether there is no other rank."""
    return not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
