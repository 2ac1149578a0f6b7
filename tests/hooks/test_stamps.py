"""Whether gradients are still those that were looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import Module, Parameter
from torch.optim import SGD

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.stamps import Stamps
from sentinel_hooks.probes.gradient import GradientProbe
from tests.hooks.watched import Watched


def clip(model: Module) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)


def mend_one(model: Module) -> None:
    gradient = next(model.parameters()).grad
    assert gradient is not None
    gradient.nan_to_num_()


def replace_one(model: Module) -> None:
    first = next(model.parameters())
    first.grad = torch.zeros_like(first)


def drop_one(model: Module) -> None:
    next(model.parameters()).grad = None


def accumulate(model: Module) -> None:
    model(torch.ones(2, 3)).sum().backward()


def look(model: Module) -> None:
    assert all(
        bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None
    )


CHANGES: list[tuple[Callable[[Module], None], bool]] = [
    (look, True),
    (clip, False),
    (mend_one, False),
    (replace_one, False),
    (drop_one, False),
    (accumulate, False),
]


@pytest.mark.parametrize(("change", "holds"), CHANGES)
def test_stamps_hold_until_a_gradient_is_written_to_or_replaced(
    change: Callable[[Module], None], holds: bool
) -> None:
    model = torch.nn.Linear(3, 3)
    accumulate(model)
    stamps = Stamps(model.parameters())
    change(model)
    assert stamps.hold() is holds


def test_a_parameter_without_a_gradient_holds_until_it_gets_one() -> None:
    parameter = Parameter(torch.ones(2))
    stamps = Stamps([parameter])
    assert stamps.hold()
    parameter.grad = torch.ones(2)
    assert not stamps.hold()


@pytest.mark.parametrize("wary", [False, True])
@pytest.mark.parametrize(("change", "holds"), [one for one in CHANGES if one[0] != accumulate])
def test_what_nobody_knows_to_be_finite_is_looked_at_again_if_it_may_have_changed(
    change: Callable[[Module], None], holds: bool, wary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    monkeypatch.setattr(GradientProbe, "asks_again", True)  # as on a device
    monkeypatch.setattr(GradientProbe, "is_wary", wary)
    monkeypatch.setattr(GradientProbe, "gradients_final", lambda _, given: looked.append(given))
    model = torch.nn.Linear(3, 3)
    optimizer = SGD(model.parameters(), lr=0.1)
    watched = Watched(choose(model=model, optimizer=optimizer))
    accumulate(model)
    change(model)
    optimizer.step()
    watched.adapter.detach()
    assert len(looked) == (0 if holds and not wary else 1)


@pytest.mark.parametrize("mended", [False, True])
def test_what_was_not_looked_at_again_is_told_as_applied_by_the_next_step(
    mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    monkeypatch.setattr(GradientProbe, "is_wary", property(lambda probe: probe._wary > 0))  # as on
    model = torch.nn.Linear(3, 3, bias=False)  # a device, where nobody knows in time
    optimizer = SGD(model.parameters(), lr=0.1)
    watched = Watched(choose(model=model, optimizer=optimizer))
    for number in range(3):
        factor = torch.inf if number == 0 else 1.0
        (model(torch.ones(2, 3)).square().sum() * factor).backward()
        gradient = model.weight.grad
        assert gradient is not None
        if mended:
            gradient.data.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        optimizer.zero_grad()
    watched.adapter.detach()
    updates = [seen.values.get("nonfinite_update") for seen in watched.steps]
    assert updates == ([None, 0, 0] if mended else [None, 1, 1])
    assert watched.steps[0].values["nonfinite_gradient"] == 1
