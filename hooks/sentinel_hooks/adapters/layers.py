"""The layers of a model: the modules that own parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.nn import Module, Parameter


@dataclass(frozen=True)
class Layers:
    """Names of the modules that own trainable parameters, and whose each parameter is.

    A parameter that several modules share belongs to the first. `owners` has each parameter
    once, in the model's order, with the index of its layer.
    """

    names: tuple[str, ...]
    owners: tuple[tuple[Parameter, int], ...]


def layers_of(root: Module, counts: Callable[[Parameter], bool] = lambda _: True) -> Layers:
    """The layers of this model, with those parameters that `counts` says yes to."""
    names: dict[str, int] = {}
    owners: list[tuple[Parameter, int]] = []
    for full_name, parameter in root.named_parameters():
        if parameter.requires_grad and counts(parameter):
            layer = full_name.rpartition(".")[0] or root_name(root)
            owners.append((parameter, names.setdefault(layer, len(names))))
    return Layers(tuple(names), tuple(owners))


def root_name(root: Module) -> str:
    """What the root, which has no dotted name, is called: its class."""
    return type(root).__name__
