"""Sizes of updates and Adam's RMS, from elements that stand for whole tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from sentinel.signals import CATALOG
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.options import Options
from sentinel_hooks.probes.coordinates import COUNT, draw
from sentinel_hooks.probes.holdings import REDRAW, Holdings, Piece, Sampler
from sentinel_hooks.probes.tensors import MAX_TENSORS, RollUp, Tensors
from tests.hooks.scripts.gpt import Gpt, adapted, batch
from tests.hooks.watched import Watched


@settings(max_examples=50)
@given(
    st.integers(1, 40_000),
    st.integers(0, 3),
    st.integers(1, 300),
    st.text(max_size=8),
)
def test_drawn_places_are_distinct_ascending_and_inside(
    size: int, epoch: int, count: int, name: str
) -> None:
    places = draw(name, size, 0, epoch, count)
    if size <= count:
        assert places is None
        return
    assert places is not None
    found = places.tolist()
    assert found == sorted(set(found))
    assert len(found) == count
    assert 0 <= found[0] <= found[-1] < size
    assert found == draw(name, size, 0, epoch, count).tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [200, 2000])  # by permutation, and by drawing again and again
def test_every_place_is_drawn_as_often_as_any_other(size: int) -> None:
    times = torch.zeros(size)
    for epoch in range(1500):
        places = draw("w", size, 0, epoch, 50)
        assert places is not None
        times[places] += 1
    expected = 1500 * 50 / size
    spread = math.sqrt(expected * (1 - 50 / size))
    assert float((times - expected).abs().max()) < 5 * spread
    assert float(times.std()) == pytest.approx(spread, rel=0.2)


def test_rows_of_an_embedding_are_drawn_once() -> None:
    places = draw("tokens.weight", 5000 * 64, 5000, 0)
    assert places is not None
    assert len(places) == COUNT
    rows, columns = places // 64, places % 64
    assert len(set(rows.tolist())) == COUNT
    assert len(set(columns.tolist())) == 64


def real_updates() -> dict[str, Tensor]:
    """What some steps of training added to weights of several kinds."""
    torch.manual_seed(0)
    model = Gpt(vocabulary=4096, width=64)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    for seed in range(4):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        tokens = batch(seed, vocabulary=4096)
        optimizer.zero_grad()
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    names = ("tokens.weight", "blocks.0.mlp.0.weight", "blocks.1.attention.qkv.weight")
    return {name: model.get_parameter(name).detach() - before[name] for name in names}


@pytest.mark.parametrize("kind", ["real", "sparse"])
def test_the_estimate_is_unbiased_and_its_error_is_the_stated_one(kind: str) -> None:
    for name, update in real_updates().items():
        rows = len(update) if name == "tokens.weight" else 0
        if kind == "sparse" and rows:
            update = update * (torch.arange(rows)[:, None] % 7 == 0)
        flat = update.flatten().double()
        size, true = flat.numel(), float(flat.square().sum())
        estimates = []
        for epoch in range(200):
            places = draw(name, size, rows, epoch)
            assert places is not None
            estimates.append(size / len(places) * float(flat[places].square().sum()) / true)
        found = torch.tensor(estimates)
        kurtosis = float(flat.pow(4).mean() / flat.square().mean() ** 2)
        finite = 1.0 if rows else 1 - COUNT / size
        stated = math.sqrt(finite * (kurtosis - 1) / COUNT)  # of the square: twice the root's
        assert float(found.mean()) == pytest.approx(1, abs=4.5 * stated / math.sqrt(200))
        error = float(found.std())
        assert error < 1.15 * stated
        if not rows:
            assert error > 0.85 * stated


@settings(max_examples=40)
@given(st.data())
def test_shards_of_any_cut_add_up_to_the_whole(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5000), min_size=1, max_size=4))
    tensors = Tensors(
        tuple(f"w{i}" for i in range(len(sizes))), ("l",), (0,) * len(sizes), tuple(sizes), (0,) * 4
    )
    exact = data.draw(st.booleans())
    torch.manual_seed(sum(sizes))
    flat = torch.randn(sum(sizes))
    cuts = data.draw(st.lists(st.integers(0, len(flat)), max_size=3))
    edges = [0, *sorted(cuts), len(flat)]

    def squares(first: int, last: int) -> Tensor:
        pieces, begin = [], 0
        for tensor, size in enumerate(sizes):
            left, right = max(begin, first), min(begin + size, last)
            if left < right:
                pieces.append(Piece(tensor, 0, left - first, left - begin, right - left))
            begin += size
        storages = [flat[first:last]]
        holdings = Holdings(tensors, tuple(pieces), lambda: storages)
        selection = Sampler(holdings, exact=exact).now()
        return selection.squares(selection.take_all(storages))

    parts = [squares(first, last) for first, last in itertools.pairwise(edges)]
    assert torch.stack(parts).sum(0).tolist() == pytest.approx(
        squares(0, len(flat)).tolist(), rel=1e-5
    )
    if exact:
        true = [float(part.double().square().sum()) for part in torch.split(flat, sizes)]
        assert squares(0, len(flat)).tolist() == pytest.approx(true, rel=1e-5)


def test_elements_are_drawn_anew_after_a_while_and_in_exact_mode_never() -> None:
    tensors = Tensors(("w",), ("l",), (0,), (5000,), (0,))
    weight = torch.randn(5000)
    holdings = Holdings(tensors, (Piece(0, 0, 0, 0, 5000),), lambda: [weight])
    for exact in (False, True):
        sampler, jumping = Sampler(holdings, exact=exact), Sampler(holdings, exact=exact)
        first = sampler.now()
        for step in range(10, REDRAW, 10):
            sampler.done(step)
            assert sampler.now() is first
        sampler.done(REDRAW)
        jumping.done(REDRAW)
        assert (sampler.now() is first) == exact
        taken = sampler.now().take_all([weight])
        assert torch.equal(taken, jumping.now().take_all([weight]))
        assert torch.equal(taken, first.take_all([weight])) == exact


class Loop:
    """A plain loop on a small GPT, measured at every step."""

    def __init__(
        self,
        make: Callable[[nn.Module], Optimizer],
        *,
        exact: bool = True,
        model: nn.Module | None = None,
    ) -> None:
        torch.manual_seed(1)
        self.model = model or Gpt()
        self.optimizer = make(self.model)
        adapter = choose(
            model=self.model, optimizer=self.optimizer, options=Options(exact_updates=exact)
        )
        for probe in adapter.panel.probes:
            probe.every = 1
        self.watched = Watched(adapter)

    def step(self, seed: int = 0, clip: float = math.inf) -> dict[str, float]:
        tokens = batch(seed)
        self.optimizer.zero_grad()
        self.model(tokens[:, :-1], tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        return self.watched.steps[-1].values


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=1e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_updates_and_weights_are_what_the_step_changed(exact: bool) -> None:
    loop = Loop(adamw, exact=exact)
    loop.step()
    before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
    values = loop.step(1)
    for name, parameter in loop.model.named_parameters():
        update = float((parameter.detach() - before[name]).double().square().sum())
        whole = exact or parameter.numel() <= COUNT
        tolerance = 1e-5 if whole else 0.5
        assert values[f"tensor_update_norm|{name}"] == pytest.approx(update, rel=tolerance)
        weight = float(before[name].double().square().sum())
        assert values[f"tensor_weight_norm|{name}"] == pytest.approx(weight, rel=tolerance)
    layer = [values[f"tensor_update_norm|blocks.0.norm1.{one}"] for one in ("weight", "bias")]
    assert values["layer_update_norm|blocks.0.norm1"] == pytest.approx(sum(layer), rel=1e-12)


@pytest.mark.parametrize("kind", [AdamW, Adam])
def test_adams_rms_compares_the_gradient_with_the_moment_it_went_into(
    kind: type[AdamW] | type[Adam],
) -> None:
    loop = Loop(lambda model: kind(model.parameters(), lr=1e-3, betas=(0.9, 0.99), eps=1e-6))
    first = loop.step()
    # After one step v is g^2: only where g is below eps is the ratio less than 1.
    assert 0.5 < first["tensor_adam_rms|blocks.0.mlp.0.weight"] <= 1.0001
    values = loop.step(1)
    weights, elements = 0.0, 0
    for name in ("blocks.0.mlp.0.weight", "blocks.0.mlp.0.bias"):
        parameter = loop.model.get_parameter(name)
        assert parameter.grad is not None
        second = loop.optimizer.state[parameter]["exp_avg_sq"].double() / (1 - 0.99**2)
        ratio = parameter.grad.double().square() / second.clamp(min=1e-12)
        assert values[f"tensor_adam_rms|{name}"] == pytest.approx(float(ratio.mean()), rel=1e-4)
        weights, elements = weights + float(ratio.sum()), elements + ratio.numel()
    assert values["layer_adam_rms|blocks.0.mlp.0"] == pytest.approx(weights / elements, rel=1e-4)


def test_clipping_counts_in_adams_rms_and_not_in_the_gradient_norm() -> None:
    loop = Loop(adamw)
    loop.step()
    plain = loop.step(1)
    clipped = loop.step(2, clip=1e-4)
    assert clipped["grad_norm"] > 0.1
    assert plain["layer_adam_rms|head"] > 0.1
    assert 0 < clipped["layer_adam_rms|head"] < 1e-4


def test_an_optimizer_without_a_second_moment_has_no_rms_but_updates() -> None:
    loop = Loop(lambda model: SGD(model.parameters(), lr=0.1))
    reason = loop.watched.adapter.panel.missing["tensor_adam_rms"]
    assert "SGD" in reason
    assert loop.step()["layer_update_norm|head"] > 0


class Strange(Optimizer):
    """Has what Adam has in its groups, and keeps nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for one in group["params"]:
                one.data.sub_(one.grad, alpha=group["lr"])


