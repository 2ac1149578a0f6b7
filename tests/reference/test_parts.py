"""The trainer's parts that need no process: data, model, configuration, options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sentinel_hooks.reference.__main__ import prepare
from sentinel_hooks.reference.config import Settings, deepspeed_config
from sentinel_hooks.reference.data import Text, read_text
from sentinel_hooks.reference.model import Decoder, Shape
from sentinel_hooks.reference.options import command_line

WORDS = torch.arange(10_000).to(torch.uint8)


def text(*, seed: int = 0, rank: int = 0) -> Text:
    return Text(WORDS, rows=3, context=16, seed=seed, rank=rank)


def test_the_text_is_there_on_every_machine_and_is_text() -> None:
    words = read_text()
    assert len(words) > 1_000_000
    assert "def " in bytes(words[:100_000].tolist()).decode()


def test_a_batch_depends_on_its_number_rank_and_seed_alone() -> None:
    batch = text().batch(5)
    assert batch.shape == (3, 17)
    assert batch.equal(text().batch(5))
    others = (text().batch(6), text(rank=1).batch(5), text(seed=1).batch(5))
    assert not any(batch.equal(other) for other in others)


def test_a_batch_reads_on_in_the_text() -> None:
    assert bool((text().batch(1).diff(dim=1) % 256 == 1).all())


def test_no_output_depends_on_what_comes_later() -> None:
    torch.manual_seed(0)
    model = Decoder(Shape(layers=2, width=16, heads=2, context=8))
    logits: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda module, inputs, output: logits.append(output.detach()))
    tokens = torch.randint(0, 256, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 256
    for each in (tokens, changed):
        model(each, each)
    assert logits[0][:, :5].equal(logits[1][:, :5])
    assert not logits[0][:, 5:].equal(logits[1][:, 5:])


def test_order_of_tokens_matters_through_rotary_positions() -> None:
    torch.manual_seed(0)
    model = Decoder(Shape(layers=1, width=16, heads=2, context=8))
    target = torch.tensor([[1, 1, 7]])
    forward, swapped = (model(torch.tensor([order]), target) for order in ([3, 4, 5], [4, 3, 5]))
    assert not forward.equal(swapped)


def test_activation_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = Decoder(Shape(layers=2, width=16, heads=2, context=8), recompute=recompute)
        tokens = torch.randint(0, 256, (2, 8))
        model(tokens, tokens).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.equal(recomputed)


def test_the_configuration_is_deepspeeds_with_the_settings_filled_in() -> None:
    config = deepspeed_config(Settings(stage=3, precision="fp32", steps=70, micro_batch=5))
    assert config["gradient_clipping"] == 1.0
    assert config["bf16"] == {"enabled": False}
    assert config["train_micro_batch_size_per_gpu"] == 5
    zero, scheduler = config["zero_optimization"], config["scheduler"]
    assert isinstance(zero, dict)
    assert isinstance(scheduler, dict)
    assert zero["stage"] == 3
    assert scheduler["params"]["total_num_steps"] == 70


@pytest.mark.parametrize(
    ("schedule", "phases", "decays"),
    [("cosine", (10, 100), [0.1] * 4), ("three-phase", (10, 80), [0.0, 0.0, 0.1, 0.1])],
)
def test_a_schedule_has_its_phases_and_its_weight_decay(
    schedule: str, phases: tuple[int, int], decays: list[float]
) -> None:
    settings = Settings(schedule=schedule, steps=100)
    scheduler = deepspeed_config(settings)["scheduler"]
    assert isinstance(scheduler, dict)
    params = scheduler["params"]
    assert (params["warmup_num_steps"], params["total_num_steps"]) == phases
    assert [settings.weight_decay(step) for step in (1, 80, 81, 100)] == decays


@pytest.mark.parametrize("offload", [False, True])
def test_an_offloaded_optimizer_is_torchs_own_so_that_nothing_is_compiled(offload: bool) -> None:
    config = deepspeed_config(Settings(stage=1, offload=offload))
    assert config["zero_force_ds_cpu_optimizer"] is False
    zero = config["zero_optimization"]
    assert isinstance(zero, dict)
    assert zero.get("offload_optimizer") == ({"device": "cpu"} if offload else None)


def test_the_options_of_the_deepspeed_launcher_are_taken() -> None:
    assert command_line().parse_args(["--local_rank=1", "--stage", "3"]).stage == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--width", "50"], "width must be a multiple of 2 [*] heads = 8"),
        (["--text", "missing.txt"], "No such file.*missing.txt"),
        (["--text", "short.txt"], "the text has 5 bytes; a context of 64 needs more"),
        (["--resume", "step7"], "no checkpoint 'step7' in checkpoints; there: step3"),
        (["--fault", "kill-rank:rank=2,step=3"], "no rank 2 among 2"),
        (["--offload", "--stage", "0"], "--offload needs ZeRO stage 1, 2 or 3"),
        (["--experts", "4", "--top-k", "5"], "top-k must be 1 to the 4 experts, got 5"),
        (["--experts", "4", "--layers", "1"], "experts need at least 2 layers"),
    ],
)
def test_options_that_cannot_be_followed_are_told(
    options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "step3").mkdir(parents=True)
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises((ValueError, OSError), match=told):
        prepare(command_line().parse_args(options), rank=0, world_size=2)


def test_a_count_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line().parse_args(["--steps", "0"])
    assert "--steps: must be at least 1, got 0" in capsys.readouterr().err
