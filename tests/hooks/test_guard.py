"""Under guard a plain loop never applies a gradient that is not finite, and is as before else."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sentinel
from sentinel import wire
from sentinel.errors import AttachError
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.options import Options
from sentinel_hooks.adapters.overflow import Overflow
from sentinel_hooks.probes.finite import may_not_be_finite
from tests.hooks.scripts.gpt import Gpt, batch
from tests.hooks.watched import Watched

GUARD = Options(guard=True)
NAN = math.nan


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


class Loop:
    """A plain loop over a small GPT; `spoil` is called between backward and step."""

    def __init__(self, make: Callable[..., Any] = torch.optim.AdamW, **options: Any) -> None:
        torch.manual_seed(3)
        self.model = Gpt()
        self.optimizer = make(self.model.parameters(), lr=1e-3, **options)
        self.passes = 0
        self.returned: list[object] = []
        self.spoil: Callable[[], None] = lambda: None

    def watch(self) -> Watched:
        return Watched(choose(model=self.model, optimizer=self.optimizer, options=GUARD))

    def backward(self, number: int) -> Tensor:
        self.passes += 1
        self.optimizer.zero_grad()
        rows = batch(number)
        loss: Tensor = self.model(rows[:, :-1], rows[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        self.spoil()
        return loss

    def step(self, number: int, how: str = "plain") -> None:
        if how == "plain":
            self.backward(number)
            self.returned.append(self.optimizer.step())
        elif how == "closure":
            self.returned.append(self.optimizer.step(lambda: self.backward(number)))
        else:
            self.returned.append(self.optimizer.step(closure=lambda: self.backward(number)))

    def everything(self) -> list[Tensor]:
        """The weights and all that the optimizer has."""
        state = (one for kept in self.optimizer.state.values() for one in kept.values())
        tensors = (*self.model.parameters(), *(one for one in state if isinstance(one, Tensor)))
        return [one.detach().clone() for one in tensors]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def put(loop: Loop, how: str, value: float = NAN) -> Callable[[], None]:
    """Puts a value into one gradient, in one of the ways in which loops change gradients."""
    weight = loop.model.head.weight

    def spoil() -> None:
        assert weight.grad is not None
        if how == "in place":
            weight.grad[3, 5] = value
        elif how == "data":
            weight.grad.data[3, 5] = value
        else:
            weight.grad = weight.grad * value

    return spoil


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("how", ["in place", "data", "anew"])
def test_a_step_is_left_out_whole_and_counts_as_skipped(how: str, value: float) -> None:
    guarded, by_hand = Loop(), Loop()
    watched = guarded.watch()
    for number in range(5):
        guarded.spoil = put(guarded, how, value) if number == 2 else lambda: None
        before = guarded.everything()
        guarded.step(number)
        assert same(before, guarded.everything()) == (number == 2)
        if number != 2:
            by_hand.step(number)
    assert same(guarded.everything(), by_hand.everything())
    assert watched.boundaries == [1, 2, 3, 4, 5]
    assert [seen.values["skipped"] for seen in watched.steps] == [0, 0, 1, 0, 0]
    assert [seen.values["nonfinite_update"] for seen in watched.steps] == [0] * 5
    # Nothing was there after the backward pass, and yet it is named.
    assert ("nonfinite_gradient", "head", 0) in watched.steps[2].findings
    assert {module for _, module, _ in watched.steps[2].findings} == {"head"}
    assert watched.steps[2].values["nonfinite_gradient"] == 1
    assert watched.lost == []


def test_a_nan_of_the_forward_pass_is_left_out_and_its_module_named() -> None:
    loop = Loop()
    watched = loop.watch()

    def corrupt(module: nn.Module, args: object, output: Tensor) -> Tensor:
        return output * NAN

    loop.step(0)
    before = loop.everything()
    handle = loop.model.get_submodule("blocks.1.mlp").register_forward_hook(corrupt)
    loop.step(1)
    handle.remove()
    assert same(before, loop.everything())
    assert watched.steps[1].findings[0][:2] == ("nonfinite_activation", "blocks.1.mlp")
    assert watched.steps[1].values["skipped"] == 1


def test_what_the_loop_has_mended_is_applied() -> None:
    loop = Loop()
    watched = loop.watch()

    def mend() -> None:
        weight = loop.model.head.weight
        assert weight.grad is not None
        weight.grad.nan_to_num_()

    handle = loop.model.head.weight.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: gradient * NAN
    )
    loop.spoil = mend
    loop.step(0)
    handle.remove()
    assert watched.steps[0].values["nonfinite_gradient"] == 1
    assert watched.steps[0].values["skipped"] == 0


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
@pytest.mark.parametrize("how", ["plain", "closure", "keyword"])
def test_steps_of_every_form_are_guarded_and_else_bit_equal(
    make: Callable[..., Any], how: str
) -> None:
    guarded, plain = Loop(make), Loop(make)
    watched = guarded.watch()
    for number in range(4):
        if number == 1:
            guarded.spoil = put(guarded, "in place")
            before = guarded.everything()
            guarded.step(number, how)
            assert same(before, guarded.everything())
            guarded.spoil = lambda: None
        else:
            guarded.step(number, how)
            plain.step(number, how)
    assert same(guarded.everything(), plain.everything())
    assert guarded.passes == 4  # each closure is called once
    losses = [one for number, one in enumerate(guarded.returned) if number != 1]
    assert losses == plain.returned
    assert (guarded.returned[1] is None) == (how == "plain")
    assert watched.boundaries == [1, 2, 3, 4]


def test_an_optimizer_that_may_not_begin_with_its_closure_goes_on_unguarded_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.enable_grad():
                super().step()  # on the gradients of the last pass
                return closure()

    loop = Loop(Own)
    watched = loop.watch()
    loop.backward(0)
    with caplog.at_level(logging.WARNING, "sentinel_hooks"):
        loop.step(1, "closure")
        loop.step(2, "closure")
    assert loop.passes == 3
    assert len([one for one in caplog.records if "closure" in one.message]) == 1
    assert len(watched.boundaries) == 4  # its own, and the one inside


def test_lbfgs_is_refused() -> None:
    loop = Loop(torch.optim.LBFGS)
    with pytest.raises(AttachError, match="LBFGS"):
        loop.watch()
    choose(model=loop.model, optimizer=loop.optimizer)  # unguarded it is not


@pytest.mark.parametrize("late", [False, True])
def test_the_loops_own_scheduler_goes_on_over_a_step_that_was_left_out(late: bool) -> None:
    loop = Loop()
    watched = loop.watch() if late else None
    scheduler = torch.optim.lr_scheduler.StepLR(loop.optimizer, step_size=1, gamma=0.5)
    watched = watched or loop.watch()
    for number in range(3):
        loop.spoil = put(loop, "in place") if number == 1 else lambda: None
        loop.step(number)
        scheduler.step()
    assert [seen.values["lr"] for seen in watched.steps] == [1e-3, 5e-4, 2.5e-4]
    assert [seen.values["skipped"] for seen in watched.steps] == [0, 1, 0]
    watched.adapter.detach()
    loop.spoil = put(loop, "in place")
    before = loop.everything()
    loop.step(3)
    assert not same(before, loop.everything())  # nobody guards any more
    assert len(watched.steps) == 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_goes_on_judging_its_own_overflows(fused: bool) -> None:
    loop = Loop(fused=fused)
    watched = loop.watch()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for number in range(3):
        loop.optimizer.zero_grad()
        rows = batch(number)
        scaler.scale(loop.model(rows[:, :-1], rows[:, 1:])).backward()
        if number == 1:
            put(loop, "in place", math.inf)()
        before = loop.everything()
        scaler.step(loop.optimizer)
        assert same(before, loop.everything()) == (number == 1)
        scaler.update()
    assert scaler.get_scale() == 4.0
    # One that is fused is called at each step, and says nothing of what it leaves out.
    assert watched.boundaries == ([1, 2, 3] if fused else [1, 2])
    assert [seen.values.get("skipped") for seen in watched.steps] == (
        [None] * 3 if fused else [0, 0]
    )


def test_the_gradients_that_count_are_those_that_the_optimizer_applies() -> None:
    loop = Loop()
    other = nn.Parameter(torch.ones(3))
    loop.optimizer.add_param_group({"params": [other]})
    frozen = loop.model.positions
    loop.optimizer.param_groups[0]["params"] = [
        one for one in loop.optimizer.param_groups[0]["params"] if one is not frozen
    ]
    watched = loop.watch()
    frozen.grad = torch.full_like(frozen, NAN)  # nobody applies it
    before = loop.everything()
    rows = batch(0)
    loop.model(rows[:, :-1], rows[:, 1:]).backward()
    loop.optimizer.step()
    assert not same(before, loop.everything())
    other.grad = torch.full_like(other, NAN)  # which the model does not have
    before = loop.everything()
    loop.optimizer.step()
    assert same(before, loop.everything())
    assert [seen.values["skipped"] for seen in watched.steps] == [0, 1]


def test_the_guard_stands_when_the_gradient_probe_is_switched_off() -> None:
    loop = Loop()
    watched = loop.watch()
    panel = watched.adapter.panel
    loop.step(0)
    panel.retire(next(one for one in panel.probes if one.name == "gradient norms"), "on purpose")
    loop.spoil = put(loop, "in place")
    before = loop.everything()
    loop.step(1)
    assert same(before, loop.everything())
    assert watched.steps[1].values["skipped"] == 1


def test_a_step_that_goes_past_the_guard_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    watched = loop.watch()
    with caplog.at_level(logging.WARNING, "sentinel_hooks"):
        for number in range(2):
            loop.backward(number)
            torch.optim.AdamW.step(loop.optimizer)
    assert len([one for one in caplog.records if "called past it" in one.message]) == 1
    assert watched.boundaries == [1, 2]


def test_detaching_leaves_no_trace() -> None:
    loop = Loop()
    before = sorted(vars(loop.optimizer))
    watched = loop.watch()
    loop.spoil = put(loop, "in place")
    loop.step(0)
    watched.adapter.detach()
    watched.adapter.detach()
    assert sorted(vars(loop.optimizer)) == before
    assert not loop.optimizer._optimizer_step_pre_hooks
    loop.step(1)
    assert watched.boundaries == [1]
    assert any(bool(one.isnan().any()) for one in loop.model.parameters())


def test_an_error_in_the_closure_is_the_callers() -> None:
    loop = Loop()
    watched = loop.watch()

    def closure() -> Tensor:
        raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        loop.optimizer.step(closure)
    loop.step(0)
    assert watched.boundaries == [1]


def test_elements_whose_squares_overflow_are_finite() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    optimizer = torch.optim.SGD([weight], lr=1e-200)
    adapter = choose(model=model, optimizer=optimizer, options=GUARD)
    adapter.install(lambda _: None, lambda _: None)
    weight.grad = torch.full_like(weight, 1e200)
    optimizer.step()
    assert weight.detach().abs().max() < 1e-12
    before = weight.detach().clone()
    weight.grad[1] = NAN
    optimizer.step()
    assert torch.equal(weight, before)


def test_on_a_device_the_flag_is_formed_there_and_nothing_waits() -> None:
    with FakeTensorMode():
        device = torch.device("cuda", 0)
        gradients = [torch.ones(8, 8, device=device), torch.ones(3, device=device)]
        flag = may_not_be_finite(gradients)  # would raise if it needed a value on the host
    assert isinstance(flag, Tensor)
    assert (flag.device, flag.dtype, flag.shape) == (device, torch.bool, ())


def test_a_rank_says_that_it_is_guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loop = Loop()
    nowhere = str(tmp_path / "nowhere.sock")

    def hello(**options: Any) -> bool:
        watch = sentinel.attach(
            model=loop.model, optimizer=loop.optimizer, daemon=nowhere, **options
        )
        said = watch.greeting()[0]
        watch.detach()
        assert isinstance(said, wire.Hello)
        return said.guard

    assert [hello(), hello(guard=True)] == [False, True]
    monkeypatch.setenv("SENTINEL_GUARD", "1")
    assert [hello(), hello(guard=False)] == [True, False]
    monkeypatch.setenv("SENTINEL_GUARD", "yes")
    with pytest.raises(AttachError, match="SENTINEL_GUARD='yes': expected 1 or 0"):
        hello()


def test_a_deepspeed_optimizer_whose_way_is_not_known_is_refused() -> None:
    class ZenFlowZeroOptimizer:
        """A subclass of a known one does more within its step."""

    class BF16_Optimizer:  # noqa: N801 - DeepSpeed's
        """Of a version that clears its gradients otherwise."""

    with pytest.raises(AttachError, match="ZenFlowZeroOptimizer; known are DeepSpeedZero"):
        Overflow(ZenFlowZeroOptimizer())
    with pytest.raises(AttachError, match="has no clear_hp_grads"):
        Overflow(BF16_Optimizer())