def test_an_optimizer_that_turns_out_to_keep_no_moment_is_said_so_once() -> None:
    loop = Loop(Strange)
    values = loop.step()
    assert values["layer_update_norm|head"] > 0
    assert not any("adam_rms" in name for name in values)
    lost = {one.signal: one.reason for one in loop.watched.lost}
    assert set(lost) == {"tensor_adam_rms", "layer_adam_rms"}
    assert all("exp_avg_sq" in reason for reason in lost.values())
    loop.step()
    assert len(loop.watched.lost) == 2


def test_a_rate_of_zero_is_measured_as_an_update_of_zero() -> None:
    loop = Loop(lambda model: AdamW(model.parameters(), lr=0.0))
    values = loop.step()
    updates = [value for name, value in values.items() if "update_norm" in name]
    assert len(updates) > 30
    assert set(updates) == {0.0}
    assert all(value > 0 for name, value in values.items() if name == "tensor_adam_rms|head.weight")


def test_with_their_interval_updates_are_missing_in_between() -> None:
    torch.manual_seed(1)
    model = Gpt()
    optimizer = adamw(model)
    watched = Watched(choose(model=model, optimizer=optimizer))
    for seed in range(40):
        tokens = batch(seed)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    measured = [one.step for one in watched.steps if "layer_update_norm|head" in one.values]
    assert measured == [20, 40]
    assert all("tensor_grad_norm|head.weight" in one.values for one in watched.steps)
    every = watched.adapter.panel.every
    assert {every[name] for name in every if "update_norm" in name} == {20}


