"""A plain loop under watch: what is seen of it, and that it goes on as it would have."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sentinel.errors import AttachError, ControlError
from sentinel.wire import Remedies
from sentinel_hooks.adapters.choice import choose
from tests.hooks.scripts.gpt import Gpt, batch
from tests.hooks.watched import Watched


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of ours are raised; and small steps take one thread, or they wait for each other."""
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


class Loop:
    """A plain loop over a small GPT."""

    def __init__(self, *, clip: float = 0.0, accumulate: int = 1, seed: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = Gpt()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.clip = clip
        self.accumulate = accumulate
        self.done = 0
        self.mend: Callable[[], None] = lambda: None

    def watch(self) -> Watched:
        return Watched(choose(model=self.model, optimizer=self.optimizer))

    def step(self) -> list[float]:
        self.done += 1
        losses = []
        for micro_batch in range(self.accumulate):
            rows = batch(10 * self.done + micro_batch)
            loss = self.model(rows[:, :-1], rows[:, 1:])
            (loss / self.accumulate).backward()
            losses.append(loss.item())
        self.mend()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses


def gradient_norm(model: nn.Module) -> float:
    grads = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    return float(torch.cat(grads).norm())


def test_losses_and_weights_are_bit_equal_to_an_unwatched_loop() -> None:
    plain, watched = Loop(clip=0.5), Loop(clip=0.5)
    watched.watch()
    assert [plain.step() for _ in range(4)] == [watched.step() for _ in range(4)]
    for one, other in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_optimizer_step_is_one_boundary_counted_from_one() -> None:
    loop = Loop(accumulate=2)
    watched = loop.watch()
    loop.step()
    loop.step()
    assert watched.boundaries == [1, 2]
    assert [seen.step for seen in watched.steps] == [1, 2]
    assert watched.adapter.step() == 2


def test_the_loss_is_the_mean_over_micro_batches() -> None:
    loop = Loop(accumulate=3)
    watched = loop.watch()
    losses = loop.step()
    assert watched.steps[0].values["loss"] == pytest.approx(sum(losses) / 3)


def test_the_gradient_norm_is_measured_before_the_loop_clips() -> None:
    loop = Loop(clip=0.1)
    watched = loop.watch()
    norms: list[float] = []
    loop.mend = lambda: norms.append(gradient_norm(loop.model))
    loop.step()
    assert norms[0] > 0.2
    assert watched.steps[0].values["grad_norm"] == pytest.approx(norms[0], rel=1e-6)


def test_layer_norms_add_up_to_the_global_norm() -> None:
    loop = Loop()
    watched = loop.watch()
    loop.step()
    values = watched.steps[0].values
    layers = {name: value for name, value in values.items() if name.startswith("layer_grad_norm|")}
    assert {"layer_grad_norm|Gpt", "layer_grad_norm|blocks.1.attention.qkv"} < set(layers)
    assert math.sqrt(sum(layers.values())) == pytest.approx(values["grad_norm"], rel=1e-6)


def test_every_phase_of_a_step_is_told_in_order() -> None:
    loop = Loop(accumulate=2)
    watched = loop.watch()
    loop.step()
    assert watched.phases == ["forward", "backward", "forward", "backward", "optimizer", "data"]


def test_phase_times_fit_into_the_step_and_the_first_step_has_no_beginning() -> None:
    loop = Loop(accumulate=2)
    watched = loop.watch()
    loop.step()
    loop.step()
    first, second = (seen.values for seen in watched.steps)
    assert "step_seconds" not in first
    assert "tokens_per_second" not in first
    assert "monitor_share" not in first
    assert second["monitor_share"] > 0
    phases = ("data_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds")
    assert all(second[name] > 0 for name in phases)
    assert sum(second[name] for name in phases) <= second["step_seconds"]
    assert second["tokens_per_second"] == pytest.approx(
        2 * 2 * 16 / second["step_seconds"], rel=0.1
    )


def test_time_spent_at_the_boundary_belongs_to_no_step() -> None:
    loop = Loop()
    adapter = choose(model=loop.model, optimizer=loop.optimizer)
    reached: list[float] = []
    left: list[float] = []

    def hold(step: int) -> None:
        reached.append(perf_counter())
        while perf_counter() < reached[-1] + 0.05:
            pass
        left.append(perf_counter())

    adapter.install(hold, lambda phase: None)
    loop.step()
    loop.step()
    names = [one.signal for one in adapter.panel.series]
    second = adapter.panel.settled()[1]
    held = left[0] - reached[0]
    for name in ("step_seconds", "data_seconds"):
        assert second.values[names.index(name)] + held <= reached[1] - reached[0]


@pytest.mark.parametrize("how", ["hook before", "hook after", "just before", "patched"])
def test_a_nan_is_located_in_the_module_that_made_it(how: str) -> None:
    loop = Loop(accumulate=2)
    module = loop.model.blocks[1].get_submodule("mlp")
    passes = [0]

    def corrupt(output: Tensor) -> Tensor:
        passes[0] += 1
        return output * math.nan if passes[0] == 4 else output  # step 2, micro-batch 1

    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
        return corrupt(output)

    if how == "hook before":
        module.register_forward_hook(hook)
    watched = loop.watch()
    if how == "hook after":
        module.register_forward_hook(hook)
    if how == "patched":
        forward = module.forward
        module.forward = lambda x: corrupt(forward(x))
    for _ in range(2):
        handle = module.register_forward_hook(hook) if how == "just before" else None
        loop.step()
        if handle is not None:
            handle.remove()
    first, second = watched.steps
    assert first.values["nonfinite_activation"] == 0
    assert first.findings == []
    assert second.findings[0] == ("nonfinite_activation", "blocks.1.mlp", 1)
    # That module, its block, the norm, the head and the loss; nothing that came before.
    assert second.values["nonfinite_activation"] == 5


def test_a_nan_that_a_later_hook_puts_into_the_models_own_output_is_the_models() -> None:
    loop = Loop()
    watched = loop.watch()
    loop.model.register_forward_hook(lambda module, args, output: output * math.nan)
    loop.step()
    assert math.isnan(watched.steps[0].values["loss"])
    assert watched.steps[0].findings[0] == ("nonfinite_activation", "Gpt", 0)


def test_a_non_finite_gradient_that_was_applied_is_told_from_one_that_was_mended() -> None:
    for mended in (False, True):
        loop = Loop()
        watched = loop.watch()
        weight = loop.model.head.weight
        weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
        if mended:
            loop.mend = lambda weight=weight: weight.grad.nan_to_num_(0.0, 0.0, 0.0)  # type: ignore[misc]
        loop.step()
        values = watched.steps[0].values
        assert values["nonfinite_gradient"] == 1
        assert values["nonfinite_update"] == (0 if mended else 1)
        assert watched.steps[0].findings == [
            ("nonfinite_local_gradient", "head", 0),
            ("nonfinite_gradient", "head", 0),
        ]
        assert watched.adapter.first_bad_weight() == ("" if mended else "head.weight")


def test_what_cannot_be_seen_in_a_plain_loop_is_missing_with_a_reason() -> None:
    watched = Loop().watch()
    missing = watched.adapter.panel.missing
    assert "GradScaler" in missing["skipped"]
    assert "saves its checkpoints" in missing["checkpoint_seconds"]
    assert "peak_flops" in missing["model_flops_utilization"]
    assert "GradScaler" in missing["loss_scale"]
    assert "CUDA" in missing["device_memory_used_bytes"]
    announced = {one.signal for one in watched.adapter.panel.series}
    assert not announced & set(missing)


def test_forward_passes_that_are_not_trained_on_are_not_measured() -> None:
    loop = Loop()
    watched = loop.watch()
    rows = batch(5)
    loop.model.eval()
    loop.model(rows[:, :-1], rows[:, 1:])
    loop.model.train()
    with torch.no_grad():
        loop.model(rows[:, :-1], rows[:, 1:])
    loop.model.norm.register_forward_hook(lambda module, args, output: output * math.inf)
    losses = loop.step()
    values = watched.steps[0].values
    assert values["loss"] == pytest.approx(losses[0], nan_ok=True)
    assert watched.steps[0].findings[0] == ("nonfinite_activation", "norm", 0)


class Recomputing(Gpt):
    """Keeps no activations of its blocks, and computes them again in the backward."""

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True)
        logits = self.head(self.norm(x)).flatten(0, 1)
        return nn.functional.cross_entropy(logits, tokens.flatten())


