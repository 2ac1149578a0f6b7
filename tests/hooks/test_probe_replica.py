"""What a rank says of the weights that others hold too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sentinel.wire import Series
from sentinel_hooks.adapters.replicas import of_engine, of_model
from sentinel_hooks.probes.probe import Outcome, Sample
from sentinel_hooks.probes.replica import ReplicaProbe, checksum
from sentinel_hooks.reference.faults import flip

KINDS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def _weights(kind: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        Parameter(torch.randn(shape, generator=generator).to(kind))
        for shape in ((7, 5), (5,), (64, 3))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_have_the_same_sum_and_one_flipped_bit_another(kind: torch.dtype) -> None:
    one, other = _weights(kind), _weights(kind)
    assert int(checksum(one)) == int(checksum(other))
    with torch.no_grad():
        whole = torch.int64 if kind == torch.float64 else torch.int16
        other[2].view(-1).view(whole)[-1] ^= 1
    assert int(checksum(one)) != int(checksum(other))


def test_tensors_that_changed_places_and_strides_that_differ_are_seen_for_what_they_are() -> None:
    first, second = torch.arange(6.0).view(2, 3), torch.arange(6.0, 12.0).view(2, 3)
    assert int(checksum([first, second])) != int(checksum([second, first]))
    assert int(checksum([first.t()])) == int(checksum([first]))


def test_of_nan_the_bits_count_too() -> None:
    assert int(checksum([torch.tensor([float("nan")])])) == int(
        checksum([torch.tensor([float("nan")])])
    )


def _put(probe: ReplicaProbe) -> list[float]:
    sample = Sample(1, len(probe.series()), 0.0)
    probe.update_began()
    probe.optimizer_ended(Outcome(1))
    probe.read(sample)
    return list(sample.values)


def test_each_group_of_ranks_has_a_sum_that_a_double_holds_exactly() -> None:
    dense, experts = _weights(), _weights(torch.bfloat16)
    probe = ReplicaProbe({"0-7": dense, "0,4": experts})
    assert probe.series() == [Series("replica_checksum", one) for one in ("0-7", "0,4")]
    expected = [int(checksum(one)) % (1 << 48) for one in (dense, experts)]
    assert [int(value) for value in _put(probe)] == expected
    assert all(value == int(value) > 1 << 24 for value in _put(probe))


def test_weights_are_seen_as_they_were_before_the_optimizer_changed_them() -> None:
    weights = _weights()
    probe = ReplicaProbe({"0-1": weights})
    before = _put(probe)
    sample = Sample(2, 1, 0.0)
    probe.update_began()
    flip(weights[0].detach(), 0.1)
    probe.read(sample)
    assert list(sample.values) == before
    assert _put(probe) != before


def test_a_model_that_nobody_else_is_known_to_hold_is_not_compared_and_says_so() -> None:
    model = nn.Linear(3, 3)
    parameters = [*model.parameters()]
    for found in (of_model(model, parameters), of_engine(object(), parameters)):
        assert found.absent == "no other rank is known to hold the same weights"
        probe = ReplicaProbe(found.held, found.absent)
        assert (probe.series(), probe.missing()) == ([], {"replica_checksum": found.absent})
        assert _put(probe) == []
