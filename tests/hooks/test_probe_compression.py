"""How much compressed optimizers send, from the numbers that they themselves keep."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState

from sentinel_hooks.probes.compression import CompressionProbe, compression_of
from sentinel_hooks.probes.probe import Outcome, Sample


def ratio(probe: CompressionProbe) -> float | None:
    """What the probe puts for a step."""
    sample = Sample(1, 1, 0.0)
    probe.optimizer_ended(Outcome(1))
    probe.read(sample)
    return None if sample.is_missing(0) else sample.values[0]


class OnebitAdam:
    """The attributes of DeepSpeed's, which needs NCCL or MPI to be made."""

    def __init__(self, **groups: Any) -> None:
        self.adam_freeze_key = False
        self.size = 4
        weight = torch.zeros(1000, 32)
        self.param_groups: list[dict[str, Any]] = [{"params": [weight], **groups}]


def test_one_bit_adam_sends_everything_before_the_freeze_and_signs_after_it() -> None:
    optimizer = OnebitAdam()
    probe = compression_of(optimizer, None)
    assert ratio(probe) == 1.0
    optimizer.adam_freeze_key = True
    # A bit of each element, a quarter of that again, and two scales, over 4 bytes of each.
    assert ratio(probe) == pytest.approx((32_000 / 8 * 1.25 + 8) / 128_000)


def test_what_one_bit_adam_is_told_not_to_freeze_is_sent_whole() -> None:
    optimizer = OnebitAdam(non_freeze=True)
    optimizer.adam_freeze_key = True
    assert ratio(compression_of(optimizer, None)) == 1.0


def test_power_sgd_is_measured_by_its_own_counts_step_by_step() -> None:
    state = PowerSGDState(process_group=None)
    ddp = SimpleNamespace(_comm_hooks=[(object(), state)])
    probe = compression_of(torch.optim.SGD([torch.zeros(1)]), ddp)
    state.iter += 1  # before it compresses it counts steps alone
    assert ratio(probe) == 1.0
    state.iter += 1
    state.total_numel_before_compression += 1000
    state.total_numel_after_compression += 50
    assert ratio(probe) == 0.05
    assert ratio(probe) is None  # nothing was sent in between


def test_without_compression_the_signal_is_missing_with_the_reason() -> None:
    probe = compression_of(torch.optim.SGD([torch.zeros(1)]), torch.nn.Linear(1, 1))
    assert probe.series() == ()
    assert probe.missing() == {"gradient_compression": "no compressed optimizer is in use"}


def test_zero_one_adam_is_not_guessed_at() -> None:
    named = type("ZeroOneAdam", (), {})()
    (reason,) = compression_of(named, None).missing().values()
    assert "0/1 Adam" in reason
