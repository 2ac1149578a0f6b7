"""Real DeepSpeed engines on two ranks: what is found of trouble, and what is left when DeepSpeed is
not as it was.

The cases are in `zero_runs`.
"""

from __future__ import annotations

import math
from importlib.metadata import version

import pytest

from sentinel_hooks.probes.fingerprint import fingerprint
from tests.hooks.scripts.gpt import batch
from tests.hooks.zero_runs import (
    COLLECTIVES,
    LACKING,
    NEWEST,
    OVERFLOWS,
    STAGES,
    WAYS,
    Runs,
    needs_newest,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_gradient_is_reported_with_the_name_of_its_parameter(runs: Runs, stage: int) -> None:
    for case in runs.of(f"nan {stage} hook"):
        sample = case["samples"][2]
        found = {one[0]: one[1] for one in sample["findings"] if "gradient" in one[0]}
        layers = [found[name] for name in found]
        assert "nonfinite_gradient" in found
        assert [name.rpartition(".")[0] or "Gpt" for name in sample["parameters"]] == layers


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
