"""Where something not finite began, when only one element of each row is looked at."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn

from sentinel_hooks.probes.activation import ActivationProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Outcome, Sample
from tests.hooks.scripts.gpt import Gpt, batch

CPU = torch.device("cpu")
CALLED = [
    name
    for name, module in Gpt(layers=4).named_modules()
    if name and not isinstance(module, nn.ModuleList)
]


def watched(model: nn.Module) -> Panel:
    panel = Panel([ActivationProbe(model, type(model).__name__, CPU)], CPU)
    panel.start(0)
    return panel


def step(panel: Panel, model: nn.Module, *inputs: Tensor) -> Sample:
    panel.forward_began(inputs, {}, True)
    panel.forward_ended(model(*inputs))
    panel.optimizer_ended(Outcome(1))
    panel.read(1)
    (sample,) = panel.settled()
    return sample


def spoil(module: nn.Module, value: float) -> torch.utils.hooks.RemovableHandle:
    """From now on one element of the output, which is not the first of its row, is this."""

    def hook(_: nn.Module, args: object, output: Tensor) -> Tensor:
        spoiled = output.clone()
        spoiled[1, 3, 77] = value
        return spoiled

    return module.register_forward_hook(hook)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", CALLED)
def test_one_spoiled_element_of_a_large_output_is_located_exactly(name: str, value: float) -> None:
    torch.manual_seed(0)
    model = Gpt(width=192, layers=4, vocabulary=256)
    panel = watched(model)
    tokens = batch(0, vocabulary=256)
    inputs = (tokens[:, :-1], tokens[:, 1:])
    assert step(panel, model, *inputs).values[0] == 0
    handle = spoil(model.get_submodule(name), value)
    sample = step(panel, model, *inputs)
    handle.remove()
    assert [one.module for one in sample.findings] == [name]
    assert sample.values[0] >= 1
    assert step(panel, model, *inputs).values[0] == 0


class Pointwise(nn.Module):
    """Nothing here ever mixes the elements of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Tanh(), nn.Tanh()) for _ in range(12)])
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return (self.scale * x).sum()


def test_what_does_not_spread_is_located_when_it_comes_again() -> None:
    model = Pointwise()
    panel = watched(model)
    x = torch.randn(2, 16, 192)
    assert step(panel, model, x).values[0] == 0
    handle = spoil(model.get_submodule("layers.2.1"), math.nan)
    first, second = step(panel, model, x), step(panel, model, x)
    handle.remove()
    assert first.values[0] > 0
    assert second.findings[0].module == "layers.2.1"


def test_no_more_than_the_latest_five_blocks_are_kept_and_nothing_between_steps() -> None:
    model = Gpt(width=192, layers=9)
    panel = watched(model)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def count(_: nn.Module, args: object, output: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(output))
        most = max(most, sum(one() is not None for one in alive))

    handles = [
        model.get_submodule(f"blocks.{i}.mlp").register_forward_hook(count) for i in range(6)
    ]
    tokens = batch(0)
    with torch.no_grad():  # else autograd keeps them, too
        step(panel, model, tokens[:, :-1], tokens[:, 1:])
    for handle in handles:
        handle.remove()
    gc.collect()
    assert most <= 5
    assert not any(one() is not None for one in alive)
