"""Real DeepSpeed engines on two ranks: what is seen under every ZeRO stage, and at what price.

All cases run one after the other in a single start of two ranks, which takes most of the time.
They run with whatever DeepSpeed is found, the newest that is supported or, a second time in
`make test`, the oldest: what an older one does otherwise is said where it matters.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sentinel_hooks.probes.fingerprint import fingerprint
from tests.hooks.scripts.gpt import Gpt, batch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # of a machine that others use, too
ROOT = Path(__file__).resolve().parents[2]
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


def _cases() -> Iterator[Case]:
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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    out = tmp_path_factory.mktemp("zero")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", "-m", "tests.hooks.scripts.zero_cases"]
    done = subprocess.run(
        [*command, json.dumps(list(_cases())), str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Runs([json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)])


@pytest.mark.parametrize("stage", STAGES)
def test_watching_changes_no_bit_of_the_losses_and_adds_no_collective(
    runs: Runs, stage: int
) -> None:
    for plain, watched in zip(runs.of(f"plain {stage}"), runs.of(f"watched {stage}"), strict=True):
        assert len(plain["losses"]) == 8
        assert watched["losses"] == plain["losses"]
        assert watched["norms"] == plain["norms"]
        assert watched["collectives"] == plain["collectives"] > 0
        assert watched["waits"] == plain["waits"]


@pytest.mark.parametrize("stage", STAGES)
def test_detaching_leaves_no_trace_on_engine_optimizer_and_model(runs: Runs, stage: int) -> None:
    for plain, watched in zip(runs.of(f"plain {stage}"), runs.of(f"watched {stage}"), strict=True):
        assert watched["fingerprint"] == plain["fingerprint"]
        assert watched["boundaries"] == [1, 2, 3, 4]


@pytest.mark.parametrize("stage", STAGES)
def test_layer_norms_agree_with_stage_0_and_with_the_engines_own_norm(
    runs: Runs, stage: int
) -> None:
    for step in (1, 2, 3, 4):
        layers = runs.layers(f"watched {stage}", step)
        assert len(layers) == 16
        # Weights drift apart between stages as sums are taken in another order: the first step
        # shows what the measurement alone makes of it.
        tolerance = 1e-5 if step == 1 else 1e-3
        assert layers == pytest.approx(runs.layers("watched 0", step), rel=tolerance)
        total = math.sqrt(sum(norm * norm for norm in layers.values()))
        for rank, values in zip(
            runs.of(f"watched {stage}"), runs.at(f"watched {stage}", step), strict=True
        ):
            own = rank["norms"][step - 1]
            assert total == pytest.approx(values["grad_norm"], rel=1e-5)
            assert (own is None) == (stage == 0)
            if own is not None:
                assert values["grad_norm"] == pytest.approx(own, rel=1e-6)


@pytest.mark.parametrize("name", ["offloaded 2", "offloaded 3", "round robin", "both"])
@pytest.mark.parametrize("of", ["grad_norm", "update_norm", "weight_norm", "adam_rms"])
def test_norms_are_the_same_wherever_deepspeed_keeps_gradients_and_weights(
    runs: Runs, name: str, of: str
) -> None:
    for signal in (f"layer_{of}", f"tensor_{of}"):
        expected = runs.norms("watched 0", 1, signal)
        assert runs.norms(name, 1, signal) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", ["plain", "adapted"])
@pytest.mark.parametrize("stage", STAGES)
def test_norms_and_updates_of_every_tensor_are_those_of_one_process(
    runs: Runs, stage: int, model: str
) -> None:
    name = f"watched {stage}" if model == "plain" else f"adapted {stage}"
    for step, tolerance in ((1, 1e-5), (2, 1e-4)):  # weights drift apart from step to step
        for signal in ("tensor_grad_norm", "tensor_weight_norm", "tensor_update_norm"):
            expected = runs.alone(model, step, signal)
            assert len(expected) == (29 if model == "plain" else 27)
            assert runs.norms(name, step, signal) == pytest.approx(expected, rel=tolerance)
        total = math.hypot(*runs.norms(name, step, "tensor_grad_norm").values())
        summed = runs.norms(name, step, "summed_grad_norm")
        assert summed[""] == pytest.approx(total, rel=1e-12)
        assert summed[""] == pytest.approx(runs.at(name, step)[1]["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("kind", ["watched", "adapted", *(["bf16"] if NEWEST else [])])
@pytest.mark.parametrize("stage", STAGES[1:])
def test_everything_about_parameters_is_the_same_at_every_stage(
    runs: Runs, stage: int, kind: str
) -> None:
    tolerance = 1e-2 if kind == "bf16" else 1e-5
    for what in ("tensor", "layer"):
        for of in ("grad_norm", "update_norm", "weight_norm", "adam_rms"):
            # In bf16 at stage 0 DeepSpeed (0.19) begins with a step on gradients of zero, so that
            # Adam really is a step ahead there.
            ahead = kind == "bf16" and of in ("update_norm", "adam_rms")
            expected = runs.norms(f"{kind} {int(ahead)}", 1, f"{what}_{of}")
            found = runs.norms(f"{kind} {stage}", 1, f"{what}_{of}")
            assert len(found) >= 15
            assert found == pytest.approx(expected, rel=tolerance), (what, of)


@pytest.mark.parametrize("stage", STAGES)
def test_sampled_updates_are_within_their_stated_error(runs: Runs, stage: int) -> None:
    name = f"nan {stage} hook"
    for signal in ("tensor_update_norm", "tensor_weight_norm"):
        exact = runs.norms(f"watched {stage}", 1, signal)
        sampled = runs.norms(name, 1, signal)
        assert sampled == pytest.approx(runs.norms("nan 0 hook", 1, signal), rel=1e-5)
        for tensor, norm in exact.items():
            # Kurtosis: 64 where one row in 64 is used, that of a normal distribution elsewhere.
            kurtosis = 64 if tensor == "positions" else 3
            error = math.sqrt((kurtosis - 1) / 1024) / 2
            assert sampled[tensor] == pytest.approx(norm, rel=4 * error)


@needs_newest
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_was_skipped_has_an_update_of_zero_and_no_rms(runs: Runs, stage: int) -> None:
    for name in [f"bf16 {stage}", *([f"nan {stage} hook"] if stage else [])]:
        step = 2 if name.startswith("bf16") else 3
        updates = runs.norms(name, step, "tensor_update_norm")
        assert list(updates.values()) == [0.0] * 29
        assert not runs.norms(name, step, "tensor_adam_rms")
        assert all(norm > 0 for norm in runs.norms(name, step + 1, "layer_update_norm").values())


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_experts_go_by_their_number_among_all_and_each_is_counted_once(
    runs: Runs, stage: int
) -> None:
    name = f"experts {stage}"
    prefix = "blocks.1.mlp.moe.deepspeed_moe.experts.deepspeed_experts."
    weights = [f"{prefix}{number}.0.weight" for number in range(4)]
    found = runs.norms(name, 1, "tensor_weight_norm")
    plain = runs.norms("watched 0", 1, "tensor_weight_norm")["blocks.1.mlp.0.weight"]
    for number, weight in enumerate(weights):
        assert found[weight] == pytest.approx(plain * (1 + 0.1 * number), rel=1e-2)
    for signal in ("tensor_grad_norm", "tensor_update_norm", "tensor_weight_norm"):
        expected = runs.norms("experts 0", 1, signal)
        assert runs.norms(name, 1, signal) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_rank_says_who_else_has_a_tensor(runs: Runs, stage: int) -> None:
    for rank, case in enumerate(runs.of(f"watched {stage}")):
        said = {}
        for shards, replicas, spans in case["groups"]:
            for first, count in spans:
                for place in range(first, first + count):
                    said[tuple(case["series"][place])] = (shards, replicas)
        about = ("tensor_", "layer_", "summed_")
        series = [tuple(one) for one in case["series"] if one[0].startswith(about)]
        assert bool(series) == (stage > 0 or rank == 0)
        assert said == dict.fromkeys(series, ("0", "0-1") if stage == 0 else ("0-1", str(rank)))


@pytest.mark.parametrize("name", ["watched", "adapted", "experts", *(["bf16"] if NEWEST else [])])
@pytest.mark.parametrize("stage", STAGES)
def test_replicas_that_are_sound_agree_to_the_last_bit(runs: Runs, stage: int, name: str) -> None:
    if (name, stage) == ("experts", 3):
        pytest.skip("DeepSpeed's experts do not train at stage 3")
    case = f"{name} {stage}"
    seen = [
        [{key: value for key, value in rank.items() if key.startswith("replica_")} for rank in at]
        for at in (runs.at(case, step) for step in (1, 2))
    ]
    for first, second in seen:
        assert first == second
        assert any("replica_checksum" in key for key in first) == (stage < 3)
    if stage == 3:
        (said, _) = (rank["missing"]["replica_checksum"] for rank in runs.of(case))
        assert said == "ZeRO 3 shares the weights out: no rank holds what another does"


@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_gradient_is_reported_with_the_name_of_its_parameter(runs: Runs, stage: int) -> None:
    for case in runs.of(f"nan {stage} hook"):
        sample = case["samples"][2]
        found = {one[0]: one[1] for one in sample["findings"] if "gradient" in one[0]}
        layers = [found[name] for name in found]
        assert "nonfinite_gradient" in found
        assert [name.rpartition(".")[0] or "Gpt" for name in sample["parameters"]] == layers


def test_replicated_gradients_are_announced_by_one_rank_only(runs: Runs) -> None:
    first, second = runs.of("watched 0")
    assert [name for name, _ in first["series"]].count("layer_grad_norm") == 16
    assert [name for name, _ in second["series"]].count("layer_grad_norm") == 0
    assert "another rank" in second["missing"]["layer_grad_norm"]
    assert "grad_norm" in runs.at("watched 0", 1)[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_nan_is_found_in_its_module_rank_step_and_micro_batch(
    runs: Runs, stage: int, way: str
) -> None:
    name = f"nan {stage} {way}"
    for step in (1, 2):
        assert runs.findings(name, step) == [[], []]
        assert all(values["nonfinite_activation"] == 0 for values in runs.at(name, step))
    innocent, culprit = runs.findings(name, 3)
    assert culprit[0] == ["nonfinite_activation", "blocks.1.mlp", 1]
    assert [found[0] for found in innocent] == ["nonfinite_gradient"]
    innocent_values, culprit_values = runs.at(name, 3)
    assert math.isnan(culprit_values["loss"])
    assert math.isfinite(innocent_values["loss"])
    rows = [batch(3000 + 10 * micro_batch + 1) for micro_batch in (0, 1)]
    expected = [fingerprint((one[:, :-1], one[:, 1:])) for one in rows]
    assert runs.of(name)[1]["samples"][2]["batches"] == expected


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_knows_the_size_of_the_whole_model(runs: Runs, stage: int) -> None:
    multiplied = sum(p.numel() for name, p in Gpt().named_parameters() if "tokens" not in name)
    for values in runs.at(f"nan {stage} hook", 2):
        done = values["model_flops_utilization"] * 1e12 / values["tokens_per_second"]
        assert done == pytest.approx(6 * multiplied, rel=1e-9)


@pytest.mark.parametrize("stage", STAGES)
def test_a_nan_of_the_backward_pass_is_found_on_its_rank_in_the_first_parameter_behind_it(
    runs: Runs, stage: int
) -> None:
    name = f"backward {stage}"
    assert runs.findings(name, 2) == [[], []]
    innocent, culprit = runs.findings(name, 3)
    assert culprit[0] == ["nonfinite_local_gradient", "blocks.1.mlp.0", 1]
    assert runs.of(name)[1]["samples"][2]["parameters"][0].startswith("blocks.1.mlp.0.")
    assert [found[0] for found in innocent] == ["nonfinite_gradient"] * len(innocent)
    local = [values["nonfinite_local_gradient"] for values in runs.at(name, 3)]
    assert local[0] == 0
    assert local[1] > 1
    assert all(math.isfinite(values["loss"]) for values in runs.at(name, 3))


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_zero_skipped_is_told_from_one_that_was_applied(runs: Runs, stage: int) -> None:
    name = f"nan {stage} hook"
    for rank, values in zip(runs.of(name), runs.at(name, 3), strict=True):
        assert not math.isfinite(values["grad_norm"])
        assert values["nonfinite_gradient"] >= 1
        own = rank["norms"][2]
        assert values["grad_norm_masked"] == (own is None or not math.isnan(own))
        applied = rank["bad_weight"] != ""
        assert values["skipped"] == rank["skipped_steps"] == (0 if applied else 1)
        assert values["nonfinite_update"] == (1 if applied else 0)
        assert "clip_coefficient" in values if applied else "clip_coefficient" not in values
        if NEWEST:
            assert applied == (stage == 0)
            assert values["grad_norm_masked"] == 1
    for values in runs.at(name, 2) + ([] if applied else runs.at(name, 4)):
        assert math.isfinite(values["grad_norm"])
        assert values["skipped"] == values["nonfinite_update"] == values["grad_norm_masked"] == 0


@pytest.mark.parametrize("stage", STAGES if NEWEST else STAGES[1:])
def test_in_bf16_too_a_skipped_step_is_told_from_one_that_was_applied(
    runs: Runs, stage: int
) -> None:
    for rank, values in zip(runs.of(f"bf16 {stage}"), runs.at(f"bf16 {stage}", 2), strict=True):
        applied = rank["bad_weight"] != ""
        assert not math.isfinite(values["grad_norm"])
        assert values["skipped"] == (not applied)
        assert values["nonfinite_update"] == applied
        if NEWEST:
            assert not applied


@needs_newest
@pytest.mark.parametrize("stage", STAGES)
def test_bf16_skips_at_every_stage_and_an_infinity_that_hides_is_found_when_it_comes_again(
    runs: Runs, stage: int
) -> None:
    # The softmax after this module swallows its Inf: only gradients show it, at the first time.
    name = f"bf16 {stage}"
    seen = [[found[:2] for found in rank] for rank in runs.findings(name, 2)]
    assert ["nonfinite_gradient", "blocks.0.attention.qkv"] in seen[0] + seen[1]
    assert runs.findings(name, 4)[0][0] == ["nonfinite_activation", "blocks.0.attention.qkv", 0]
    for rank, values in zip(runs.of(name), runs.at(name, 2), strict=True):
        assert values["skipped"] == 1
        assert rank["skipped_steps"] == 2
        assert values["nonfinite_update"] == 0
        assert not math.isfinite(values["grad_norm"])
    layers = runs.layers(name, 3)
    total = math.sqrt(sum(norm * norm for norm in layers.values()))
    assert total == pytest.approx(runs.at(name, 3)[0]["grad_norm"], rel=1e-5)


@needs_newest
def test_a_bad_gradient_that_bf16_is_told_not_to_check_is_harmful(runs: Runs) -> None:
    for rank, values in zip(runs.of("unchecked"), runs.at("unchecked", 2), strict=True):
        assert rank["skipped_steps"] == 0
        assert rank["bad_weight"] != ""
        assert not math.isfinite(values["grad_norm"])
        assert values["skipped"] == 0
        assert values["nonfinite_update"] == 1


@needs_newest
def test_a_norm_that_zero_does_not_compute_is_missing_with_the_reason(runs: Runs) -> None:
    for rank, values in zip(runs.of("no norm"), runs.at("no norm", 1), strict=True):
        assert "compute_grad_norm" in rank["missing"]["grad_norm"]
        assert "grad_norm" not in values
        assert values["grad_norm_masked"] == 0
    assert len(runs.layers("no norm", 1)) == 16
    masked = [values["grad_norm_masked"] for values in runs.at("no norm, nan", 3)]
    assert max(masked) == 1  # nothing was said where it was not finite


@needs_newest
def test_a_direct_backward_shows_the_same_as_the_engines(runs: Runs) -> None:
    timed = ("step_seconds", "backward_seconds", "forward_seconds", "optimizer_seconds")
    for direct, announced in zip(runs.of("direct"), runs.of("not direct"), strict=True):
        for one, other in zip(direct["samples"], announced["samples"], strict=True):
            assert _measured(one["values"]) == _measured(other["values"])
            assert one["values"]["loss"] == other["values"]["loss"]
            assert one["values"]["grad_norm"] == other["values"]["grad_norm"]
            assert all(one["values"][name] > 0 for name in timed if name in other["values"])
            assert one["values"]["backward_bypassed"] == 1
            assert other["values"]["backward_bypassed"] == 0


def _measured(values: dict[str, float]) -> set[str]:
    """What does not depend on the time of day: memory of the host is read now and then."""
    return {name for name in values if not name.startswith("host_memory")}


def test_activation_checkpointing_under_zero_3_shows_the_same(runs: Runs) -> None:
    for one, other in zip(runs.of("checkpointing"), runs.of("no checkpointing"), strict=True):
        assert one["losses"] == other["losses"]
        assert [sample["values"]["nonfinite_activation"] for sample in one["samples"]] == [0] * 4
    assert runs.layers("checkpointing", 1) == pytest.approx(
        runs.layers("no checkpointing", 1), rel=1e-5
    )


def test_a_probe_that_raises_is_switched_off_and_training_is_as_without_it(runs: Runs) -> None:
    for broken, sound in zip(runs.of("broken"), runs.of("not direct"), strict=True):
        assert broken["losses"] == sound["losses"]
        lost = {signal: (step, reason) for step, signal, reason in broken["lost"]}
        gradient = {"grad_norm", "summed_grad_norm", "layer_grad_norm", "tensor_grad_norm"}
        gradient |= {"nonfinite_gradient", "nonfinite_update"}
        assert set(lost) == gradient
        assert all(step == 2 and "broken on purpose" in reason for step, reason in lost.values())
        for sample in broken["samples"][1:]:
            signals = {name.partition("|")[0] for name in sample["values"]}
            assert not signals & gradient
            assert "loss" in signals


@pytest.mark.parametrize("stage", [0, 2])
def test_a_scaled_learning_rate_survives_the_engines_scheduler(runs: Runs, stage: int) -> None:
    plain, scaled = runs.of(f"schedule {stage}")[0], runs.of(f"scaled {stage}")[0]
    factors = [1, 1, 0.5, 0.5, 0.5, 0.5]  # from after step 3 on
    assert len(set(plain["rates"])) > 3
    expected = [rate * factor for rate, factor in zip(plain["rates"], factors, strict=True)]
    assert scaled["rates"] == pytest.approx(expected, rel=1e-9)
    used = [sample["values"]["lr"] for sample in scaled["samples"]]
    assert used[3:] == pytest.approx(scaled["rates"][2:-1], rel=1e-9)


@pytest.mark.parametrize("stage", STAGES)
def test_the_clip_coefficient_is_what_the_gradients_were_multiplied_by(
    runs: Runs, stage: int
) -> None:
    cases = runs.of(f"watched {stage}")
    for step in (1, 2, 3, 4):
        parts = [case["applied"][step - 1] for case in cases]
        applied = parts[0] if stage == 0 else math.sqrt(sum(part * part for part in parts))
        for values in runs.at(f"watched {stage}", step):
            assert values["clip_coefficient"] < 0.9
            assert values["grad_norm"] * values["clip_coefficient"] == pytest.approx(
                applied, rel=1e-5
            )
    (missing,) = {case["missing"]["clip_coefficient"] for case in runs.of("not direct")}
    assert missing == "gradient clipping is off"


def test_a_backward_past_the_engine_is_told_of_where_deepspeed_sees_nothing_of_it(
    runs: Runs,
) -> None:
    for step in (1, 2, 3, 4):
        first, second = runs.at("past", step)
        assert first["backward_bypassed"] == second["backward_bypassed"] == 1
        # At stage 0 nobody averages these gradients: from here on each rank goes its own way.
        assert first["grad_norm"] != pytest.approx(second["grad_norm"], rel=1e-3)
    for values in runs.at("watched 0", 1):
        assert values["backward_bypassed"] == 0


def test_every_rank_tells_of_overflows_and_of_a_loss_scale_that_can_fall_no_further(
    runs: Runs,
) -> None:
    for rank, case in enumerate(runs.of("overflows")):
        seen = [runs.at("overflows", step)[rank] for step in range(1, 6)]
        assert [values["overflow"] for values in seen] == OVERFLOWS
        assert [values["loss_scale"] for values in seen] == [8, 8, 4, 2, 2]
        assert [values["loss_scale_at_floor"] for values in seen] == [0, 0, 0, 1, 1]
        assert [values["skipped"] for values in seen] == [0] * 5
        assert ["grad_norm" in values for values in seen] == [not one for one in OVERFLOWS]
        assert case["skipped_steps"] == 3


@pytest.mark.parametrize("stage", [0, 2])
def test_a_step_without_any_learning_rate_is_told_of(runs: Runs, stage: int) -> None:
    for rank in (0, 1):
        seen = [runs.at(f"schedule {stage}", step)[rank] for step in range(1, 7)]
        assert seen[0]["zero_lr"] == 1
        assert [values["zero_lr"] for values in seen] == [values["lr"] == 0 for values in seen]
        assert seen[-1]["zero_lr"] == 0


@pytest.mark.parametrize("stage", LACKING)
def test_what_deepspeed_does_not_have_is_missing_with_the_reason_and_training_goes_on(
    runs: Runs, stage: int
) -> None:
    for case, alone in zip(
        runs.of(f"lacking {stage}"), runs.of(f"not lacking {stage}"), strict=True
    ):
        assert case["losses"] == alone["losses"]
        for (names, expected), seen in zip(LACKING[stage].items(), case["seen"], strict=False):
            measured = {name.partition("|")[0] for name in seen["values"]}
            lost = {n: why for n, why in seen["missing"].items() if n in expected}
            assert set(lost) == expected, names
            assert not measured & expected, names
            gone = [name.partition(".")[2] for name in names.split()]
            for reason in lost.values():
                assert f"DeepSpeed {version('deepspeed')} has no" in reason
                assert any(name in reason for name in gone)
            assert {"loss", "step_seconds", "optimizer_seconds"} & measured, names
            assert seen["boundaries"]
            # Older versions leave some collectives of stage 3 to themselves.
            assert not {name for name in seen["lost"] if not name.startswith(COLLECTIVES)}


def test_an_engine_that_does_not_count_its_steps_is_refused_and_one_that_is_odd_is_watched(
    runs: Runs,
) -> None:
    for case in runs.of("lacking 2"):
        refused, odd = case["seen"][-2:]
        assert "engine.global_steps" in refused["refused"]
        assert {"layer_grad_norm", "nonfinite_gradient"} <= set(odd["lost"])
        assert "subscriptable" in odd["lost"]["layer_grad_norm"]
        assert odd["boundaries"]
        assert {"loss", "skipped"} <= set(odd["values"])
        # Nobody knows then whether the gradient was finite, so that nothing is said of masking.
        assert "grad_norm_masked" not in odd["values"]


@pytest.mark.parametrize("stage", STAGES if NEWEST else STAGES[:3])
def test_every_collective_of_a_step_is_timed_by_operation_and_group(runs: Runs, stage: int) -> None:
    operations = {0: {"all_reduce"}, 3: {"all_gather", "reduce_scatter"}}
    for rank in runs.of(f"watched {stage}"):
        assert rank["lost"] == []  # none was started where it is not seen
        for sample in rank["samples"]:
            values = sample["values"]
            kinds = {name[19:] for name in values if name.startswith("collective_seconds|")}
            assert {f"collective_bytes|{kind}" in values for kind in kinds} == {True}
            expected = operations.get(stage, {"all_reduce", "all_gather"})
            assert expected <= {kind.partition("@")[0] for kind in kinds}
            assert all(kind.endswith(":0-1") for kind in kinds)
            assert values["exposed_communication_seconds"] > 0
    first, second = (
        {
            name: value
            for name, value in values.items()
            if name.startswith("collective_sequence|") and name.endswith(":0-1")
        }
        for values in runs.at(f"watched {stage}", 4)
    )
    assert first == second
    assert max(first.values()) > 0
