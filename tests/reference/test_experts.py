"""Mixtures of experts: the layer itself, and DeepSpeed engines of two ranks that train them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sentinel_hooks.reference.feed_forward import Mixture, MixtureOfExperts
from sentinel_hooks.reference.model import Decoder, Shape
from tests.reference.conftest import Launch

STAGES = (0, 1, 2, 3)
Case = dict[str, Any]


def test_a_token_gets_its_experts_in_turn_and_goes_without_a_full_one() -> None:
    torch.manual_seed(0)
    moe = MixtureOfExperts(8, 32, Mixture(routed=3, shared=2, top_k=2, capacity=0.6))
    torch.nn.init.normal_(moe.router.weight)
    x = torch.randn(2, 10, 8)
    tokens = x.flatten(0, 1)
    affinities = torch.softmax(tokens @ moe.router.weight.t(), dim=-1)
    chosen = affinities.topk(2).indices
    expected = torch.stack([expert(tokens) for expert in moe.shared]).sum(dim=0)
    free, dropped = [8] * 3, 0  # ceil(0.6 * 2 * 20 / 3)
    for choice in range(2):
        for token in range(20):
            expert = int(chosen[token, choice])
            if free[expert]:
                free[expert] -= 1
                affinity = affinities[token, expert]
                expected[token] += affinity * moe.routed[expert](tokens[token])
            else:
                dropped += 1
    assert dropped > 0
    torch.testing.assert_close(moe(x), expected.view_as(x))
    assert moe.exp_counts.tolist() == chosen.flatten().bincount(minlength=3).tolist()
    assert moe.exp_dropped.item() == dropped


def test_the_balance_loss_is_1_when_even_and_the_number_of_experts_when_one_gets_all() -> None:
    for one_sided in (False, True):
        moe = MixtureOfExperts(4, 16, Mixture(routed=4, top_k=1))
        torch.nn.init.zeros_(moe.router.weight)
        x = torch.eye(4).repeat(3, 1, 1)
        with torch.no_grad():
            moe.router.weight.copy_(100 * (torch.ones(4, 4) if one_sided else torch.eye(4)))
            moe.router.weight[0] += 100 * one_sided
        moe(x)
        assert moe.balance.item() == pytest.approx(4.0 if one_sided else 1.0)


@pytest.mark.parametrize("recompute", [False, True])
def test_every_parameter_gets_a_gradient_even_of_experts_that_no_token_chose(
    recompute: bool,
) -> None:
    torch.manual_seed(0)
    shape = Shape(layers=2, width=16, heads=2, context=4)
    model = Decoder(shape, Mixture(routed=16, top_k=1), recompute=recompute)
    tokens = torch.randint(0, 256, (1, 4))
    model(tokens, tokens).backward()
    idle = model.get_submodule("layers.1.moe").exp_counts == 0
    assert isinstance(idle, torch.Tensor)
    assert idle.any()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_activation_checkpointing_changes_no_gradient_of_a_mixture() -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        shape = Shape(layers=3, width=16, heads=2, context=8)
        model = Decoder(shape, Mixture(routed=4), recompute=recompute)
        tokens = torch.randint(0, 256, (2, 8))
        model(tokens, tokens).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.equal(recomputed)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"routed": 4, "top_k": 5}, "top-k must be 1 to the 4 experts, got 5"),
        ({"routed": 4, "shared": -1}, "shared experts must be 0 or more, got -1"),
        ({"routed": 4, "capacity": 0.0}, "capacity factor must be positive, got 0.0"),
        ({"routed": 4, "balance": -1.0}, "balance loss must be 0 or more: -1.0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Mixture(**options)


@pytest.fixture(scope="module")
def found(two_ranks: Launch, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Case]]:
    """What `experts_job.py` wrote, by rank and case."""
    folder = tmp_path_factory.mktemp("experts")
    job = Path(__file__).with_name("experts_job.py")
    ended = two_ranks(str(job), str(folder), cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stdout
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_watching_changes_no_bit_of_the_losses_and_leaves_no_hook(
    found: list[dict[str, Case]], stage: int, rank: int
) -> None:
    unwatched, watched = found[rank][f"unwatched {stage}"], found[rank][f"watched {stage}"]
    assert len(watched["losses"]) >= 3
    assert watched["losses"] == unwatched["losses"]
    assert watched["hooks"] == unwatched["hooks"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_loads_are_shares_and_the_same_at_every_stage(
    found: list[dict[str, Case]], stage: int, rank: int
) -> None:
    first, *_, last = found[rank][f"watched {stage}"]["values"]
    assert len(first) == len(last) == 2 * (4 + 2)  # layers; experts, imbalance, drops
    for name in ("layers.1.moe", "layers.2.moe"):
        for values in (first, last):
            loads = [values[f"expert_load|{name}:{expert}"] for expert in range(4)]
            assert sum(loads) == pytest.approx(1)
            assert values[f"expert_imbalance|{name}"] == pytest.approx(4 * max(loads))
        assert first[f"expert_dropped_tokens|{name}"] > 0
    assert first == found[rank]["watched 0"]["values"][0]
    assert first != found[1 - rank][f"watched {stage}"]["values"][0], "each has tokens of its own"


@pytest.mark.slow
def test_what_is_computed_again_in_the_backward_is_not_counted_again(
    found: list[dict[str, Case]],
) -> None:
    for rank in found:
        assert rank["recomputed 3"]["values"] == rank["watched 3"]["values"]
        assert rank["recomputed 3"]["losses"] == rank["watched 3"]["losses"]


@pytest.mark.slow
def test_experts_train_in_bf16_under_zero_3(found: list[dict[str, Case]]) -> None:
    for rank in found:
        losses = [float.fromhex(loss) for loss in rank["bf16"]["losses"]]
        assert losses == pytest.approx(
            [float.fromhex(loss) for loss in rank["watched 3"]["losses"]], rel=1e-3
        )
        assert len(rank["bf16"]["values"]) == len(losses)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_an_offloaded_optimizer_trains_as_one_on_the_device(
    found: list[dict[str, Case]], stage: int
) -> None:
    for rank in found:
        offloaded, kept = rank[f"offloaded {stage}"], rank[f"watched {stage}"]
        losses = [[float.fromhex(loss) for loss in case["losses"]] for case in (offloaded, kept)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_in_the_last_of_three_phases_matrices_decay_and_the_learning_rate_stays(
    found: list[dict[str, Case]],
) -> None:
    off, on = [0.0, 0.0], [0.1, 0.0]  # matrices, vectors
    for rank in found:
        assert rank["watched 2"]["decays"] == [off] * 8 + [on] * 2
        rates = rank["watched 2"]["rates"]
        assert max(rates[:8]) > 5e-3
        assert rates[8:] == pytest.approx([6e-4, 6e-4])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_deepspeeds_own_layer_is_seen_as_its_gates_did(
    found: list[dict[str, Case]], stage: int
) -> None:
    for rank in found:
        case = rank[f"deepspeed {stage}"]
        assert len(case["values"]) == len(case["truth"]) == 3
        for values, (*counts, dropped) in zip(case["values"], case["truth"], strict=True):
            expected = {f"expert_load|moe:{i}": n / 64 for i, n in enumerate(counts)}
            expected["expert_imbalance|moe"] = 4 * max(counts) / 64
            expected["expert_dropped_tokens|moe"] = dropped
            assert values == pytest.approx(expected)
            assert dropped > 0


@pytest.mark.slow
def test_drops_follow_from_every_kind_of_deepspeeds_gates(found: list[dict[str, Case]]) -> None:
    gates = {name: case for name, case in found[0].items() if name.startswith("gate")}
    assert len(gates) == 4
    for name, case in gates.items():
        *counts, dropped = case["truth"]
        values = [value for _, value in case["values"]]
        loads = [count / sum(counts) for count in counts]
        assert values == pytest.approx([4 * max(loads), dropped, *loads]), name
        assert (dropped == 0) == name.endswith("False")
