"""The first parameter, in the order of the backward pass, whose gradient is not finite."""

from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from sentinel.wire import Finding
from sentinel_hooks.probes.backward import BackwardProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Outcome, Probe, Sample
from tests.hooks.scripts.gpt import Gpt, batch

CPU = torch.device("cpu")
NAN = math.nan


class Reduced(Probe):
    """What the measuring of reduced gradients says of them."""

    def __init__(self) -> None:
        self.bad: list[str] = []

    def read(self, sample: Sample) -> None:
        sample.bad_parameters = self.bad
        sample.bad_gradients = bool(self.bad)


class Loop:
    """A model that is trained under nothing but this probe."""

    def __init__(self, *, alone: bool = False) -> None:
        torch.manual_seed(0)
        self.model = Gpt(width=192, vocabulary=1024)
        self.reduced = Reduced()
        self.probe = BackwardProbe([*self.model.named_parameters()], "Gpt", CPU, alone=alone)
        self.panel = Panel([self.reduced, self.probe], CPU)
        self.panel.start(0)
        self.steps = 0

    def step(self, *spoil: Callable[[], None], overflow: bool = False) -> Sample:
        """One step of as many micro-batches as there are ways to spoil them, or of one."""
        for act in spoil or (lambda: None,):
            self.model.zero_grad()
            tokens = batch(self.steps)
            loss = self.model(tokens[:, :-1], tokens[:, 1:])
            act()
            self.panel.backward_began()
            loss.backward()
            self.panel.backward_ended()
        self.steps += 1
        self.panel.optimizer_ended(Outcome(self.steps, overflow=overflow))
        self.panel.read(self.steps)
        (sample,) = self.panel.settled()
        return sample


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.panel.detach()


def nothing() -> None:
    """Spoils nothing."""


def spoiler(model: nn.Module, module: str, place: tuple[int, ...]) -> Callable[[], None]:
    """From the next forward on, one element of the gradient of a module's output is NaN, once."""
    handles = []

    def spoil(gradient: Tensor) -> Tensor:
        spoiled = gradient.clone()
        spoiled[place] = NAN
        return spoiled

    def hook(_: nn.Module, args: object, output: Tensor) -> None:
        output.register_hook(spoil)  # type: ignore[no-untyped-call]

    handles.append(model.get_submodule(module).register_forward_hook(hook))

    def stop() -> None:
        handles.pop().remove()

    return stop


@pytest.mark.parametrize(
    ("module", "parameter"),
    [
        ("head", "head.weight"),
        ("norm", "norm.weight"),
        ("blocks.1.mlp.2", "blocks.1.mlp.2.weight"),
        ("blocks.1.mlp.1", "blocks.1.mlp.0.weight"),  # an activation: what comes before it
        ("blocks.0.attention.qkv", "blocks.0.attention.qkv.weight"),
        ("tokens", "tokens.weight"),
    ],
)
def test_one_spoiled_element_names_the_first_parameter_behind_it(
    loop: Loop, module: str, parameter: str
) -> None:
    assert loop.step().values[0] == 0
    stop = spoiler(loop.model, module, (1, 3, 0 if module == "tokens" else 5))
    sample = loop.step(stop)
    (finding,) = sample.findings
    owner = parameter.rpartition(".")[0]
    assert (finding.signal, finding.module) == ("nonfinite_local_gradient", owner)
    assert finding.parameter.rpartition(".")[0] == owner
    assert sample.values[0] >= 1
    assert loop.step().values[0] == 0


def test_the_micro_batch_is_the_one_in_which_it_was_first_met(loop: Loop) -> None:
    stop: Callable[[], None] | None = None

    def arm() -> None:
        nonlocal stop
        stop = spoiler(loop.model, "blocks.0.norm2", (0, 0, 0))

    sample = loop.step(nothing, arm, lambda: stop() if stop else None)
    (finding,) = sample.findings
    assert finding.micro_batch == 2
    assert finding.module == "blocks.0.norm2"


