"""The cases that real DeepSpeed engines of two ranks go through, and what was seen of each.

All run one after the other in a single start of two ranks, which takes most of the time. They run
with whatever DeepSpeed is found, the newest that is supported or, a second time in `make test`,
the oldest: what an older one does otherwise is said where it matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest

STAGES = (0, 1, 2, 3)
Case = dict[str, Any]
DEEPSPEED = tuple(int(part) for part in version("deepspeed").split("+")[0].split("."))
NEWEST = DEEPSPEED >= (0, 19, 8)
needs_newest = pytest.mark.skipif(not NEWEST, reason="DeepSpeed 0.19.8 is the first known to")
# How a NaN gets into a module's output.
WAYS = ("hook", "hook after", "just before", "patch") if NEWEST else ("hook",)
LACKING: dict[int, dict[str, set[str]]] = {  # stage -> what is taken away -> what goes missing
    0: {
        "engine.clip_fp32_gradients": {
            *("grad_norm", "layer_grad_norm", "nonfinite_gradient", "clip_coefficient")
        },
        "engine.get_global_grad_norm": set(),  # at this stage we take our own
    },
    2: {
        "engine.get_global_grad_norm": {"grad_norm", "clip_coefficient"},
        "engine.skipped_steps": set(),
        "engine.was_step_applied": set(),
        "engine.skipped_steps engine.was_step_applied": {"skipped", "nonfinite_update"},
        "engine.gradient_clipping optimizer.clip_grad": {"clip_coefficient"},
        "engine.backward": {"backward_bypassed"},
        "engine.fp16_enabled": set(),
        "engine.save_checkpoint": {"checkpoint_seconds"},
        "optimizer.averaged_gradients": {"layer_grad_norm", "nonfinite_gradient"},
        "optimizer.params_in_partition": set(),  # they are found by another way
        "optimizer.param_groups": {"lr", "zero_lr"},
        "parameter._hp_mapping": {"layer_grad_norm", "nonfinite_gradient"},
    },
    3: {
        "optimizer.fp16_groups": {"layer_grad_norm", "nonfinite_gradient"},
        "optimizer.averaged_gradients": set(),  # they are found by another way
    },
}
ODD = "optimizer.averaged_gradients?"
COLLECTIVES = ("collective_", "exposed_communication")
OVERFLOWS = [False, True, True, True, False]


def cases() -> Iterator[Case]:
    for stage in STAGES:
        common = {"stage": stage, "accumulate": 2, "clip": 0.5}
        yield {"name": f"plain {stage}", **common, "watch": False}
        yield {"name": f"watched {stage}", **common, "often": True, "exact": True}
        for way in WAYS:
            fault = {"module": "blocks.1.mlp", "rank": 1, "step": 3, "micro_batch": 1}
            fault |= {"how": way.removesuffix(" after"), "after": way.endswith("after")}
            often = way == "hook"
            yield {"name": f"nan {stage} {way}", **common, "fault": fault, "often": often}
        fault = {"module": "blocks.1.mlp.1", "rank": 1, "step": 3, "micro_batch": 1}
        yield {"name": f"backward {stage}", **common, "fault": {**fault, "how": "backward"}}
        fault = {"module": "blocks.0.attention.qkv", "rank": 0, "step": 2, "how": "hook"}
        fault |= {"value": "inf", "also": 4}
        bf16 = {"stage": stage, "dtype": "bf16", "often": True, "exact": True}
        if NEWEST or stage:  # at stage 0 older ones raise an AssertionError in training
            yield {"name": f"bf16 {stage}", **bf16, "fault": fault}
        whole = {**common, "steps": 2, "often": True, "exact": True}
        yield {"name": f"adapted {stage}", **whole, "model": "adapted"}
        if stage < 3:  # DeepSpeed's experts are not for ZeRO 3
            yield {"name": f"experts {stage}", **whole, "model": "experts"}
    for model in ("plain", "adapted"):
        one = {"model": model, "reference": True, "steps": 2, "accumulate": 2, "clip": 0.5}
        yield {"name": f"one process {model}", **one}
    if NEWEST:
        fault = {"module": "blocks.1", "rank": 0, "step": 2, "how": "hook"}
        unchecked = {"bf16": {"enabled": True, "check_grad_overflow": False}}
        yield {"name": "unchecked", "stage": 2, "config": unchecked, "fault": fault}
        silent = {"zero_optimization": {"stage": 2, "compute_grad_norm": False}}
        yield {"name": "no norm", "stage": 2, "config": silent}
        fault = {**fault, "step": 3}
        yield {"name": "no norm, nan", "stage": 2, "config": silent, "fault": fault}
        yield {"name": "direct", "stage": 2, "direct": True}
    yield {"name": "past", "stage": 0, "past": True}
    yield {"name": "overflows", "overflows": OVERFLOWS}
    for stage, lacking in LACKING.items():
        names = [*lacking, *(["engine.global_steps", ODD] if stage == 2 else [])]
        common = {"stage": stage, "clip": 0.5}
        yield {"name": f"lacking {stage}", **common, "lacking": names}
        yield {"name": f"not lacking {stage}", **common, "steps": len(names), "watch": False}
    yield {"name": "not direct", "stage": 2}
    yield {"name": "checkpointing", "stage": 3, "checkpointing": True}
    yield {"name": "no checkpointing", "stage": 3}
    for name, stage, more in (
        ("offloaded 2", 2, {"offload_optimizer": {"device": "cpu"}}),
        ("offloaded 3", 3, {"offload_optimizer": {"device": "cpu"}}),
        ("round robin", 2, {"round_robin_gradients": True}),
        ("both", 2, {"offload_optimizer": {"device": "cpu"}, "round_robin_gradients": True}),
    ):
        other = {
            "zero_optimization": {"stage": stage, **more},
            "zero_force_ds_cpu_optimizer": False,
        }
        common = {"stage": stage, "accumulate": 2, "clip": 0.5, "often": True, "exact": True}
        yield {"name": name, **common, "config": other}
    yield {"name": "broken", "stage": 2, "broken": "gradient norms"}
    for stage in (0, 2):
        common = {"stage": stage, "schedule": True, "steps": 6, "accumulate": 2}
        yield {"name": f"schedule {stage}", **common}
        yield {"name": f"scaled {stage}", **common, "remedy": 3}


class Runs:
    """What every case reported, on both ranks."""

    def __init__(self, ranks: list[dict[str, Case]]) -> None:
        self._ranks = ranks

    def of(self, name: str) -> list[Case]:
        return [rank[name] for rank in self._ranks]

    def at(self, name: str, step: int) -> list[dict[str, float]]:
        """Both ranks' values at this step."""
        values: list[dict[str, float]] = [
            case["samples"][step - 1]["values"] for case in self.of(name)
        ]
        return values

    def findings(self, name: str, step: int) -> list[list[list[object]]]:
        return [case["samples"][step - 1]["findings"] for case in self.of(name)]

    def norms(self, name: str, step: int, signal: str) -> dict[str, float]:
        """Norms by label, put together from the ranks as the daemon does."""
        squares: dict[str, float] = {}
        for values in self.at(name, step):
            for key, value in values.items():
                found, _, label = key.partition("|")
                if found == signal:
                    squares[label] = squares.get(label, 0.0) + value
        return {label: math.sqrt(square) for label, square in squares.items()}

    def layers(self, name: str, step: int) -> dict[str, float]:
        """Norms of the gradients by layer."""
        return self.norms(name, step, "layer_grad_norm")

    def alone(self, model: str, step: int, signal: str) -> dict[str, float]:
        """The same of one process, which both ranks worked out for themselves."""
        values = self.at(f"one process {model}", step)[0]
        keys = [key for key in values if key.startswith(f"{signal}|")]
        return {key.partition("|")[2]: math.sqrt(values[key]) for key in keys}
