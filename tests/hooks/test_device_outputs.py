"""What modules returned is judged on the device, in call order, and not kept alive."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sentinel_hooks.probes import device_outputs
from sentinel_hooks.probes.activation import ActivationProbe
from sentinel_hooks.probes.device_outputs import SMALL, DeviceOutputs
from sentinel_hooks.probes.panel import Panel
from tests.hooks.watched import Later

SHAPES = [(3,), (4, 5), (64, 128), (2, 32, 256), (1, SMALL), (1, SMALL + 1)]


def finite(outputs: DeviceOutputs) -> list[bool]:
    """Of each output, in call order, whether all that was looked at is finite."""
    magnitudes, places = outputs.magnitudes()
    assert magnitudes.dtype == torch.float32
    assert len(places) == len(outputs)
    read = magnitudes.tolist()
    return [math.isfinite(read[place]) for place in places]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(SHAPES),
            st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
            st.sampled_from([0.0, math.nan, math.inf, -math.inf]),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_bad_row_is_found_in_the_output_that_has_it(
    given: list[tuple[tuple[int, ...], torch.dtype, float, bool, bool]],
) -> None:
    outputs = DeviceOutputs()
    block: list[Tensor] = []
    for shape, dtype, bad, whole, block_ends in given:
        block.append(torch.ones(shape, dtype=dtype))
        block[-1][-1] += bad
        if block_ends:
            outputs.add(block, whole=whole)
            block = []
    outputs.add(block, whole=False)
    assert finite(outputs) == [bad == 0.0 for _, _, bad, _, _ in given]


@pytest.mark.parametrize("whole", [True, False])
def test_one_element_that_is_bad_is_found_where_all_are_looked_at(whole: bool) -> None:
    tensor = torch.ones(64, 128)
    tensor[5, 77] = math.nan
    outputs = DeviceOutputs()
    outputs.add([tensor], whole=whole)
    assert finite(outputs) == [not whole]


@pytest.mark.parametrize("shape", [(8,), (2, 8)])
def test_what_is_small_is_always_looked_at_whole(shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape)
    tensor[..., 3] = math.inf
    outputs = DeviceOutputs()
    outputs.add([tensor], whole=False)
    assert finite(outputs) == [False]


def test_what_is_passed_on_is_looked_at_once_and_counts_for_both() -> None:
    good, bad = torch.ones(64, 128), torch.full((64, 128), math.nan)
    outputs = DeviceOutputs()
    outputs.add([good, good, bad, bad, good], whole=False)
    magnitudes, _ = outputs.magnitudes()
    assert len(magnitudes) == 3
    assert finite(outputs) == [True, True, False, False, True]


def test_rows_do_not_pile_up_until_the_pass_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_outputs, "MOST", 256)
    outputs = DeviceOutputs()
    for block in range(100):
        outputs.add([torch.full((64, 128), math.nan if block == 40 else 1.0)], whole=False)
        assert outputs._elements <= 256
    assert finite(outputs) == [block != 40 for block in range(100)]


def test_nothing_is_kept_alive_once_it_is_added() -> None:
    memory = np.ones((64, 128), np.float32)
    alive = weakref.ref(memory)
    outputs = DeviceOutputs()
    outputs.add([torch.from_numpy(memory)], whole=False)
    del memory
    assert alive() is None
    assert finite(outputs) == [True]


class Block(nn.Module):
    """Calls these, one after the other."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


@pytest.mark.parametrize("recomputed", [False, True])
def test_on_a_device_an_output_is_kept_no_longer_than_its_block(recomputed: bool) -> None:
    device = torch.device("cuda", 0)
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []
    inner, last = nn.Tanh(), nn.Tanh()
    model = nn.Sequential(*(Block(inner, nn.GELU(), last) for _ in range(3)))
    probe = ActivationProbe(model, "model", device)
    panel = Panel([probe], device, readback=Later())
    panel.start(0)

    def made(_: nn.Module, args: object, output: Tensor) -> None:
        alive.append(weakref.ref(output))

    def count(*_: object) -> None:
        counts.append(sum(one() is not None for one in alive))

    inner.register_forward_hook(made)
    last.register_forward_pre_hook(count)  # when what `inner` made is needed no more
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        panel.forward_began((), {}, True)
        with torch.set_grad_enabled(not recomputed):
            panel.forward_ended(model(torch.ones(64, 4, 32, device=device)))
    panel.detach()
    assert counts == ([0, 0, 0] if recomputed else [1, 1, 1])


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    """Counts the operators that are called."""

    count: int = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # likewise

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # likewise
        result = func(*args, **(kwargs or {}))
        self.count += isinstance(result, Tensor)
        return result


def operators(blocks: int, layers: int, *, watched: bool) -> int:
    """How many operators a forward pass on a device calls."""
    device = torch.device("cuda", 0)
    model = nn.Sequential(*(Block(*(nn.Tanh() for _ in range(layers))) for _ in range(blocks)))
    panel = Panel([ActivationProbe(model, "m", device)] * watched, device, readback=Later())
    panel.start(0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = torch.ones(64, 128, device=device)
        with Counted() as counted:
            panel.forward_began((), {}, True)
            panel.forward_ended(model(inputs))
    panel.detach()
    count: int = counted.count
    return count


def test_a_module_costs_the_host_one_operator_and_a_block_two() -> None:
    added = {
        (blocks, layers): operators(blocks, layers, watched=True)
        - operators(blocks, layers, watched=False)
        for blocks, layers in ((4, 4), (4, 5), (5, 4))
    }
    assert added[4, 5] - added[4, 4] == 4
    assert added[5, 4] - added[4, 4] <= 4 + 2