def test_recomputed_forward_passes_of_checkpointing_are_not_looked_at_again() -> None:
    loop = Loop()
    loop.model = Recomputing()
    loop.optimizer = torch.optim.AdamW(loop.model.parameters())
    watched = loop.watch()
    calls = [0]

    def only_when_repeated(module: nn.Module, args: object, output: Tensor) -> Tensor:
        calls[0] += 1
        return output * (math.nan if calls[0] == 2 else 1.0)

    loop.model.blocks[0].register_forward_hook(only_when_repeated)
    loop.step()
    assert calls[0] == 2
    assert watched.steps[0].values["nonfinite_activation"] == 0


def hooks_of(model: nn.Module) -> list[object]:
    return [
        (sorted(vars(module)), *(len(getattr(module, name)) for name in _HOOKS))
        for module in model.modules()
    ]


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
)


def test_detaching_leaves_no_trace() -> None:
    loop = Loop()
    before = hooks_of(loop.model), sorted(vars(loop.optimizer))
    watched = loop.watch()
    loop.step()
    watched.adapter.detach()
    watched.adapter.detach()
    assert (hooks_of(loop.model), sorted(vars(loop.optimizer))) == before
    assert not loop.optimizer._optimizer_step_pre_hooks
    assert not loop.optimizer._optimizer_step_post_hooks
    loop.step()
    assert watched.boundaries == [1]


