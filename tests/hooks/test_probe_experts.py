"""What is told of the experts of a model, in a plain loop; DeepSpeed's are in tests/reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.probes.experts import MAX_LOADS, ExpertProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.reference.feed_forward import Mixture, MixtureOfExperts
from sentinel_hooks.reference.model import Decoder, Shape
from tests.hooks.watched import Watched

EXPERTS = 4


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


def decoder(*, recompute: bool = False) -> Decoder:
    torch.manual_seed(0)
    mixture = Mixture(EXPERTS, shared=1, top_k=2, capacity=0.8)
    shape = Shape(layers=3, width=16, heads=2, context=8)
    return Decoder(shape, mixture, recompute=recompute)


def experts_only(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith("expert_")}


@pytest.mark.parametrize("recompute", [False, True])
def test_counts_are_those_of_all_micro_batches_that_are_trained_on(recompute: bool) -> None:
    model = decoder(recompute=recompute)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    watched = Watched(choose(model=model, optimizer=optimizer))
    for _ in range(2):
        counts: dict[str, Tensor] = {}
        dropped: dict[str, Tensor] = {}
        for _ in range(2):
            rows = torch.randint(0, 256, (3, 9))
            # Else what is computed again breaks off within the experts, before hooks are called.
            with set_checkpoint_early_stop(False):
                loss = model(rows[:, :-1], rows[:, 1:])
            for name in ("layers.1.moe", "layers.2.moe"):
                moe = model.get_submodule(name)
                assert isinstance(moe, MixtureOfExperts)
                counts[name] = counts.get(name, torch.zeros(())) + moe.exp_counts
                dropped[name] = dropped.get(name, torch.zeros(())) + moe.exp_dropped
            loss.backward()
        model.eval()
        model(rows[:, :-1], rows[:, 1:])  # a validation, which is not trained on
        model.train()
        optimizer.step()
        optimizer.zero_grad()

        expected: dict[str, float] = {}
        for name, count in counts.items():
            loads = (count / (2 * 2 * 24)).tolist()  # passes, choices a token, tokens
            expected |= {f"expert_load|{name}:{i}": load for i, load in enumerate(loads)}
            expected[f"expert_imbalance|{name}"] = EXPERTS * max(loads)
            expected[f"expert_dropped_tokens|{name}"] = dropped[name].item()
        assert experts_only(watched.steps[-1].values) == pytest.approx(expected)
        assert all(drops > 0 for drops in dropped.values())


def test_watching_changes_no_bit_and_detaching_leaves_no_hook() -> None:
    losses: list[list[float]] = []
    for watch in (False, True):
        model = decoder(recompute=True)
        optimizer = torch.optim.AdamW(model.parameters())
        watched = Watched(choose(model=model, optimizer=optimizer)) if watch else None
        losses.append([])
        for _ in range(3):
            rows = torch.randint(0, 256, (3, 9))
            loss = model(rows[:, :-1], rows[:, 1:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
        if watched is not None:
            watched.adapter.detach()
            assert not any(module._forward_hooks for module in model.modules())
    assert losses[0] == losses[1]


class Counting(nn.Module):
    """What any layer of experts may look like from outside; drops nothing unless it says so."""

    def __init__(self, experts: int, dropped: int | None = None) -> None:
        super().__init__()
        self.exp_counts = torch.zeros(experts, dtype=torch.int64)
        if dropped is not None:
            self.exp_dropped = torch.tensor(dropped)

    def forward(self, counts: Tensor) -> Tensor:
        self.exp_counts = counts
        return counts


def panel_of(*modules: nn.Module) -> Panel:
    panel = Panel([ExpertProbe(nn.ModuleList(modules))], torch.device("cpu"))
    panel.start(0)
    return panel


def one_step(panel: Panel, calls: Mapping[nn.Module, Sequence[int]]) -> dict[str, float]:
    """A step in which these modules are called and count so."""
    panel.forward_began((), {}, True)
    for module, counts in calls.items():
        module(torch.tensor(counts))
    panel.forward_ended(None)
    panel.read(panel._step + 1)
    (sample,) = panel.settled()
    return {
        f"{one.signal}|{one.label}": sample.values[index]
        for index, one in enumerate(panel.series)
        if not sample.is_missing(index)
    }


def test_a_layer_that_does_not_tell_its_drops_has_none_and_others_keep_theirs() -> None:
    silent, telling = Counting(2), Counting(2, dropped=3)
    panel = panel_of(silent, telling)
    values = one_step(panel, {silent: [1, 3], telling: [5, 0]})
    assert values == {
        "expert_imbalance|0": 1.5,
        "expert_load|0:0": 0.25,
        "expert_load|0:1": 0.75,
        "expert_imbalance|1": 2.0,
        "expert_dropped_tokens|1": 3.0,
        "expert_load|1:0": 1.0,
        "expert_load|1:1": 0.0,
    }


def test_a_layer_that_was_not_called_or_got_no_token_is_missing() -> None:
    idle, empty, busy = Counting(2), Counting(2), Counting(2)
    panel = panel_of(idle, empty, busy)
    values = one_step(panel, {empty: [0, 0], busy: [1, 1]})
    assert {name.partition("|")[2].partition(":")[0] for name in values} == {"2"}


def test_experts_too_many_for_one_series_each_still_have_their_imbalance() -> None:
    half = MAX_LOADS // 2
    fits = ExpertProbe(nn.ModuleList([Counting(half), Counting(half)]))
    assert "expert_load" not in fits.missing()
    assert sum(one.signal == "expert_load" for one in fits.series()) == MAX_LOADS

    large = Counting(half + 1, dropped=0)
    panel = panel_of(Counting(half), large)
    assert f"{MAX_LOADS + 1} experts in all" in panel.missing["expert_load"]
    values = one_step(panel, {large: [1] * (half + 1)})
    assert values == {"expert_imbalance|1": 1.0, "expert_dropped_tokens|1": 0.0}


def test_a_model_without_experts_has_no_such_signal_and_says_why() -> None:
    panel = panel_of(nn.Linear(2, 2))
    assert panel.series == ()
    assert set(panel.missing) == set(ExpertProbe.signals)
    assert all("exp_counts" in reason for reason in panel.missing.values())


def test_hooks_that_are_never_called_are_told_of_at_the_first_step() -> None:
    panel = panel_of(Counting(2))
    assert one_step(panel, {}) == {}
    assert {(one.signal, one.step) for one in panel.changes()} == {
        ("expert_imbalance", 1),
        ("expert_load", 1),
    }
    assert "compiled" in panel.missing["expert_load"]
