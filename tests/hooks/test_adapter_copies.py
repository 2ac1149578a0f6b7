"""Copies, pickles and compiled forms of a watched model are as they would be without us."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.compiled import CompiledCall
from tests.hooks.scripts.gpt import Gpt, batch
from tests.hooks.watched import Watched

ROOT = Path(__file__).resolve().parents[2]
ROWS = batch(1)


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


def watched_model() -> tuple[Gpt, torch.optim.Optimizer, Watched]:
    torch.manual_seed(1)
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters())
    return model, optimizer, Watched(choose(model=model, optimizer=optimizer))


def train(model: Callable[..., Tensor], optimizer: torch.optim.Optimizer) -> float:
    loss = model(ROWS[:, :-1], ROWS[:, 1:])
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_a_deep_copy_computes_the_same_and_is_not_watched() -> None:
    model, optimizer, watched = watched_model()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(ROWS[:, :-1]), model(ROWS[:, :-1]))
    for _ in range(3):
        twin(ROWS[:, :-1], ROWS[:, 1:]).backward()
    expected = train(model, optimizer)
    assert watched.steps[0].values["loss"] == pytest.approx(expected)
    assert copy.deepcopy(twin) is not None


def test_a_saved_model_loads_where_sentinel_is_not_installed(tmp_path: Path) -> None:
    model, _, _ = watched_model()
    torch.save(model, tmp_path / "model.pt")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    script = (
        "import sys; sys.modules['sentinel'] = sys.modules['sentinel_hooks'] = None\n"
        "import pickle, torch\n"
        "model = torch.load(sys.argv[1], weights_only=False)\n"
        "model.load_state_dict(torch.load(sys.argv[2]))\n"
        "model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()\n"
        "pickle.dumps(model)\n"
    )
    paths = [str(tmp_path / "model.pt"), str(tmp_path / "state.pt")]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_optimizer_and_an_output_are_saved_without_a_word() -> None:
    model, optimizer, _ = watched_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = model(ROWS[:, :-1], ROWS[:, 1:])
        torch.save(loss.detach(), io.BytesIO())
        pickle.dumps(optimizer)
        copy.deepcopy(optimizer)


def test_a_model_compiled_before_is_watched_but_for_its_modules() -> None:
    torch.manual_seed(1)
    model = Gpt()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.AdamW(model.parameters())
    watched = Watched(choose(model=compiled, optimizer=optimizer))
    loss = train(compiled, optimizer)
    assert "torch.compile" in watched.adapter.panel.missing["nonfinite_activation"]
    values = watched.steps[0].values
    assert values["loss"] == pytest.approx(loss)
    assert values["grad_norm"] > 0


def test_a_model_compiled_after_gives_the_same_losses_in_one_graph() -> None:
    losses = []
    for attach in (False, True):
        torch.manual_seed(1)
        model = Gpt()
        optimizer = torch.optim.AdamW(model.parameters())
        watched = Watched(choose(model=model, optimizer=optimizer)) if attach else None
        model.compile(backend="eager", fullgraph=True)
        losses.append([train(model, optimizer) for _ in range(3)])
        if watched is not None:
            # Hooks inside compiled code never fire: what they would see is missing, not zero.
            assert all("nonfinite_activation" not in seen.values for seen in watched.steps)
            reasons = {(one.step, one.signal): one.reason for one in watched.lost}
            assert "torch.compile" in reasons[1, "nonfinite_activation"]
            assert all(seen.values["grad_norm"] > 0 for seen in watched.steps)
            # The calls of the model itself are seen from outside from the next step on.
            assert [seen.values["loss"] for seen in watched.steps[1:]] == losses[1][1:]
            assert all(seen.values["tokens_per_second"] > 0 for seen in watched.steps[1:])
            assert isinstance(vars(model)["_compiled_call_impl"], CompiledCall)
            twin = copy.deepcopy(model)
            assert float(twin(ROWS[:, :-1], ROWS[:, 1:]).detach()) > 0
            watched.adapter.detach()
            assert not isinstance(vars(model)["_compiled_call_impl"], CompiledCall)
            assert train(model, optimizer) > 0
    assert losses[0] == losses[1]


def test_a_model_compiled_in_place_before_shows_its_loss_from_the_first_step() -> None:
    torch.manual_seed(1)
    model = Gpt()
    model.compile(backend="eager", fullgraph=True)
    optimizer = torch.optim.AdamW(model.parameters())
    watched = Watched(choose(model=model, optimizer=optimizer))
    losses = [train(model, optimizer) for _ in range(2)]
    assert [seen.values["loss"] for seen in watched.steps] == losses
    assert all(seen.values["backward_seconds"] > 0 for seen in watched.steps)
    assert "torch.compile" in watched.adapter.panel.missing["nonfinite_activation"]


def test_compiled_blocks_inside_a_watched_model_compile_in_one_graph() -> None:
    losses = []
    for attach in (False, True):
        torch.manual_seed(1)
        model = Gpt()
        optimizer = torch.optim.AdamW(model.parameters())
        watched = Watched(choose(model=model, optimizer=optimizer)) if attach else None
        for block in model.blocks:
            block.compile(backend="eager", fullgraph=True)
        losses.append([train(model, optimizer) for _ in range(2)])
        if watched is not None:
            assert [seen.values["nonfinite_activation"] for seen in watched.steps] == [0, 0]
    assert losses[0] == losses[1]
