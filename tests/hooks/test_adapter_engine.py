"""The DeepSpeed adapter on engines that no CPU can run: fp16, other versions, pipelines."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from sentinel.errors import AttachError
from sentinel.wire import Remedies
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from sentinel_hooks.adapters.options import Options
from tests.hooks.engines import Bare, Engine, Pipeline, train
from tests.hooks.watched import Watched


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


def test_gradients_are_reported_without_the_loss_scale() -> None:
    engine = Engine()
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine)
    values = watched.steps[0].values
    layers = [value for name, value in values.items() if name.startswith("layer_grad_norm|")]
    assert values["loss_scale"] == 8
    assert values["grad_norm"] == pytest.approx(engine.get_global_grad_norm(), rel=1e-6)
    assert math.sqrt(sum(layers)) == pytest.approx(values["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("guard", [False, True])
def test_an_overflow_that_the_scaler_answers_is_an_overflow_and_nothing_worse(guard: bool) -> None:
    engine = Engine()
    watched = Watched(DeepSpeedAdapter(engine, options=Options(guard=guard)))
    train(engine)
    train(engine, lambda loss: loss * math.inf)
    train(engine)
    before, bad, after = (seen.values for seen in watched.steps)
    assert (before["overflow"], bad["overflow"], after["overflow"]) == (0, 1, 0)
    assert before["skipped"] == bad["skipped"] == after["skipped"] == 0
    assert (bad["loss_scale"], after["loss_scale"]) == (8, 4)
    # Scaled gradients that overflowed say nothing of the gradients themselves.
    for name in ("grad_norm", "nonfinite_gradient", "nonfinite_update"):
        assert name not in bad
        assert name in after
    assert watched.steps[1].findings == [("loss", "", 0)]


def test_a_checkpoint_belongs_to_the_step_that_follows_it() -> None:
    class Saving(Bare):
        def save_checkpoint(self) -> None:
            watched.adapter.panel.interlude(5.0)  # as if it had taken so long

    engine = Saving()
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine)
    engine.save_checkpoint()
    train(engine)
    train(engine)
    saved = [seen.values["checkpoint_seconds"] for seen in watched.steps]
    assert saved[0] == saved[2] == 0
    assert saved[1] >= 5.0
    assert "data_seconds" in watched.steps[1].values


def test_under_a_static_loss_scale_an_overflow_is_a_skipped_step() -> None:
    engine = Engine(dynamic=False)
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine, lambda loss: loss * math.inf)
    values = watched.steps[0].values
    assert "overflow" in watched.adapter.panel.missing
    assert values["skipped"] == 1
    assert values["nonfinite_update"] == 0
    assert not math.isfinite(values["grad_norm"])


def test_a_norm_masked_as_minus_one_is_reported_as_not_finite() -> None:
    engine = Engine(dynamic=False, masks=True)
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine, lambda loss: loss * math.nan)
    assert engine.get_global_grad_norm() == -1
    assert math.isnan(watched.steps[0].values["grad_norm"])


def test_a_masked_norm_of_another_ranks_making_is_not_finite_here_either() -> None:
    engine = Engine(dynamic=False, masks=True)
    watched = Watched(DeepSpeedAdapter(engine))
    engine.optimizer.register_step_post_hook(
        lambda *_: setattr(engine.optimizer, "_global_grad_norm", math.inf)
    )
    train(engine)
    values = watched.steps[0].values
    assert math.isnan(values["grad_norm"])
    assert values["nonfinite_gradient"] == 0
    assert values["nonfinite_update"] == 1  # it was applied, wherever it came from


def test_an_engine_without_the_usual_methods_is_watched_as_far_as_it_goes() -> None:
    engine = Bare()
    watched = Watched(DeepSpeedAdapter(engine))
    loss = train(engine)
    values = watched.steps[0].values
    assert watched.boundaries == [11]
    assert values["loss"] == pytest.approx(loss)
    assert values["grad_norm"] > 0
    assert values["skipped"] == 0
    assert "loss_scale" in watched.adapter.panel.missing


def test_a_pipeline_engine_is_watched_around_its_batches() -> None:
    engine = Pipeline()
    watched = Watched(DeepSpeedAdapter(engine))
    loss = engine.train_batch()
    values = watched.steps[0].values
    assert watched.boundaries == [11]
    assert values["loss"] == pytest.approx(float(loss))
    assert values["nonfinite_activation"] == 0
    assert values["grad_norm"] > 0
    assert watched.phases[-2:] == ["optimizer", "data"]


class Changed(Bare):
    """An engine of a version whose methods are not what we think."""

    def get_global_grad_norm(self) -> float:
        raise NotImplementedError("renamed")


def test_whatever_fails_in_measuring_the_boundary_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "0")
    engine = Changed()
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine)
    train(engine)
    assert watched.boundaries == [11, 12]


class Accumulating(Bare):
    """Steps its optimizer at every second call of `step`."""

    calls = 0

    def step(self) -> None:
        self.calls += 1
        if self.calls % 2 == 0:
            super().step()


def test_steps_that_only_accumulate_are_no_boundary() -> None:
    engine = Accumulating()
    watched = Watched(DeepSpeedAdapter(engine))
    train(engine)
    assert watched.boundaries == []
    train(engine)
    assert watched.boundaries == [11]
    train(engine)
    assert watched.boundaries == [11]


def test_what_the_engine_raises_passes_untouched() -> None:
    engine = Bare()
    watched = Watched(DeepSpeedAdapter(engine))
    with pytest.raises(RuntimeError, match="grad"):
        engine.backward(torch.zeros(()))
    train(engine)
    assert watched.boundaries == [11]


def test_an_engine_without_an_optimizer_is_no_trainer() -> None:
    engine = Bare()
    engine.optimizer = None  # type: ignore[assignment]
    with pytest.raises(AttachError, match="no optimizer"):
        DeepSpeedAdapter(engine)


def test_an_engine_is_attached_once_at_a_time() -> None:
    engine = Bare()
    watched = Watched(DeepSpeedAdapter(engine))
    with pytest.raises(AttachError, match="attached already"):
        DeepSpeedAdapter(engine)
    watched.adapter.detach()
    assert "step" not in vars(engine)
    Watched(DeepSpeedAdapter(engine)).adapter.detach()


def test_a_wrapper_that_somebody_put_over_ours_survives_our_leaving() -> None:
    engine = Bare()
    watched = Watched(DeepSpeedAdapter(engine))
    ours = engine.step
    calls: list[int] = []

    def theirs() -> None:
        calls.append(1)
        ours()

    engine.step = theirs  # type: ignore[method-assign]
    train(engine)
    watched.adapter.detach()
    train(engine)
    assert calls == [1, 1]
    assert watched.boundaries == [11]
    assert engine.global_steps == 12


class Scheduled(Accumulating):
    """Steps a schedule that works on the rate it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def step(self) -> None:
        before = self.global_steps
        super().step()
        if self.global_steps > before:
            self.schedule.step()


def test_a_scaled_rate_is_scaled_once_under_a_schedule_inside_the_engine() -> None:
    engine = Scheduled()
    watched = Watched(DeepSpeedAdapter(engine))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns when it misses its own mark on a method
        for call in range(10):  # every second one takes a step
            train(engine)
            if call == 3:
                watched.adapter.apply(Remedies(lr_scale=0.5))
    used = [seen.values["lr"] for seen in watched.steps]
    plain = [0.01 * 0.9**step for step in range(5)]
    assert used == pytest.approx([*plain[:2], *(rate / 2 for rate in plain[2:])])
    assert engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**5 / 2)
