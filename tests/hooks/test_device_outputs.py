"""What modules returned is judged on the device, in call order, and not kept alive."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sentinel_hooks.probes.device_outputs import SMALL, DeviceOutputs

SHAPES = [(3,), (4, 5), (64, 128), (2, 32, 256), (1, SMALL), (1, SMALL + 1)]


def finite(outputs: DeviceOutputs) -> list[bool]:
    """Of each output, in call order, whether all that was looked at is finite."""
    magnitudes, order = outputs.magnitudes()
    assert magnitudes.dtype == torch.float32
    assert sorted(order) == list(range(len(outputs)))
    by_number = dict(zip(order, magnitudes.tolist(), strict=True))
    return [math.isfinite(by_number[number]) for number in range(len(outputs))]


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
    for shape, dtype, bad, whole, block_ends in given:
        tensor = torch.ones(shape, dtype=dtype)
        tensor[-1] += bad
        outputs.add(tensor, whole=whole)
        if block_ends:
            outputs.block_ended()
    assert finite(outputs) == [bad == 0.0 for _, _, bad, _, _ in given]


@pytest.mark.parametrize("whole", [True, False])
def test_one_element_that_is_bad_is_found_where_all_are_looked_at(whole: bool) -> None:
    tensor = torch.ones(64, 128)
    tensor[5, 77] = math.nan
    outputs = DeviceOutputs()
    outputs.add(tensor, whole=whole)
    assert finite(outputs) == [not whole]


@pytest.mark.parametrize("shape", [(8,), (2, 8)])
def test_what_is_small_is_always_looked_at_whole(shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape)
    tensor[..., 3] = math.inf
    outputs = DeviceOutputs()
    outputs.add(tensor, whole=False)
    assert finite(outputs) == [False]


def add_one(outputs: DeviceOutputs) -> weakref.ref[object]:
    """Adds an output of which nobody else keeps anything. Returns what dies with its memory."""
    memory = np.ones((64, 128), np.float32)
    outputs.add(torch.from_numpy(memory), whole=False)
    return weakref.ref(memory)


def test_what_is_to_be_recomputed_is_not_kept_alive() -> None:
    outputs = DeviceOutputs()
    with torch.no_grad():
        assert add_one(outputs)() is None


def test_nothing_is_kept_alive_beyond_its_block() -> None:
    outputs = DeviceOutputs()
    memory = add_one(outputs)
    assert memory() is not None
    outputs.block_ended()
    assert memory() is None
