"""Faults as they are written on the command line."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import torch

from sentinel_hooks.reference.data import Text, read_text
from sentinel_hooks.reference.faults import (
    SYNTAX,
    Corrupt,
    Fault,
    FaultError,
    Hang,
    KillRank,
    Leak,
    LrJump,
    Nan,
    Poison,
    SlowRank,
    flip,
    free_memory,
    parse,
)
from sentinel_hooks.reference.model import Decoder, Shape

if TYPE_CHECKING:  # importing DeepSpeed takes seconds
    from sentinel_hooks.reference.trainer import Trainer

MODEL = Decoder(Shape(layers=2, width=16, heads=2, context=8))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nan:module=layers.1.mlp,step=40", Nan("layers.1.mlp", 40, rank=0, batches=1)),
        ("nan:module=norm,rank=1,step=40,batches=6", Nan("norm", 40, rank=1, batches=6)),
        ("nan:module=head,step=4,batches=forever", Nan("head", 4, batches=math.inf)),
        ("poison:step=40", Poison(40, rank=0, batches=1)),
        ("poison:step=40,rank=1,batches=forever", Poison(40, rank=1, batches=math.inf)),
        ("lr-jump:step=40,factor=1000", LrJump(40, 1000.0)),
        ("corrupt:module=head,rank=1,step=40", Corrupt("head", 1, 40)),
        ("corrupt:module=head,rank=1,step=4,share=0.5", Corrupt("head", 1, 4, share=0.5)),
        ("leak:rank=1,step=40,mb=2.5", Leak(1, 40, 2.5)),
        ("leak:rank=1,step=40,percent=0.1", Leak(1, 40, percent=0.1)),
        ("slow-rank:rank=1,step=40,seconds=0.5", SlowRank(1, 40, 0.5)),
        ("hang:rank=1,step=40", Hang(1, 40)),
        ("kill-rank:rank=1,step=40", KillRank(1, 40)),
    ],
)
def test_what_is_written_right_is_read(text: str, fault: Fault) -> None:
    assert parse(text) == fault


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no fault ''"),
        ("nam:module=norm,step=1", "there is no fault 'nam'"),
        ("nan", "nan needs module and step"),
        ("nan:module=norm", "nan needs step"),
        ("nan:module=norm,step=1,times=3", "nan has no 'times'"),
        ("nan:module=norm,step=1,step=2", "step is given twice"),
        ("nan:module=norm,step=soon", "'soon' is no step"),
        ("nan:module=norm,step", "'' is no step"),
        ("nan:module=norm,step=0", "step must be at least 1, got 0"),
        ("nan:module=norm,step=1,batches=0", "batches must be at least 1, got 0"),
        ("lr-jump:step=1,factor=-2", "factor must be a positive number, got -2.0"),
        ("lr-jump:step=1,factor=nan", "factor must be a positive number, got nan"),
        ("leak:rank=0,step=1,mb=0", "mb must be a positive number, got 0.0"),
        ("leak:rank=0,step=1", "leak needs mb or percent, one of them"),
        ("leak:rank=0,step=1,mb=1,percent=1", "leak needs mb or percent, one of them"),
        ("leak:rank=0,step=1,percent=0", "percent must be a positive number, got 0.0"),
        ("slow-rank:rank=0,step=1,seconds=-1", "seconds must be a positive number, got -1.0"),
        ("hang:rank=0,step=0", "step must be at least 1, got 0"),
        ("poison:step=1,batches=0", "batches must be at least 1, got 0"),
        ("kill-rank:step=1", "kill-rank needs rank"),
    ],
)
def test_what_is_written_wrong_is_told_with_what_is_right(text: str, told: str) -> None:
    with pytest.raises(FaultError) as error:
        parse(text)
    assert told in str(error.value)
    assert SYNTAX in str(error.value)


ON_RANK: tuple[Callable[[int], Fault], ...] = (
    lambda rank: Poison(1, rank=rank),
    lambda rank: Leak(rank, 1, 60.0),
    lambda rank: SlowRank(rank, 1, 1.0),
    lambda rank: Hang(rank, 1),
)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Nan("layers.1.mpl", 1), "no module 'layers.1.mpl'.*close: layers.1.mlp"),
        (Nan("layers", 1), "no module 'layers'"),  # a container, which is never called
        (Nan("", 1), "no module ''"),
        (Nan("norm", 1, rank=2), "no rank 2 among 2"),
        (KillRank(rank=-1, step=1), "no rank -1 among 2"),
        *((fault(2), "no rank 2 among 2") for fault in ON_RANK),
    ],
)
def test_a_fault_that_cannot_happen_here_is_refused(fault: Fault, told: str) -> None:
    with pytest.raises(FaultError, match=told):
        fault.check(MODEL, world_size=2)


class Steps:
    """As much of a trainer as faults take hold of, with a model that does nothing."""

    def __init__(self, accumulation: int = 1) -> None:
        self.accumulation = accumulation
        self.micro = 0
        self.engine = SimpleNamespace(
            global_steps=0,
            module=torch.nn.Identity(),
            is_gradient_accumulation_boundary=lambda: self.micro == self.accumulation,
        )
        self.text = Text(read_text(), rows=4, context=32, seed=0, rank=0)
        self.before_step: list[Callable[[], None]] = []

    def arm(self, fault: Fault) -> None:
        fault.arm(cast("Trainer", self), rank=0)

    def step(self) -> float:
        """One step; how many seconds it took."""
        began = time.perf_counter()
        for act in self.before_step:
            act()
        for micro in range(1, self.accumulation + 1):
            self.micro = micro
            self.engine.module(torch.zeros(1))
        self.engine.global_steps += 1
        return time.perf_counter() - began


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_flipped_bits_double_or_halve_some_weights_and_leave_the_others(
    kind: torch.dtype,
) -> None:
    before = torch.linspace(0.1, 2.0, 200, dtype=kind)
    after = before.clone()
    flip(after, share=0.05)
    changed = (after != before).nonzero().flatten().tolist()
    assert changed == [*range(0, 200, 20)]
    assert {float(one) for one in (after / before)[changed]} <= {0.5, 2.0}
    flip(after, share=0.05)
    assert torch.equal(after, before)


def test_leaked_memory_is_really_in_use_and_grows_with_each_step() -> None:
    steps = Steps()
    steps.arm(Leak(rank=0, step=2, mb=60))
    used = []
    for _ in range(3):
        steps.step()
        used.append(resident())
    assert used[1] - used[0] > 50e6
    assert used[2] - used[1] > 50e6


def test_a_leak_in_percent_is_of_what_is_free_and_can_be_no_more() -> None:
    free = free_memory()
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free < machine
    steps = Steps()
    steps.arm(Leak(rank=0, step=1, percent=100 * 60e6 / free))
    before = resident()
    steps.step()
    assert 40e6 < resident() - before < 90e6


def test_a_slow_rank_is_slow_once_a_step_from_its_step_on() -> None:
    steps = Steps(accumulation=3)
    slept: list[int] = []
    steps.arm(SlowRank(rank=0, step=2, seconds=0.05))
    steps.engine.module.register_forward_hook(lambda *_: slept.append(steps.micro))
    assert steps.step() >= 0
    assert steps.step() >= 0.05
    assert steps.step() >= 0.05
    assert slept == [1, 2, 3] * 3


def test_a_hung_rank_stands_still_within_its_step_while_other_threads_go_on() -> None:
    steps = Steps()
    steps.arm(Hang(rank=0, step=2))
    done: list[float] = []
    for ends in (True, False):
        thread = threading.Thread(target=lambda: done.append(steps.step()), daemon=True)
        thread.start()
        thread.join(timeout=60 if ends else 0.3)
        assert thread.is_alive() != ends
    assert len(done) == 1
    assert steps.engine.global_steps == 1


@pytest.mark.parametrize("fault", [make(1) for make in ON_RANK])
def test_a_fault_of_another_rank_leaves_this_one_alone(fault: Fault) -> None:
    steps = Steps()
    steps.arm(fault)
    before = resident()
    batch = steps.text.batch(1)
    steps.step()
    assert steps.engine.global_steps == 1
    assert resident() - before < 30e6
    assert batch.equal(Steps().text.batch(1))


def test_a_poisoned_batch_is_random_bytes_and_the_same_at_each_reading() -> None:
    steps = Steps()
    healthy = [steps.text.batch(number) for number in range(6)]
    steps.arm(Poison(step=2, batches=3))
    found = [steps.text.batch(number) for number in range(6)]
    assert [batch.equal(was) for batch, was in zip(found, healthy, strict=True)] == [
        *(True, True, False, False, False, True)
    ]
    assert found[2].equal(steps.text.batch(2))
    assert not found[2].equal(found[3])
    assert found[2].shape == healthy[2].shape
    # Every second random byte is above 127, where text has next to none.
    assert (found[2] > 127).float().mean() > 0.3


def test_the_loss_jumps_on_a_poisoned_batch() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    steps = Steps()
    steps.arm(Poison(step=41))
    model = Decoder(Shape(layers=1, width=32, heads=2, context=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    losses = []
    for number in range(1, 43):
        rows = steps.text.batch(number)
        loss = model(rows[:, :-1], rows[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[40] > max(losses[30:40]) + 1.5
    assert losses[41] < losses[40] - 1.5
