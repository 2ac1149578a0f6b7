"""A job of two ranks with mixtures of experts: the reference trainer's, and DeepSpeed's own layer.

`torchrun ... experts_job.py FOLDER` writes FOLDER/RANK.json: what every case of `CASES` and of
`GATES` came to, by name.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.moe.layer import MoE
from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer
from torch import Tensor, nn

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.probes.experts import ExpertProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.reference.__main__ import launched, leave
from sentinel_hooks.reference.config import Settings
from sentinel_hooks.reference.data import Text, read_text
from sentinel_hooks.reference.feed_forward import Mixture
from sentinel_hooks.reference.model import Decoder, Shape
from sentinel_hooks.reference.trainer import Trainer
from tests.hooks.watched import Watched

SHAPE = Shape(layers=3, width=16, heads=2, context=16)
MIXTURE = Mixture(routed=4, shared=1, top_k=2, capacity=1.0)
STEPS = 3
CASES: dict[str, dict[str, Any]] = {
    **{f"unwatched {stage}": {"stage": stage, "watch": False} for stage in range(4)},
    **{f"watched {stage}": {"stage": stage} for stage in range(4)},
    "recomputed 3": {"stage": 3, "recompute": True},
    **{f"offloaded {stage}": {"stage": stage, "offload": True} for stage in (1, 3)},
    "bf16": {"stage": 3, "precision": "bf16"},
}
GATES = ((1, 1.0, True), (2, 0.5, True), (2, 0.5, False), (3, 0.7, True))  # k, capacity, drops


def values_of(watched: Watched | None) -> list[dict[str, float]]:
    steps = [] if watched is None else watched.steps
    return [{k: v for k, v in seen.values.items() if k.startswith("expert")} for seen in steps]


def train(case: dict[str, Any], words: Tensor, rank: int) -> dict[str, Any]:
    settings = Settings(
        stage=case["stage"],
        precision=case.get("precision", "fp32"),
        offload=case.get("offload", False),
        schedule="three-phase",
        steps=10,
        micro_batch=2,
        accumulation=2,
    )
    torch.manual_seed(0)
    model = Decoder(SHAPE, MIXTURE, recompute=case.get("recompute", False))
    trainer = Trainer(model, Text(words, rows=4, context=16, seed=0, rank=rank), settings)
    watched = Watched(choose(trainer)) if case.get("watch", True) else None
    groups, decays, rates, losses = trainer.engine.optimizer.param_groups, [], [], []
    for _ in range(STEPS if case["stage"] != 2 else settings.steps):
        decays.append([group["weight_decay"] for group in groups])
        step = trainer.step()
        rates.append(step.lr)
        losses.append(float(step.loss).hex())
    if watched is not None:
        watched.adapter.detach()
    hooks = [len(module._forward_hooks) for module in trainer.engine.module.modules()]
    trainer.engine.destroy()
    schedule = {"rates": rates, "decays": decays}
    return {"losses": losses, "values": values_of(watched), "hooks": hooks, **schedule}


class Mixed(nn.Module):
    """A model with a layer of experts as DeepSpeed makes them; half of them on each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 16)
        self.moe = MoE(16, nn.Linear(16, 16), num_experts=4, ep_size=2, capacity_factor=0.5)
        self.head = nn.Linear(16, 256)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        mixed, balance, _ = self.moe(self.embed(tokens))
        logits = self.head(mixed).flatten(0, 1).float()
        loss: Tensor = nn.functional.cross_entropy(logits, targets.flatten()) + 0.01 * balance
        return loss


def train_deepspeeds(stage: int, words: Tensor, rank: int) -> dict[str, Any]:
    """A run with DeepSpeed's own layer; `truth` is what its gates did, by step."""
    torch.manual_seed(0)
    model = Mixed()
    parameters = {"params": list(model.parameters()), "name": "all", "lr": 1e-2}
    groups = split_params_into_different_moe_groups_for_optimizer(parameters)
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": stage},
        "steps_per_print": None,
    }
    optimizer = torch.optim.AdamW(groups)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    watched = Watched(choose(engine))
    truth: list[list[float]] = []
    model.moe.deepspeed_moe.gate.register_forward_hook(lambda *call: truth.append(told(call[2])))
    text = Text(words, rows=4, context=16, seed=0, rank=rank)
    for step in range(1, STEPS + 1):
        for micro in text.batch(step).chunk(2):
            engine.backward(engine(micro[:, :-1], micro[:, 1:]))
            engine.step()
    watched.adapter.detach()
    engine.destroy()
    summed = torch.tensor(truth).view(STEPS, 2, -1).sum(dim=1).tolist()
    return {"values": values_of(watched), "truth": summed}


def told(output: tuple[Any, ...]) -> list[float]:
    """Counts by expert, and drops, from what a gate returns: a dropped choice has expert -1."""
    chosen, counts = output[3], output[6]
    return [*counts.tolist(), int((chosen < 0).sum())]


def one_pass(k: int, factor: float, drops: bool) -> dict[str, Any]:
    """What the probe says after one pass of a real layer with such a gate."""
    torch.manual_seed(k)
    moe = MoE(8, nn.Linear(8, 8), 4, k=k, capacity_factor=factor, min_capacity=2, drop_tokens=drops)
    model = nn.Sequential(moe.deepspeed_moe)
    panel = Panel([ExpertProbe(model)], torch.device("cpu"))
    panel.start(0)
    truth: list[list[float]] = []
    moe.deepspeed_moe.gate.register_forward_hook(lambda *call: truth.append(told(call[2])))
    panel.forward_began((), {}, training=True)
    moe.deepspeed_moe(torch.randn(3, 7, 8), None)
    panel.forward_ended(None)
    panel.read(1)
    (sample,) = panel.settled()
    names = [one.signal for one in panel.series]
    return {"values": list(zip(names, sample.values, strict=True)), "truth": truth[0]}


def main() -> None:
    folder = Path(sys.argv[1])
    os.environ["SENTINEL_RAISE"] = "1"
    rank, _ = launched()
    torch.set_num_threads(1)
    words = read_text()
    found = {name: train(case, words, rank) for name, case in CASES.items()}
    for stage in (0, 1, 2):
        found[f"deepspeed {stage}"] = train_deepspeeds(stage, words, rank)
    for k, factor, drops in GATES:
        found[f"gate {k} {factor} {drops}"] = one_pass(k, factor, drops)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    leave(0)


if __name__ == "__main__":
    main()
