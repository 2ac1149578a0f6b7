"""Probes never read a value from a device while training waits for it.

Fake tensors stand on "cuda" without a device, and raise as soon as anything needs one of their
values on the host: exactly where a real device would have been waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.probes.activation import ActivationProbe
from sentinel_hooks.probes.clipping import ClippingProbe
from sentinel_hooks.probes.gradient import GradientProbe
from sentinel_hooks.probes.loss import LossProbe
from sentinel_hooks.probes.loss_scale import LossScaleProbe
from sentinel_hooks.probes.masking import MaskingProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Gradients, Outcome, Probe
from sentinel_hooks.probes.rate import RateProbe
from sentinel_hooks.probes.tensors import Tensors
from tests.hooks.watched import Later, Watched

FAKE = torch.device("cuda", 0)
aten = torch.ops.aten


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes the host wait for a device: scalars read, and copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in args if isinstance(one, Tensor)]
        on_device = any(one.device.type != "cpu" for one in tensors)
        reads = func in (aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default)
        copies = func in (aten._to_copy.default, aten.copy_.default)
        home = isinstance(result, Tensor) and result.device.type == "cpu"
        if on_device and (reads or (copies and home)):
            self.names.append(str(func))
        return result


@contextmanager
def device() -> Iterator[Reads]:
    """Tensors made in here may stand on a device that is not there."""
    with FakeTensorMode(allow_non_fake_inputs=True), Reads() as reads:
        yield reads


class Layer(nn.Module):
    """A linear layer without what autograd needs, which cannot work on such a device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(8, 8, device=FAKE))

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = x @ self.get_buffer("weight")
        return mixed


def train(panel: Panel, model: nn.Module, *, steps: int = 2) -> None:
    """What an adapter tells its probes, with everything on the device."""
    panel.start(0)
    for step in range(1, steps + 1):
        for micro_batch in range(2):
            inputs = torch.ones(4, 8, device=FAKE)
            panel.forward_began((inputs,), {}, True)
            loss = model(inputs).sum()
            panel.forward_ended(loss)
            panel.loss_known(loss / (1 + micro_batch), averaged=False)
            panel.backward_began()
            panel.backward_ended()
        panel.optimizer_began()
        shards = [torch.ones_like(weight) for weight in model.buffers()]
        scale = torch.ones((), device=FAKE)
        gradients = Gradients(shards, [0] * len(shards), scale)
        panel.gradients_ready(gradients)
        panel.gradients_final(gradients)
        norm = torch.ones((), device=FAKE)
        panel.optimizer_ended(Outcome(step, grad_norm=norm))
        panel.read(step)
        panel.settled()
        panel.resumed()


def model_on_device() -> nn.Module:
    blocks = (nn.Sequential(Layer(), nn.GELU()) for _ in range(2))
    return nn.Sequential(Layer(), *blocks)


def gradient_probe(model: nn.Module) -> Probe:
    tensors = Tensors(("head.weight",), ("head",), (0,), (64,), (0,))
    return GradientProbe(tensors, [0], whole=True)


def rate_probe(model: nn.Module) -> Probe:
    rate = torch.ones((), device=FAKE)
    return RateProbe(lambda: [rate])


def scale_probe(model: nn.Module) -> Probe:
    scale = torch.ones((), device=FAKE)
    return LossScaleProbe(lambda: scale, lambda: 1.0, {})


PROBES: dict[str, Callable[[nn.Module], list[Probe]]] = {
    "loss": lambda model: [LossProbe()],
    "rate": lambda model: [rate_probe(model)],
    "loss scale": lambda model: [scale_probe(model)],
    "gradient": lambda model: [gradient_probe(model)],
    "masking": lambda model: [MaskingProbe(FAKE, "")],
    "clipping": lambda model: [gradient_probe(model), ClippingProbe(lambda: 1.0, FAKE, "")],
    "activation": lambda model: [ActivationProbe(model, "model", FAKE)],
}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_hands_over_what_is_on_a_device_and_never_reads_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    with device() as reads:
        model = model_on_device()
        later = Later()
        train(Panel(PROBES[name](model), FAKE, readback=later), model)
    assert reads.names == []
    assert later.submitted
    assert all(tensor.device == FAKE for tensor in later.submitted)


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: float(tensor),
        lambda tensor: bool(torch.isfinite(tensor).all()),
        lambda tensor: tensor.tolist(),
    ],
)
def test_a_probe_that_reads_a_value_is_caught(
    read: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hasty(Probe):
        def loss_known(self, loss: Tensor, averaged: bool) -> None:
            read(loss)

    monkeypatch.setenv("SENTINEL_RAISE", "1")
    with device():
        model = model_on_device()
        panel = Panel([Hasty()], FAKE, readback=Later())
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            train(panel, model)


def test_a_probe_that_copies_to_the_host_is_counted() -> None:
    class Copying(Probe):
        def loss_known(self, loss: Tensor, averaged: bool) -> None:
            loss.detach().cpu()

    with device() as reads:
        model = model_on_device()
        train(Panel([Copying()], FAKE, readback=Later()), model, steps=1)
    assert reads.names == ["aten._to_copy.default"] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_device_no_step_under_watch_synchronizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    real = torch.device("cuda")
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4)))
    model = model.to(real)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watched = Watched(choose(model=model, optimizer=optimizer))
    inputs = torch.randn(8, 64, device=real)

    def step() -> None:
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    watched.collect(wait=True)
    assert len(watched.steps) == 8
    watched.adapter.detach()
