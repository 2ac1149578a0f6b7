"""Under guard, NaN once under every ZeRO stage: as if that batch had been dropped by hand.

All cases run one after the other in a single start of two ranks. They run with whatever DeepSpeed
is found: the newest leaves out most such steps by itself, the oldest that is supported none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hooks.two_ranks import NO_COMPILER, two_ranks
from tests.hooks.zero_runs import COLLECTIVES, NEWEST, STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS, BAD = 4, 2
Case = dict[str, Any]
KINDS = [f"{stage} {dtype}" for stage in STAGES for dtype in ("fp32", "bf16")]
OTHERS = ("adapted", "experts", "offloaded 2", "offloaded 3", "single sums")


def _cases() -> Iterator[Case]:
    """Each twice: under guard, and not even watched, without the bad step."""
    common = {"steps": STEPS, "accumulate": 2, "clip": 0.5, "schedule": True, "digest": True}
    for name, case in (*_stages(), *_others()):
        module = "blocks.1.mlp" if case.get("model") != "experts" else "blocks.1.attention.out"
        fault = {"module": module, "rank": 1, "step": BAD, "micro_batch": 0, "how": "hook"}
        if case.get("dtype") == "bf16":  # one element of one rank's gradient
            fault |= {"module": "blocks.1.mlp.0", "how": "gradient", "value": "inf"}
        yield {"name": f"guarded {name}", **common, **case, "guard": True, "fault": fault}
        yield {"name": f"dropped {name}", **common, **case, "watch": False, "dropped": BAD}


def _stages() -> Iterator[tuple[str, Case]]:
    for stage in STAGES:
        yield f"{stage} fp32", {"stage": stage}
        # Where it can be told not to look, DeepSpeed does not leave the step out by itself.
        unchecked = {"enabled": True, "check_grad_overflow": False} if NEWEST else {"enabled": True}
        yield f"{stage} bf16", {"stage": stage, "dtype": "bf16", "config": {"bf16": unchecked}}


def _others() -> Iterator[tuple[str, Case]]:
    yield "adapted", {"stage": 2, "model": "adapted"}
    yield "experts", {"stage": 2, "model": "experts"}
    single = {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    yield "single sums", {"stage": 1, "config": single}
    for stage in (2, 3):
        offload = {"stage": stage, "offload_optimizer": {"device": "cpu"}}
        config = {"zero_optimization": offload, "zero_force_ds_cpu_optimizer": False}
        yield f"offloaded {stage}", {"stage": stage, "config": config}


Runs = list[dict[str, Case]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    out = tmp_path_factory.mktemp("guarded")
    return two_ranks("zero_cases", out, json.dumps(list(_cases())), **NO_COMPILER)


@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_weights_and_states_are_as_if_the_batch_had_been_dropped(runs: Runs, name: str) -> None:
    for rank in runs:
        guarded, dropped = rank[f"guarded {name}"], rank[f"dropped {name}"]
        if name != "experts":  # whose routing draws lots for each batch
            assert guarded["digest"] == dropped["digest"]
            without = [one for place, one in enumerate(guarded["losses"]) if place // 2 + 1 != BAD]
            assert without == dropped["losses"]
        assert guarded["bad_weight"] == ""
        assert guarded["forbidden"] == [step == BAD for step in range(1, STEPS + 1)]


@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_counters_go_on_and_the_schedule_does_not(runs: Runs, name: str) -> None:
    for rank in runs:
        guarded, dropped = rank[f"guarded {name}"], rank[f"dropped {name}"]
        assert (guarded["global_steps"], guarded["skipped_steps"]) == (STEPS, 1)
        assert (dropped["global_steps"], dropped["skipped_steps"]) == (STEPS - 1, 0)
        assert guarded["global_samples"] == 8 * STEPS
        assert guarded["norms"][BAD - 1] in (None, math.inf)
        assert (guarded["norms"][BAD - 1] is None) == (name == "0 fp32")
        assert guarded["was_applied"] == [step != BAD for step in range(1, STEPS + 1)]
        assert guarded["schedule"] == dropped["schedule"]
        assert guarded["rates"][-1] == dropped["rates"][-1]
        assert guarded["rates"][BAD - 1] == guarded["rates"][BAD - 2]
        assert guarded["boundaries"] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_the_step_is_reported_as_skipped_with_its_finding(runs: Runs, name: str) -> None:
    kinds = [rank[f"guarded {name}"] for rank in runs]
    for case in kinds:
        values = [sample["values"] for sample in case["samples"]]
        assert [one["skipped"] for one in values] == [step == BAD for step in range(1, STEPS + 1)]
        assert [one["nonfinite_update"] for one in values] == [0] * STEPS
        assert not math.isfinite(values[BAD - 1]["grad_norm"])
        # Older versions leave some collectives of stage 3 to themselves.
        assert not [signal for _, signal, _ in case["lost"] if not signal.startswith(COLLECTIVES)]
    if not name.endswith("bf16"):
        module = "blocks.1.mlp" if name != "experts" else "blocks.1.attention.out"
        assert kinds[1]["samples"][BAD - 1]["findings"][0] == ["nonfinite_activation", module, 0]


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_gradient_that_is_bad_in_one_ranks_partition_stops_all(runs: Runs, stage: int) -> None:
    samples = [rank[f"guarded {stage} bf16"]["samples"][BAD - 1] for rank in runs]
    bad = [sample["values"]["nonfinite_gradient"] for sample in samples]
    assert sorted(bad) == [0, 1]
    assert [sample["values"]["skipped"] for sample in samples] == [1, 1]
    named = samples[bad.index(1)]["parameters"]
    assert set(named) == {"blocks.1.mlp.0.weight"}


@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_detaching_leaves_no_trace(runs: Runs, name: str) -> None:
    for rank in runs:
        guarded, dropped = rank[f"guarded {name}"], rank[f"dropped {name}"]
        for what in ("engine", "optimizer", "methods"):
            assert guarded["fingerprint"][what] == dropped["fingerprint"][what]


def test_every_optimizer_that_deepspeed_puts_around_torchs_is_among_them(runs: Runs) -> None:
    kinds = {case["kind"] for name, case in runs[0].items() if name.startswith("guarded")}
    expected = {"AdamW", "DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3"}
    expected |= {"BF16_Optimizer", *(["FP16_UnfusedOptimizer"] if NEWEST else [])}
    assert kinds == expected