def test_attaching_twice_is_refused_until_detached() -> None:
    loop = Loop()
    watched = loop.watch()
    with pytest.raises(AttachError, match="attached already"):
        choose(model=loop.model, optimizer=loop.optimizer)
    watched.adapter.detach()
    loop.watch().adapter.detach()


def test_an_exception_of_the_loop_itself_passes_and_the_next_step_is_seen() -> None:
    loop = Loop()
    watched = loop.watch()

    def stumble(module: nn.Module, args: object, output: Tensor) -> None:
        raise ValueError("the user's own")

    handle = loop.model.norm.register_forward_hook(stumble)
    with pytest.raises(ValueError, match="the user's own"):
        loop.step()
    handle.remove()
    loop.step()
    assert watched.steps[-1].values["nonfinite_activation"] == 0


def test_a_stop_at_the_boundary_leaves_the_loop() -> None:
    loop = Loop()

    def stop(step: int) -> None:
        raise SystemExit(0)

    adapter = choose(model=loop.model, optimizer=loop.optimizer)
    adapter.install(stop, lambda phase: None)
    with pytest.raises(SystemExit):
        loop.step()


def test_a_scaled_learning_rate_stays_scaled_under_every_kind_of_schedule() -> None:
    schedules: dict[str, Callable[[torch.optim.Optimizer], Callable[[int], None]]] = {
        "none": lambda _: lambda step: None,
        "recursive": lambda optimizer: _stepper(
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        ),
        "closed form": lambda optimizer: _stepper(
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 40)
        ),
        "by hand": lambda optimizer: lambda step: _set_rate(optimizer, 1e-3 * (1 - step / 40)),
    }
    for name, schedule in schedules.items():
        plain, scaled = Loop(), Loop()
        rates: dict[str, list[float]] = {}
        for loop in (plain, scaled):
            watched = loop.watch()
            step_schedule = schedule(loop.optimizer)
            for step in range(1, 9):
                loop.step()
                step_schedule(step)
                if loop is scaled and step == 3:
                    watched.adapter.apply(Remedies(lr_scale=0.5))
            rates["scaled" if loop is scaled else "plain"] = [
                seen.values["lr"] for seen in watched.steps
            ]
        expected = [rate * (0.5 if step > 3 else 1) for step, rate in enumerate(rates["plain"], 1)]
        assert rates["scaled"] == pytest.approx(expected, rel=1e-9), name


def _stepper(schedule: torch.optim.lr_scheduler.LRScheduler) -> Callable[[int], None]:
    return lambda step: schedule.step()


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def test_a_remedy_that_a_plain_loop_does_not_offer_is_refused_before_anything_is_done() -> None:
    loop = Loop()
    watched = loop.watch()
    assert "save_checkpoint" in watched.adapter.refuses(Remedies(lr_scale=0.5, checkpoint=True))
    with pytest.raises(ControlError, match="save_checkpoint"):
        watched.adapter.apply(Remedies(lr_scale=0.5, checkpoint=True))
    assert loop.optimizer.param_groups[0]["lr"] == 1e-3


def test_a_loss_computed_outside_the_model_is_missing_and_everything_else_is_there() -> None:
    loop = Loop()
    watched = loop.watch()
    rows = batch(1)
    logits = loop.model(rows[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    torch.autograd.backward(loss)
    norm = gradient_norm(loop.model)
    loop.optimizer.step()
    values = watched.steps[0].values
    assert "loss" not in values
    assert values["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert values["backward_seconds"] > 0
