"""The parameters of a model that are watched, and what they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from torch.nn import Embedding, Module, Parameter

from sentinel_hooks.probes.tensors import Tensors


@dataclass(frozen=True)
class Parameters:
    """The trainable parameters of a model, each once, in the model's order.

    `every[i]` is tensor `i` of `tensors`.
    """

    every: tuple[Parameter, ...]
    tensors: Tensors

    def named(self) -> list[tuple[str, Parameter]]:
        """Each with its name."""
        return [*zip(self.tensors.names, self.every, strict=True)]

    def index(self) -> dict[int, int]:
        """The place of each parameter by its `id`."""
        return {id(parameter): place for place, parameter in enumerate(self.every)}


def parameters_of(root: Module, counts: Callable[[Parameter], bool] = lambda _: True) -> Parameters:
    """The trainable parameters of this model, those that `counts` says yes to."""
    rename = _expert_numbers(root)
    embeddings = {id(module.weight) for module in root.modules() if isinstance(module, Embedding)}
    every: list[Parameter] = []
    names: list[str] = []
    layers: dict[str, int] = {}
    layer_of: list[int] = []
    rows: list[int] = []
    for full_name, parameter in root.named_parameters():
        if not (parameter.requires_grad and counts(parameter)):
            continue
        name = rename(full_name)
        layer = name.rpartition(".")[0] or root_name(root)
        every.append(parameter)
        names.append(name)
        layer_of.append(layers.setdefault(layer, len(layers)))
        rows.append(_shape(parameter)[0] if id(parameter) in embeddings else 0)
    sizes = tuple(map(numel, every))
    tensors = Tensors(tuple(names), tuple(layers), tuple(layer_of), sizes, tuple(rows))
    return Parameters(tuple(every), tensors)


def root_name(root: Module) -> str:
    """What the root, which has no dotted name, is called: its class."""
    return type(root).__name__


def is_expert(parameter: Parameter) -> bool:
    """Whether this belongs to an expert of DeepSpeed's, which not every rank has."""
    return getattr(parameter, "allreduce", True) is False


def numel(parameter: Parameter) -> int:
    """The elements of the whole parameter, also where a rank holds a part of it only."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _shape(parameter: Parameter) -> tuple[int, ...]:
    """The shape of the whole parameter."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _expert_numbers(root: Module) -> Callable[[str], str]:
    """Experts are numbered on each rank from 0: the name with the number among all of them.

    In the order in which DeepSpeed's checkpoints number them.
    """
    first: dict[str, int] = {}  # the name of a list of experts -> the number of its first
    for name, module in root.named_modules():
        count, own = getattr(module, "num_local_experts", None), f"{name}.deepspeed_experts."
        if isinstance(count, int) and hasattr(module, "deepspeed_experts"):
            first[own.removeprefix(".")] = count * _expert_rank(module)

    def rename(name: str) -> str:
        for experts, offset in first.items():
            if offset and name.startswith(experts):
                number, dot, rest = name[len(experts) :].partition(".")
                return f"{experts}{int(number) + offset}{dot}{rest}"
        return name

    return rename


def _expert_rank(experts: Module) -> int:
    """The place of this rank among those that share the experts out."""
    groups = sys.modules.get("deepspeed.utils.groups")
    find = getattr(groups, "_get_expert_parallel_rank", None)
    named = (getattr(one, "group_name", None) for one in experts.parameters())
    group = next((name for name in named if name is not None), None)
    return int(find(group)) if find is not None and group is not None else 0
