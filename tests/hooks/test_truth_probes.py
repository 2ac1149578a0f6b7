"""Probes of what trainers hide: rates of zero, loss scales, masked norms, clipping, bypasses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.bypass import BypassProbe
from sentinel_hooks.probes.clipping import ClippingProbe, coefficient
from sentinel_hooks.probes.gradient import GradientProbe
from sentinel_hooks.probes.loss_scale import LossScaleProbe
from sentinel_hooks.probes.masking import MaskingProbe
from sentinel_hooks.probes.probe import Barrier, Gradients, Outcome, Probe, Sample
from sentinel_hooks.probes.rate import RateProbe
from sentinel_hooks.probes.tensors import Tensors

HEAD = Tensors(("head.weight",), ("head",), (0,), (1,), (0,))
CPU = torch.device("cpu")
NAN, INF = math.nan, math.inf


def start(probes: Sequence[Probe]) -> list[Series]:
    """Start them one after the other, as a panel does; their series."""
    series = [one for probe in probes for one in probe.series()]
    barrier = cast(Barrier, SimpleNamespace(series=tuple(series)))
    first = 0
    for probe in probes:
        probe.start(first, barrier)
        first += len(probe.series())
    return series


def read(probes: Sequence[Probe], series: Sequence[Series], *, defers: bool) -> dict[str, float]:
    """What they put; `defers`: their values come later, as from a device."""
    sample = Sample(1, len(series), 0.0, defers=defers)
    for probe in probes:
        probe.read(sample)
    for tensor, fill in sample.take_deferred():
        fill(tensor.tolist())
    return {
        one.signal: sample.values[place]
        for place, one in enumerate(series)
        if not sample.is_missing(place)
    }


@pytest.mark.parametrize("defers", [False, True])
@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([0.0, 0.0], (0.0, 1)),
        ([0.0, 1e-3], (0.0, 0)),
        ([1e-3, 0.0], (1e-3, 0)),
        ([torch.tensor(0.0), 0.0], (0.0, 1)),
        ([torch.tensor(0.5), torch.tensor(0.25)], (0.5, 0)),
    ],
)
def test_a_rate_is_zero_only_if_that_of_every_group_is(
    rates: list[float | Tensor], expected: tuple[float, float], defers: bool
) -> None:
    probe = RateProbe(lambda: rates)
    series = start([probe])
    probe.optimizer_began()
    values = read([probe], series, defers=defers)
    assert (values["lr"], values["zero_lr"]) == expected


@pytest.mark.parametrize(
    ("scale", "floor", "expected"),
    [
        (8.0, 1.0, {"loss_scale": 8, "loss_scale_at_floor": 0}),
        (1.0, 1.0, {"loss_scale": 1, "loss_scale_at_floor": 1}),
        (torch.tensor(0.5), 1.0, {"loss_scale": 0.5, "loss_scale_at_floor": 1}),
        (4.0, None, {"loss_scale": 4}),
        (None, 1.0, {}),
    ],
)
def test_a_loss_scale_is_at_its_floor_when_it_is_no_larger(
    scale: float | Tensor | None, floor: float | None, expected: dict[str, float]
) -> None:
    probe = LossScaleProbe(lambda: scale, lambda: floor, {})
    series = start([probe])
    probe.optimizer_began()
    assert read([probe], series, defers=False) == expected


@pytest.mark.parametrize("defers", [False, True])
@pytest.mark.parametrize(
    ("gradient", "outcome", "masked"),
    [
        (1.0, Outcome(1, skipped=False, grad_norm=1.0), 0),
        (1.0, Outcome(1, skipped=False, grad_norm=torch.tensor(1.0)), 0),
        (NAN, Outcome(1, skipped=False, grad_norm=-1.0), 1),
        (NAN, Outcome(1, skipped=True, grad_norm=torch.tensor(INF)), 1),
        (NAN, Outcome(1, skipped=False, grad_norm=NAN), 0),  # the truth
        (INF, Outcome(1, skipped=False), 1),  # nothing said
        (NAN, Outcome(1, skipped=False, grad_norm=1.0), 1),  # the root of (-1)^2
        (1.0, Outcome(1, skipped=True, grad_norm=3.0), 1),  # bad elsewhere; the last step's norm
        (1.0, Outcome(1, skipped=False, grad_norm=-1.0), 1),  # bad elsewhere
        (INF, Outcome(1, skipped=False, overflow=True, grad_norm=INF), 1),
    ],
)
def test_a_norm_is_masked_when_it_hides_that_the_gradient_was_not_finite(
    gradient: float, outcome: Outcome, masked: float, defers: bool
) -> None:
    gradients = GradientProbe(HEAD, [0], whole=False)
    probes = [gradients, MaskingProbe(CPU)]
    series = start(probes)
    gradients.gradients_ready(Gradients([torch.tensor([gradient])], [0]))
    for probe in probes:
        probe.optimizer_ended(outcome)
    values = read(probes, series, defers=defers)
    assert values["grad_norm_masked"] == masked
    if masked and not outcome.overflow and outcome.grad_norm is not None:
        assert not math.isfinite(values["grad_norm"])


def test_where_nobody_looked_at_the_gradient_only_a_masking_value_says_something() -> None:
    probe = MaskingProbe(CPU)
    series = start([probe])
    for norm, expected in ((1.0, {}), (None, {}), (-1.0, {"grad_norm_masked": 1})):
        probe.optimizer_ended(Outcome(1, grad_norm=norm))
        assert read([probe], series, defers=False) == expected


@pytest.mark.parametrize(
    ("threshold", "norm", "expected"),
    [(1.0, 0.5, 1.0), (1.0, 4.0, 0.25), (0.0, 9.0, 1.0), (1.0, INF, 0.0), (1.0, 0.0, 1.0)],
)
def test_gradients_beyond_the_threshold_are_scaled_down_to_it(
    threshold: float, norm: float, expected: float
) -> None:
    assert coefficient(threshold, norm) == pytest.approx(expected, rel=1e-5)


def test_a_norm_that_is_not_a_number_makes_a_coefficient_that_is_none() -> None:
    assert math.isnan(coefficient(1.0, NAN))


@pytest.mark.parametrize("defers", [False, True])
def test_clipping_goes_by_the_norm_of_this_step_and_a_skipped_step_is_not_clipped(
    defers: bool,
) -> None:
    gradients = GradientProbe(HEAD, [0], whole=True)
    probes = [gradients, ClippingProbe(lambda: 1.0, CPU)]
    series = start(probes)
    for size, skipped, expected in ((4.0, False, 0.25), (0.5, False, 1.0), (8.0, True, None)):
        gradients.gradients_ready(Gradients([torch.tensor([size])], [0]))
        for probe in probes:
            probe.optimizer_ended(Outcome(1, skipped=skipped))
        coefficient = read(probes, series, defers=defers).get("clip_coefficient")
        assert coefficient == (None if expected is None else pytest.approx(expected, rel=1e-5))


def test_nothing_is_said_of_bypassing_in_a_step_without_a_backward_pass() -> None:
    probe = BypassProbe()
    series = start([probe])
    assert read([probe], series, defers=False) == {}
    probe.backward_began()
    assert read([probe], series, defers=False) == {"backward_bypassed": 0}
    probe.backward_began()
    probe.noticed()
    probe.backward_began()
    assert read([probe], series, defers=False) == {"backward_bypassed": 1}
