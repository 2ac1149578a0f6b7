"""Which ranks a parameter is spread over, and which hold the same part of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from sentinel.signals import CATALOG
from sentinel.wire import Group, Series
from sentinel_hooks.adapters.parameters import is_expert
from sentinel_hooks.probes.tensors import Tensors

_LONGEST = 4096  # characters of a message's field
_SUMMED = "summed_grad_norm"


@dataclass(frozen=True)
class Membership:
    """`shards` hold a part each, this rank among them; `replicas` the same part as this rank.

    Ranks of the whole job. The first of the replicas reports.
    """

    shards: tuple[int, ...]
    replicas: tuple[int, ...]

    @property
    def reports(self) -> bool:
        """Whether this rank is the one to report its part."""
        return own_rank() == self.replicas[0]


Members = Callable[[Parameter], Membership]


def own_rank() -> int:
    """This process among all of the job."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def ranks_of(group: object) -> tuple[int, ...]:
    """The ranks of a process group, ascending; of the whole job where it is None."""
    if not torch.distributed.is_initialized():
        return (0,)
    if group is None:
        return tuple(range(torch.distributed.get_world_size()))
    assert isinstance(group, torch.distributed.ProcessGroup)
    return tuple(sorted(torch.distributed.get_process_group_ranks(group)))


def replicated(group: object = None) -> Membership:
    """Whole on this rank, and the same on all of a group."""
    return Membership((own_rank(),), ranks_of(group))


def replicas_of(engine: object, parameter: Parameter) -> Membership:
    """Who has the same copy of a parameter that a DeepSpeed engine does not shard."""
    if is_expert(parameter):
        groups = sys.modules.get("deepspeed.utils.groups")
        find = getattr(groups, "_get_expert_data_parallel_group", None)
        if find is not None:
            return replicated(find(getattr(parameter, "group_name", "")))
        return Membership((own_rank(),), (own_rank(),))
    names = ("seq_data_parallel_group", "data_parallel_group")
    found = (getattr(engine, name, None) for name in names)
    return replicated(next((group for group in found if group is not None), None))


def fragmented(parameter: Parameter) -> Membership:
    """ZeRO 1 and 2 share the flattened parameters out over the data-parallel group."""
    return Membership(ranks_of(getattr(parameter, "_dp_group", None)), (own_rank(),))


def partitioned(parameter: Parameter) -> Membership:
    """ZeRO 3 partitions a parameter over a group; MiCS does so in each of several."""
    groups = getattr(parameter, "comm", None)
    shards = getattr(groups, "param_shard_group", None)
    if shards is None:
        shards = getattr(parameter, "ds_process_group", None)
    same = getattr(groups, "param_repli_group", None)
    replicas = ranks_of(same) if same is not None else (own_rank(),)
    return Membership(ranks_of(shards), replicas)


def ranges(ranks: Iterable[int]) -> str:
    """Ranks as text: "0-3,8", and "0-12/4" for every fourth."""
    rest = sorted(set(ranks))
    parts: list[str] = []
    while rest:
        step = rest[1] - rest[0] if len(rest) > 1 else 1
        count = 1
        while count < len(rest) and rest[count] == rest[0] + count * step:
            count += 1
        if step > 1 and count == 2:
            count = 1  # two ranks that are far from each other are no pattern
        last = rest[count - 1]
        stride = f"/{step}" if step > 1 and count > 1 else ""
        parts.append(f"{rest[0]}-{last}{stride}" if count > 1 else str(last))
        rest = rest[count:]
    return ",".join(parts)


def groups_of(
    series: Sequence[Series], tensors: Tensors, members: Sequence[Membership]
) -> tuple[Group, ...]:
    """What is to be said of the series about parameters: `members[i]` has tensor `i`.

    Of a layer, or the whole model, whose tensors differ in this nothing is said.
    """
    by_label: dict[tuple[str, str], set[Membership]] = {}
    for name, layer, one in zip(tensors.names, tensors.layer_of, members, strict=True):
        by_label.setdefault(("tensor", name), set()).add(one)
        by_label.setdefault(("layer", tensors.layers[layer]), set()).add(one)
        by_label.setdefault(("", _SUMMED), set()).add(one)
    spans: dict[Membership, list[tuple[int, int]]] = {}
    for place, each in enumerate(series):
        key = _key(each)
        found = by_label.get(key, set()) if key is not None else set()
        if len(found) == 1:
            _extend(spans.setdefault(next(iter(found)), []), place)
    groups = (
        Group(ranges(one.shards), ranges(one.replicas), tuple(places[:_LONGEST]))
        for one, places in spans.items()
    )
    return tuple(one for one in groups if max(len(one.shards), len(one.replicas)) <= _LONGEST)


def _key(series: Series) -> tuple[str, str] | None:
    if series.signal == _SUMMED:
        return "", _SUMMED
    label = CATALOG[series.signal].label
    about = series.signal.startswith(("tensor_", "layer_"))
    return (label, series.label) if about else None


def _extend(spans: list[tuple[int, int]], place: int) -> None:
    if spans and sum(spans[-1]) == place:
        spans[-1] = (spans[-1][0], spans[-1][1] + 1)
    else:
        spans.append((place, 1))
