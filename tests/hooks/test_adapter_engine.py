"""The DeepSpeed adapter on engines that no CPU can run: fp16, other versions, pipelines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sentinel.errors import AttachError, ControlError
from sentinel.wire import Remedies
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from sentinel_hooks.adapters.options import Options
from tests.hooks.scripts.gpt import Gpt, batch
from tests.hooks.watched import Watched


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


class Half(torch.optim.SGD):
    """Like DeepSpeed's fp16 optimizer: gradients are scaled, and an overflow is skipped."""

    def __init__(self, model: torch.nn.Module, scale: float = 8.0) -> None:
        super().__init__(model.parameters(), lr=0.01)
        self.cur_scale = scale
        self.overflow = False
        self._global_grad_norm: float = 0.0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norm = float(torch.cat([grad.flatten() for grad in grads]).norm())
        self.overflow = not math.isfinite(norm)
        if self.overflow:
            self._global_grad_norm = math.inf
            self.cur_scale /= 2
            return
        self._global_grad_norm = norm / self.cur_scale
        for grad in grads:
            grad.div_(self.cur_scale)
        super().step()


class Engine:
    """The surface of a DeepSpeed engine, over a plain loop."""

    def __init__(self, *, dynamic: bool = True, masks: bool = False) -> None:
        torch.manual_seed(5)
        self.module = Gpt()
        self.optimizer = Half(self.module)
        self.device = torch.device("cpu")
        self.global_steps = 0
        self.skipped_steps = 0
        self._dynamic = dynamic
        self._masks = masks

    def fp16_enabled(self) -> bool:
        return True

    def dynamic_loss_scale(self) -> bool:
        return self._dynamic

    def get_global_grad_norm(self) -> float:
        norm = self.optimizer._global_grad_norm
        return norm if math.isfinite(norm) or not self._masks else -1.0

    def __call__(self, *args: Tensor) -> Tensor:
        loss: Tensor = self.module(*args)
        return loss

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss * self.optimizer.cur_scale)

    def step(self) -> None:
        self.optimizer.step()
        self.skipped_steps += self.optimizer.overflow
        self.optimizer.zero_grad()
        self.global_steps += 1


class Bare:
    """An engine of a version that has nothing but what every version has."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        self.module = Gpt()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01)
        self.device = torch.device("cpu")
        self.global_steps = 10
        self.skipped_steps = 0

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.global_steps += 1


class Pipeline(Bare):
    """Takes a whole batch at once, and its optimizer step is inside."""

    def train_batch(self) -> Tensor:
        losses = []
        for seed in (1, 2):
            rows = batch(seed)
            loss = self.module(rows[:, :-1], rows[:, 1:])
            torch.autograd.backward(loss / 2)
            losses.append(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.global_steps += 1
        return torch.stack(losses).mean()


def train(engine: Engine | Bare, corrupt: Callable[[Tensor], Tensor] = lambda loss: loss) -> float:
    rows = batch(engine.global_steps + 1)
    loss: Tensor = engine.module(rows[:, :-1], rows[:, 1:])
    engine.backward(corrupt(loss))
    engine.step()
    return float(loss.detach())


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


class Trainer:
    """Has an engine and remedies of its own."""

    def __init__(self) -> None:
        self.engine = Bare()
        self.done: list[tuple[str, object]] = []

    def scale_lr(self, factor: float) -> None:
        self.done.append(("scale_lr", factor))

    def skip_batches(self, count: int) -> None:
        if count > 9:
            raise ValueError("not so many")
        self.done.append(("skip_batches", count))

    def load_checkpoint(self, tag: str) -> None:
        if tag == "gone":
            raise FileNotFoundError("no such checkpoint")
        self.done.append(("load_checkpoint", tag))

    def rewind_data(self, tag: str) -> None:
        self.done.append(("rewind_data", tag))


def test_the_trainers_own_remedies_are_offered_and_used() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    assert adapter.offers == ("scale_lr", "skip_batches", "load_checkpoint", "rewind_data")
    everything = Remedies(lr_scale=0.5, skip_batches=3, rollback="best", rewind=True)
    assert adapter.refuses(everything) == ""
    adapter.apply(everything)
    assert trainer.done == [
        ("load_checkpoint", "best"),
        ("rewind_data", "best"),
        ("skip_batches", 3),
        ("scale_lr", 0.5),
    ]
    assert trainer.engine.optimizer.param_groups[0]["lr"] == 0.01
    with pytest.raises(ControlError, match=r"skip_batches\(10\) failed: not so many"):
        adapter.apply(Remedies(skip_batches=10))


def test_what_failed_on_another_rank_is_taken_back_here() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    remedies = Remedies(lr_scale=0.5, skip_batches=3)
    adapter.apply(remedies)
    adapter.undo(remedies)
    assert trainer.done[2:] == [("scale_lr", 2.0), ("skip_batches", -3)]


def test_after_a_rollback_that_failed_anywhere_only_a_rollback_is_accepted() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    with pytest.raises(ControlError, match=r"load_checkpoint\('gone'\) failed: no such"):
        adapter.apply(Remedies(rollback="gone", lr_scale=0.5))
    assert trainer.done == []
    assert "the rollback to 'gone' has failed" in adapter.refuses(Remedies())
    assert adapter.refuses(Remedies(rollback="best")) == ""
    adapter.apply(Remedies(rollback="best"))
    assert adapter.refuses(Remedies()) == ""
    adapter.undo(Remedies(rollback="best"))
    assert "failed on another rank" in adapter.refuses(Remedies(lr_scale=0.5))


def test_a_rollback_to_weights_that_are_not_finite_fails_and_names_one() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    with torch.no_grad():
        trainer.engine.module.head.weight[3, 5] = math.inf
    with pytest.raises(ControlError, match=r"weights are not finite: head\.weight"):
        adapter.apply(Remedies(rollback="best"))
    assert adapter.refuses(Remedies()) != ""


@pytest.mark.parametrize(
    ("remedies", "why"),
    [
        (Remedies(rollback="../best"), "cannot name a checkpoint"),
        (Remedies(rollback=".."), "cannot name a checkpoint"),
        (Remedies(rollback="a\nb"), "cannot name a checkpoint"),
        (Remedies(rollback="b" * 300), "cannot name a checkpoint"),
        (Remedies(rewind=True), "together with a rollback"),
        (Remedies(checkpoint=True), "does not offer save_checkpoint"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(remedies: Remedies, why: str) -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    assert why in adapter.refuses(remedies)
    assert trainer.done == []


def test_an_engine_alone_offers_only_what_can_be_done_from_outside() -> None:
    engine = Bare()
    adapter = DeepSpeedAdapter(engine)
    assert adapter.offers == ("scale_lr", "skip_batches")
    adapter.apply(Remedies(lr_scale=0.5))
    assert engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    assert "watch.batches" in adapter.refuses(Remedies(skip_batches=1))
    assert "does not offer load_checkpoint" in adapter.refuses(Remedies(rollback="best"))
    with pytest.raises(ControlError, match="does not offer load_checkpoint"):
        adapter.apply(Remedies(rollback="best"))