def test_adapters_groups_ties_and_what_is_frozen() -> None:
    torch.manual_seed(1)
    model = Gpt()
    loop = Loop(lambda _: AdamW(adapted(model), lr=1e-3), model=model)
    values = loop.step()
    tensors = {name.partition("|")[2] for name in values if name.startswith("tensor_update_norm")}
    assert tensors == {name for name, p in model.named_parameters() if p.requires_grad}
    assert "tokens.weight" in tensors
    assert not {"head.weight", "positions", "blocks.0.attention.qkv.frozen.weight"} & tensors
    assert values["tensor_update_norm|blocks.0.attention.qkv.up.weight"] > 0
    # Its gradient is zero as long as the other factor is: such an update is really zero.
    for signal in ("grad_norm", "update_norm", "weight_norm", "adam_rms"):
        assert f"tensor_{signal}|tokens.weight" in values
        assert CATALOG[f"tensor_{signal}"].label == "tensor"


def test_a_model_of_too_many_tensors_is_reported_by_layer_alone() -> None:
    count = MAX_TENSORS + 2
    names = tuple(f"l{i // 2}.{i % 2}" for i in range(count))
    layers = tuple(f"l{i}" for i in range(count // 2))
    owners = tuple(i // 2 for i in range(count))
    tensors = Tensors(names, layers, owners, (1,) * count, (0,) * count)
    parts = RollUp("grad_norm", tensors, range(count))
    assert {one.signal for one in parts.series()} == {"layer_grad_norm"}
    assert len(parts.series()) == count // 2
    assert str(MAX_TENSORS) in parts.missing("")["tensor_grad_norm"]
