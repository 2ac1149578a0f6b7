"""What is said of engines that no CPU can run, or that are not as we know them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from tests.hooks.engines import Bare
from tests.hooks.scripts.gpt import batch
from tests.hooks.watched import Watched


class Optimizer(torch.optim.SGD):
    """Applies whatever it is given."""

    cur_scale: float | None = 1.0


class FP16_UnfusedOptimizer(Optimizer):  # noqa: N801 - DeepSpeed's name
    """Leaves the loss scale in its norm."""


class Engine(Bare):
    """The surface of a DeepSpeed engine."""

    optimizer: Optimizer

    def __init__(self, kind: type[Optimizer] = Optimizer) -> None:
        super().__init__(kind, steps=0)
        self.norm: Callable[[], float | None] = lambda: None

    def get_global_grad_norm(self) -> float | None:
        return self.norm()


class HalfEngine(Engine):
    """Trains in fp16, by its own word."""

    dynamic = True

    def fp16_enabled(self) -> bool:
        return True

    def dynamic_loss_scale(self) -> bool:
        return self.dynamic


def train(engine: Engine) -> None:
    rows = batch(engine.global_steps + 1)
    engine.backward(engine.module(rows[:, :-1], rows[:, 1:]))
    engine.step()


def fail() -> float:
    raise NotImplementedError("renamed")


def test_a_norm_that_fails_at_attach_is_not_asked_for_again() -> None:
    engine = Engine()
    engine.norm = fail
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine)
    values = watched.steps[0].values
    assert values["grad_norm"] > 0  # ours: this rank has all gradients
    assert {"loss", "skipped", "lr"} <= set(values)


def test_a_norm_that_fails_later_takes_with_it_what_rests_on_it_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "0")
    engine = Engine()
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine)
    engine.norm = fail
    train(engine)
    train(engine)
    assert watched.boundaries == [1, 2, 3]
    assert "renamed" in {one.signal: one.reason for one in watched.lost}["grad_norm"]
    for seen in watched.steps[1:]:
        assert {"loss", "skipped", "lr"} <= set(seen.values)
        assert not {"grad_norm", "grad_norm_masked", "nonfinite_update"} & set(seen.values)


def test_an_overflow_under_a_fixed_scale_has_no_floor_and_is_a_skipped_step() -> None:
    engine = HalfEngine()
    engine.dynamic = False
    missing = DeepSpeedAdapter(engine).panel.missing
    assert "fixed" in missing["overflow"]
    assert "fixed" in missing["loss_scale_at_floor"]
    assert "loss_scale" not in missing


def test_the_scaler_of_torch_has_no_floor() -> None:
    engine = Engine()
    engine.torch_autocast_z0_gradscaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    missing = DeepSpeedAdapter(engine).panel.missing
    assert "no floor" in missing["loss_scale_at_floor"]
    assert not {"overflow", "loss_scale", "layer_grad_norm"} & set(missing)


def test_gradients_whose_scale_nobody_tells_are_not_measured() -> None:
    engine = HalfEngine()
    engine.optimizer.cur_scale = None
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine)
    missing = watched.adapter.panel.missing
    assert "unscaled" in missing["layer_grad_norm"]
    assert "cur_scale" in missing["loss_scale"]
    assert not any(name.startswith("layer_grad_norm") for name in watched.steps[0].values)


def test_a_norm_that_deepspeed_leaves_scaled_is_not_taken_for_the_gradients() -> None:
    norms = []
    for kind in (Optimizer, FP16_UnfusedOptimizer):
        engine = Engine(kind)
        engine.norm = lambda: 65536.0
        watched = Watched(DeepSpeedAdapter(engine))
        train(engine)
        norms.append(watched.steps[0].values["grad_norm"])
    assert norms[0] == 65536
    assert 0 < norms[1] < 100


def test_a_plain_loop_says_why_it_shows_none_of_what_deepspeed_does() -> None:
    engine = Engine()
    watched = Watched(choose(model=engine.module, optimizer=engine.optimizer))
    train(engine)
    told = {
        *("skipped", "overflow", "loss_scale", "loss_scale_at_floor"),
        *("grad_norm_masked", "clip_coefficient", "backward_bypassed"),
    }
    assert told <= set(watched.adapter.panel.missing)
    assert not told & set(watched.steps[0].values)
    assert watched.steps[0].values["zero_lr"] == 0
    assert math.isfinite(watched.steps[0].values["grad_norm"])
