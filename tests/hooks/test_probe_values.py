"""What single probes make of what they are told."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sentinel_hooks.probes.activation import ActivationProbe, Role, _judged, roles_of
from sentinel_hooks.probes.gradient import GradientProbe, Measured
from sentinel_hooks.probes.loss import find_loss
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Gradients, Outcome, Probe, Sample
from sentinel_hooks.probes.tensors import Tensors
from sentinel_hooks.probes.throughput import count_tokens
from tests.hooks.scripts.gpt import Gpt

CPU = torch.device("cpu")
SCALAR = torch.tensor(2.0, requires_grad=True) * 1
LOGITS = torch.zeros(2, 3, requires_grad=True) * 1


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (SCALAR, True),
        ({"loss": SCALAR, "logits": LOGITS}, True),
        (SimpleNamespace(loss=SCALAR), True),
        ((SCALAR, LOGITS), True),
        ((LOGITS, SCALAR), True),
        ((SCALAR, SCALAR * 2), True),
        ((LOGITS, SCALAR, SCALAR * 2), False),
        (LOGITS, False),
        (SCALAR.detach(), False),
        ({"logits": LOGITS}, False),
        (None, False),
        ((), False),
    ],
)
def test_the_loss_is_found_in_what_models_return(output: object, found: bool) -> None:
    assert find_loss(output) is (SCALAR if found else None)


IDS = torch.zeros(4, 8, dtype=torch.long)
EMBEDDED = torch.zeros(4, 8, 16)
IMAGES = torch.zeros(4, 3, 32, 32)


@pytest.mark.parametrize(
    ("args", "kwargs", "tokens"),
    [
        ((IDS,), {}, (32, 8)),
        ((IDS, IDS), {}, (32, 8)),
        ((EMBEDDED,), {}, (32, 8)),
        ((), {"labels": torch.zeros(99), "input_ids": IDS}, (32, 8)),
        (({"labels": torch.zeros(99), "input_ids": IDS},), {}, (32, 8)),
        (((IDS, IDS),), {}, (32, 8)),
        ((IMAGES,), {"labels": IDS}, (0, 0)),
        ((torch.zeros(4, 10),), {}, (0, 0)),
        ((3,), {}, (0, 0)),
    ],
)
def test_tokens_are_counted_only_where_there_are_some(
    args: tuple[object, ...], kwargs: dict[str, object], tokens: tuple[int, int]
) -> None:
    assert count_tokens(args, kwargs) == tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_norms_of_large_shards_are_exact_to_2e_6(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shard = (torch.randn(3_000_000) * 1e-2).to(dtype)
    found = Measured(Gradients([shard, shard.view(1000, 3000).t()], [0, 1])).by_tensor([], 2)
    expected = float(shard.double().square().sum())
    assert found == pytest.approx([expected, expected], rel=4e-6)


def test_finite_gradients_whose_squares_overflow_are_not_called_infinite() -> None:
    huge = torch.full((10,), 1e30)
    assert Measured(Gradients([huge], [0])).by_tensor([], 1) == pytest.approx([1e61], rel=1e-6)


@given(st.lists(st.sampled_from([1.0, -2.0, math.nan, math.inf, -math.inf]), min_size=1))
def test_a_tensor_is_bad_exactly_if_an_element_is(elements: list[float]) -> None:
    found = Measured(Gradients([torch.tensor(elements)], [3])).by_tensor([], 5)
    assert found[:3] + found[4:] == [0.0] * 4
    assert math.isfinite(found[3]) == all(math.isfinite(one) for one in elements)


class Faraway:
    """A device for the readback whose values arrive at once."""

    def submit(self, tensors: list[Tensor]) -> Faraway:
        self._tensors = list(tensors)
        return self

    def ready(self) -> bool:
        return True

    def wait(self) -> None:
        pass

    def values(self) -> list[list[float]]:
        return [tensor.tolist() for tensor in self._tensors]


def read_gradients(
    gradients: Gradients, outcome: Outcome, *, whole: bool, readback: Faraway | None = None
) -> dict[str, float]:
    tensors = Tensors(("a.weight", "a.bias", "b.weight"), ("a", "b"), (0, 0, 1), (1,) * 3, (0,) * 3)
    probe = GradientProbe(tensors, [0, 1, 2], whole=whole)
    panel = Panel([probe], CPU, readback=readback)  # type: ignore[arg-type]
    panel.start(0)
    panel.gradients_ready(gradients)
    panel.optimizer_ended(outcome)
    panel.read(1)
    sample = panel.settled()[0]
    return {
        f"{one.signal}|{one.label}" if one.label else one.signal: sample.values[index]
        for index, one in enumerate(panel.series)
        if not sample.is_missing(index)
    }


@pytest.mark.parametrize("scale", [4.0, torch.tensor(4.0)])
def test_shards_of_a_layer_are_added_and_unscaled(scale: float | Tensor) -> None:
    shards = [torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([12.0])]
    values = read_gradients(Gradients(shards, [0, 1, 2], scale), Outcome(1), whole=True)
    assert values["tensor_grad_norm|a.weight"] == pytest.approx(9 / 16)
    assert values["tensor_grad_norm|a.bias"] == pytest.approx(16 / 16)
    assert values["layer_grad_norm|a"] == pytest.approx(25 / 16)
    assert values["layer_grad_norm|b"] == pytest.approx(144 / 16)
    assert values["grad_norm"] == pytest.approx(13 / 4)
    assert values["summed_grad_norm"] == pytest.approx(169 / 16)


def test_a_layer_of_which_this_rank_holds_nothing_contributes_nothing() -> None:
    outcome = Outcome(1, grad_norm=torch.tensor(5.0))
    values = read_gradients(Gradients([torch.tensor([3.0])], [0]), outcome, whole=False)
    assert values["layer_grad_norm|b"] == values["tensor_grad_norm|b.weight"] == 0
    assert values["grad_norm"] == 5


def test_without_a_norm_of_the_trainers_a_part_is_not_taken_for_the_whole() -> None:
    values = read_gradients(Gradients([torch.tensor([3.0])], [0]), Outcome(1), whole=False)
    assert "grad_norm" not in values


def test_a_norm_that_has_to_be_waited_for_is_read_with_the_rest() -> None:
    outcome = Outcome(1, grad_norm=torch.tensor(-1.0))
    gradients = Gradients([torch.tensor([3.0])], [0])
    values = read_gradients(gradients, outcome, whole=False, readback=Faraway())
    assert math.isnan(values["grad_norm"])
    assert values["nonfinite_update"] == 1
    assert values["layer_grad_norm|a"] == 9


def test_bad_tensors_are_told_by_their_full_names() -> None:
    tensors = Tensors(("a.w", "a.b", "b.w"), ("a", "b"), (0, 0, 1), (1,) * 3, (0,) * 3)
    panel = Panel([GradientProbe(tensors, [0, 1, 2], whole=True)], CPU)
    panel.start(0)
    bad = torch.tensor([math.nan])
    panel.gradients_ready(Gradients([bad, bad, torch.ones(1)], [0, 1, 2]))
    panel.optimizer_ended(Outcome(1))
    panel.read(1)
    sample = panel.settled()[0]
    assert sample.bad_parameters == ["a.w", "a.b"]


def test_blocks_are_the_elements_of_the_models_lists() -> None:
    model = Gpt()
    names = {module: name for name, module in model.named_modules()}
    roles = {names[module]: role for module, role in roles_of(model).items()}
    assert roles["tokens"] is roles["norm"] is roles["head"] is Role.OPEN
    assert roles["blocks.0"] is roles["blocks.1"] is Role.BLOCK
    assert roles["blocks.0.mlp"] is roles["blocks.0.mlp.1"] is Role.INSIDE
    assert "" not in roles
    assert "blocks" not in roles


def test_lists_within_lists_have_their_elements_as_blocks() -> None:
    linear, relu = nn.Linear(2, 2), nn.ReLU()
    inner = nn.Sequential(linear, nn.Sequential(nn.Linear(2, 2), relu))
    roles = roles_of(nn.Sequential(inner, nn.Linear(2, 2)))
    assert roles[inner] is Role.OPEN
    assert roles[linear] is Role.BLOCK
    assert roles[relu] is Role.BLOCK


class Masked(nn.Module):
    """A block whose inner module returns -Inf on purpose, as masks do."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Identity()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        masked = self.scores(x.masked_fill(torch.tensor([False, True, False]), -math.inf))
        return torch.softmax(masked, -1) * self.weight


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Masked(), Masked()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def watch_activations(model: nn.Module, passes: list[Tensor]) -> tuple[Panel, ActivationProbe]:
    probe = ActivationProbe(model, "Stack", CPU)
    panel = Panel([probe], CPU)
    panel.start(0)
    for x in passes:
        panel.forward_began((x,), {}, True)
        panel.forward_ended(model(x))
    return panel, probe