def test_alone_the_order_of_the_backward_pass_says_which_of_the_bad_was_first() -> None:
    loop = Loop(alone=True)
    loop.reduced.bad = ["tokens.weight", "blocks.0.mlp.0.weight", "blocks.1.mlp.0.weight"]
    sample = loop.step()
    assert sample.values[0] == 3
    assert [(one.signal, one.parameter) for one in sample.findings] == [
        ("nonfinite_local_gradient", "blocks.1.mlp.0.weight"),
        ("nonfinite_gradient", "blocks.1.mlp.0.weight"),
    ]
    loop.panel.detach()


def test_what_another_rank_has_spoiled_is_not_called_local(loop: Loop) -> None:
    loop.reduced.bad = ["tokens.weight", "norm.weight"]
    sample = loop.step()
    assert sample.values[0] == 0
    assert sample.findings == [Finding("nonfinite_gradient", "norm", parameter="norm.weight")]


def test_what_was_overlooked_is_found_when_it_comes_again(loop: Loop) -> None:
    def one_element(gradient: Tensor) -> Tensor:
        spoiled = gradient.clone()
        spoiled[7, 11] = NAN  # of a large gradient, and not at the beginning of its row
        return spoiled

    weight = loop.model.get_submodule("blocks.0.mlp.0").weight
    assert isinstance(weight, nn.Parameter)
    handle = weight.register_hook(one_element)  # type: ignore[no-untyped-call]
    loop.panel.detach()
    loop.panel.start(0)  # our hooks come after it
    loop.reduced.bad = ["blocks.0.mlp.0.weight"]
    assert loop.step().values[0] == 0
    sample = loop.step()
    handle.remove()
    assert sample.values[0] == 1
    assert sample.findings[0].parameter == "blocks.0.mlp.0.weight"


def test_after_an_overflow_of_the_loss_scaler_nothing_is_said_of_gradients(loop: Loop) -> None:
    stop = spoiler(loop.model, "head", (0, 0, 0))
    sample = loop.step(stop, overflow=True)
    assert sample.is_missing(0)
    assert sample.findings == []


def test_large_gradients_whose_sum_overflows_are_finite(loop: Loop) -> None:
    weight = loop.model.get_submodule("norm").weight
    assert isinstance(weight, nn.Parameter)
    handle = weight.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: torch.full_like(gradient, 3e38)
    )
    loop.panel.detach()
    loop.panel.start(0)
    assert loop.step().values[0] == 0
    handle.remove()


def test_hooks_do_not_go_along_with_copies_and_leave_no_trace() -> None:
    before = Gpt()
    fresh = {name: one._backward_hooks for name, one in before.named_parameters()}
    probe = BackwardProbe([*before.named_parameters()], "Gpt", CPU, alone=False)
    panel = Panel([probe], CPU)
    panel.start(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = copy.deepcopy(before)
        stored = io.BytesIO()
        torch.save(before.state_dict(), stored)
        torch.save(before, io.BytesIO())
    assert all(not one._backward_hooks for one in copied.parameters())
    panel.detach()
    assert {name: one._backward_hooks for name, one in before.named_parameters()} == fresh
    assert set(fresh.values()) == {None}


def test_alone_there_are_hooks_only_while_something_is_to_be_seen() -> None:
    loop = Loop(alone=True)
    weight = loop.model.head.weight
    hooked: list[bool] = []

    def look() -> None:
        weight_hooks = weight._backward_hooks
        hooked.append(bool(weight_hooks))

    loop.step(look)  # its order is noted; the hooks come with the backward pass
    loop.step(look)
    loop.step(look, look)  # micro-batches
    loop.step(look)
    loop.step(look)
    assert hooked == [False, True, False, False, True, True]
    loop.panel.detach()
    assert weight._backward_hooks is None
