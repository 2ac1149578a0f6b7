"""Each probe made to raise, to hang for a second, or to return rubbish: training never notices."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.probes.probe import Probe, Sample
from tests.hooks.scripts.gpt import Gpt, batch

STEPS = 6
SECOND = 1.0


def trained(spoil: Callable[[Probe], None] | None, name: str) -> tuple[list[float], list[str], int]:
    """Losses, the reasons why this probe's signals are missing, and how many steps were sampled."""
    torch.manual_seed(0)
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters())
    adapter = choose(model=model, optimizer=optimizer)
    probe = next(one for one in adapter.panel.probes if one.name == name)
    if spoil is not None:
        probe.every = 1
        spoil(probe)
    adapter.install(lambda _: None, lambda _: None)
    losses, measured = [], 0
    for step in range(STEPS):
        tokens = batch(step)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        measured += len(adapter.panel.settled())
    reasons = [one.reason for one in adapter.panel.changes() if one.signal in probe.signals]
    assert (probe in adapter.panel.probes) == (spoil is None)
    adapter.detach()
    return losses, reasons, measured


def raises(probe: Probe) -> None:
    def read(sample: Sample) -> None:
        raise RuntimeError("broken on purpose")

    probe.read = read  # type: ignore[method-assign]


def hangs(probe: Probe) -> None:
    measure, hung = probe.read, False

    def read(sample: Sample) -> None:
        nonlocal hung
        if not hung:
            hung = True
            time.sleep(SECOND)  # the fault itself
        measure(sample)

    probe.read = read  # type: ignore[method-assign]


def finds_rubbish(probe: Probe) -> None:
    def read(sample: Sample) -> None:
        sample.find("rubbish")  # type: ignore[arg-type]

    probe.read = read  # type: ignore[method-assign]


def puts_rubbish(probe: Probe) -> None:
    def read(sample: Sample) -> None:
        sample.put(0, "rubbish")  # type: ignore[arg-type]

    probe.read = read  # type: ignore[method-assign]


def puts_it_nowhere(probe: Probe) -> None:
    def read(sample: Sample) -> None:
        sample.put(10**6, 1.0)

    probe.read = read  # type: ignore[method-assign]


def defers_rubbish(probe: Probe) -> None:
    def read(sample: Sample) -> None:
        sample.later("rubbish", print)  # type: ignore[arg-type]

    probe.read = read  # type: ignore[method-assign]


def names() -> list[str]:
    """Of the probes that measure something in this loop."""
    model = Gpt()
    adapter = choose(model=model, optimizer=torch.optim.AdamW(model.parameters()))
    return [probe.name for probe in adapter.panel.probes if probe.series()]


PROBES = names()


@pytest.fixture(autouse=True)
def _as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENTINEL_RAISE", raising=False)


@pytest.fixture(scope="module")
def undisturbed() -> list[float]:
    return trained(None, PROBES[0])[0]


@pytest.mark.parametrize(
    "spoil",
    [raises, hangs, finds_rubbish, puts_rubbish, puts_it_nowhere, defers_rubbish],
    ids=lambda one: one.__name__,
)
@pytest.mark.parametrize("name", PROBES)
def test_a_spoiled_probe_is_off_with_a_reason_and_losses_are_the_same(
    name: str, spoil: Callable[[Probe], None], undisturbed: list[float]
) -> None:
    losses, reasons, measured = trained(spoil, name)
    assert losses == undisturbed
    assert reasons
    assert all("in one call" in one for one in reasons) == (spoil is hangs)
    assert measured == STEPS


@pytest.mark.parametrize("rubbish", [None, 7, [None], ["loss"], [("loss", 1)], [object()]])
def test_a_probe_that_announces_rubbish_is_left_out(rubbish: object) -> None:
    model = Gpt()
    adapter = choose(model=model, optimizer=torch.optim.AdamW(model.parameters()))
    panel, probe = adapter.panel, adapter.panel.probes[0]
    probe.series = lambda: rubbish  # type: ignore[method-assign, assignment, return-value]
    fresh = type(panel)(panel.probes, torch.device("cpu"))
    assert "loss" in fresh.missing
    assert all(isinstance(one.signal, str) for one in fresh.series)
    assert len(fresh.series) == len(panel.series) - 1
