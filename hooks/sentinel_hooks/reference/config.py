"""How to train, and that as DeepSpeed's own configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What `deepspeed.json` leaves open. `micro_batch` counts rows; `warmup` and `steps`, steps."""

    stage: int = 2
    precision: str = "bf16"
    steps: int = 100
    warmup: int = 10
    lr: float = 6e-3
    micro_batch: int = 4
    accumulation: int = 1
    save_dir: Path = Path("checkpoints")

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
    config["scheduler"]["params"] = {
        "warmup_type": "linear",
        "warmup_min_ratio": 0.1,
        "warmup_num_steps": settings.warmup,
        "cos_min_ratio": 0.1,
        "total_num_steps": settings.steps,
    }
    config["bf16"] = {"enabled": settings.precision == "bf16"}
    return {
        **config,
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
    }
