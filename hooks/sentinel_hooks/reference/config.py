"""How to train, and that as DeepSpeed's own configuration.

There are two schedules. Both warm up linearly from 10% of `lr` to `lr` and end at 10% of it.

- cosine: `warmup` steps of warm-up, then cosine decay to the last step; weight decay 0.1 all along.
- three-phase: 10% of the steps warm-up and 70% cosine decay, both without weight decay; then 20%
  with weight decay 0.1, at the learning rate that the decay ended with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

WEIGHT_DECAY = 0.1
SCHEDULES = ("cosine", "three-phase")


@dataclass(frozen=True)
class Settings:
    """What `deepspeed.json` leaves open. `micro_batch` counts rows; `warmup` and `steps`, steps.

    `offload`: the optimizer's state lives in the host's memory, and it steps there (ZeRO 1 to 3).
    """

    stage: int = 2
    precision: str = "bf16"
    steps: int = 100
    warmup: int = 10
    schedule: str = SCHEDULES[0]
    lr: float = 6e-3
    micro_batch: int = 4
    accumulation: int = 1
    offload: bool = False
    save_dir: Path = Path("checkpoints")

    def __post_init__(self) -> None:
        if self.offload and self.stage == 0:
            raise ValueError("--offload needs ZeRO stage 1, 2 or 3: stage 0 has nothing to offload")

    @property
    def phases(self) -> tuple[int, int]:
        """The last steps of warm-up and of cosine decay."""
        if self.schedule == "cosine":
            return self.warmup, self.steps
        return max(1, round(0.1 * self.steps)), round(0.8 * self.steps)

    def weight_decay(self, step: int) -> float:
        """Of matrices at this step, counted from 1; vectors have none."""
        decays = self.schedule == "cosine" or step > self.phases[1]
        return WEIGHT_DECAY if decays else 0.0

    def checkpoint(self, tag: str) -> Path:
        """The folder of a checkpoint; raises FileNotFoundError if there is none of this tag."""
        folder = self.save_dir / tag
        if not tag or not folder.is_dir():
            there = ", ".join(sorted(d.name for d in self.save_dir.glob("*/"))) or "none"
            raise FileNotFoundError(f"no checkpoint {tag!r} in {self.save_dir}; there: {there}")
        return folder


def deepspeed_config(settings: Settings) -> dict[str, object]:
    """`deepspeed.json` with the settings filled in, as `deepspeed.initialize` takes it."""
    file = Path(__file__).with_name("deepspeed.json")
    config: dict[str, dict[str, object]] = json.loads(file.read_text())
    config["zero_optimization"]["stage"] = settings.stage
    if settings.offload:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    warmup, decayed = settings.phases
    config["scheduler"]["params"] = {
        "warmup_type": "linear",
        "warmup_min_ratio": 0.1,
        "warmup_num_steps": warmup,
        "cos_min_ratio": 0.1,
        "total_num_steps": decayed,
    }
    config["bf16"] = {"enabled": settings.precision == "bf16"}
    return {
        **config,
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
    }