def test_a_mask_that_is_gone_at_the_end_of_its_block_is_nobodys_trouble() -> None:
    panel, _ = watch_activations(Stack(), [torch.zeros(2, 3)])
    panel.read(1)
    sample = panel.settled()[0]
    assert sample.values[0] == 0
    assert sample.findings == []


class Verdict(Probe):
    """Says whether gradients were bad, step by step."""

    def __init__(self, bad: list[bool]) -> None:
        self.bad = iter(bad)

    def read(self, sample: Sample) -> None:
        sample.bad_gradients = next(self.bad)


def test_what_a_block_hides_is_searched_after_bad_gradients_and_told_if_they_come_again() -> None:
    model = Stack()
    panel = Panel([Verdict([True, False, True]), ActivationProbe(model, "Stack", CPU)], CPU)
    panel.start(0)
    samples = []
    for step in (1, 2, 3):
        panel.forward_began((), {}, True)
        panel.forward_ended(model(torch.zeros(2, 3)))
        panel.read(step)
        samples += panel.settled()
    assert [sample.values[0] for sample in samples] == [0, 0, 2]
    assert [one.module for one in samples[2].findings] == ["blocks.0.scores"]


def test_tuples_dicts_and_outputs_passed_on_are_looked_into_once() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return x, {"bad": x * math.nan, "index": torch.zeros(1, dtype=torch.long)}

    class Pass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.pair(x)[1]["bad"]
            return output

    panel, _ = watch_activations(Pass(), [torch.ones(2), torch.ones(2)])
    panel.read(1)
    sample = panel.settled()[0]
    assert sample.values[0] == 4  # the pair and the root, in each of two passes
    assert (sample.findings[0].module, sample.findings[0].micro_batch) == ("pair", 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_sum_that_overflows_is_not_called_infinite(dtype: torch.dtype) -> None:
    large = torch.full((64,), torch.finfo(dtype).max, dtype=dtype)
    panel, _ = watch_activations(nn.Identity(), [large])
    panel.read(1)
    assert panel.settled()[0].values[0] == 0


def test_what_a_device_reports_is_judged_by_the_same_rule() -> None:
    def entry(name: str, role: Role) -> tuple[tuple[str, int], Role]:
        return (name, 0), role

    later = [
        entry("embedding", Role.OPEN),
        entry("0.scores", Role.INSIDE),
        entry("0", Role.BLOCK),
        entry("1.scores", Role.INSIDE),
        entry("1", Role.BLOCK),
        entry("head", Role.OPEN),
    ]
    bad, hidden = _judged(later, [1.0, math.inf, 1.0, math.nan, math.nan, math.nan])
    assert [one.module for one in bad] == ["1.scores", "1", "head"]
    assert [one.module for one in hidden] == ["0.scores"]
