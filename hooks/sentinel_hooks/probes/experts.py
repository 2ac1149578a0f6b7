"""How a model with a mixture of experts spreads its tokens over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

import torch
from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from sentinel.wire import Series
from sentinel_hooks.probes.inert import InertInCopies
from sentinel_hooks.probes.probe import Barrier, Probe, Sample
from sentinel_hooks.probes.routing import ExpertLayer, expert_layers

MAX_LOADS = 1024  # series; a rank's experts beyond these are too many to report one by one

_NO_LAYERS = "no module of the model has exp_counts, the tokens routed to each of its experts"
_NO_DROPS = "no module with experts tells how many tokens it drops (exp_dropped)"
_NOT_CALLED = (
    "no hook on a module with experts was called: in a model that is compiled they never are"
)


class CountHook(InertInCopies):
    """A forward hook that has the probe look at what a module says about its experts."""

    __slots__ = ("__weakref__", "_layer", "_probe")

    def __init__(self, probe: ExpertProbe, layer: ExpertLayer) -> None:
        self._probe = probe
        self._layer = layer

    def __call__(self, module: Module, args: tuple[object, ...], output: object) -> None:
        # Traced by torch.compile this is nothing at all: the compiled code is as it was.
        if self._probe.watching and not torch.compiler.is_compiling():
            self._probe.see(self._layer, args)


class ExpertProbe(Probe):
    """Load of each expert, imbalance and dropped tokens of each layer, of this rank's tokens.

    What is read of which modules is told in `routing`. A forward hook adds it up on the device,
    over all micro-batches, in forward passes of the root that are trained on; those that
    activation checkpointing repeats in the backward are not counted again. For a layer that no
    token reached there are no values.
    """

    name = "experts"
    signals = ("expert_load", "expert_imbalance", "expert_dropped_tokens")
    core = False

    def __init__(self, root: Module) -> None:
        self._layers = expert_layers(root)
        self._drops = any(layer.tells_drops for layer in self._layers)
        self._loads = sum(layer.experts for layer in self._layers) <= MAX_LOADS
        self._first = 0
        self._barrier: Barrier | None = None
        self._hooks: list[RemovableHandle] = []
        self.watching = False
        self._passed = self._called = False  # the root, in this step; a hook, ever

    def series(self) -> Sequence[Series]:
        return [
            one
            for layer in self._layers
            for one in (
                Series("expert_imbalance", layer.name),
                Series("expert_dropped_tokens", layer.name),
                *self._loads_of(layer),
            )
            if self._drops or one.signal != "expert_dropped_tokens"
        ]

    def _loads_of(self, layer: ExpertLayer) -> list[Series]:
        experts = range(layer.experts if self._loads else 0)
        return [Series("expert_load", f"{layer.name}:{expert}") for expert in experts]

    def missing(self) -> Mapping[str, str]:
        if not self._layers:
            return dict.fromkeys(self.signals, _NO_LAYERS)
        missing = {} if self._drops else {"expert_dropped_tokens": _NO_DROPS}
        if not self._loads:
            experts = sum(layer.experts for layer in self._layers)
            reason = f"{experts} experts in all; loads are reported one by one up to {MAX_LOADS}"
            missing["expert_load"] = reason
        return missing

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first
        self._barrier = barrier
        self._hooks = [
            layer.module.register_forward_hook(CountHook(self, layer)) for layer in self._layers
        ]

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        self.watching = training
        self._passed = self._passed or training

    def forward_ended(self, output: object) -> None:
        self.watching = False

    def see(self, layer: ExpertLayer, args: tuple[object, ...]) -> None:
        """A module with experts has run. Called from its hook, so it guards itself."""
        barrier = self._barrier
        if barrier is None:
            return
        began = perf_counter()
        try:
            self._called = True
            layer.count(args)
        except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
            barrier.fault(self, error)
        barrier.spent(self, perf_counter() - began)

    def read(self, sample: Sample) -> None:
        passed, self._passed, self.watching = self._passed, False, False
        totals = [layer.take() for layer in self._layers]
        counted = [total for total in totals if total is not None]
        if passed and self._layers and not self._called and self._barrier is not None:
            self._barrier.retire(self, _NOT_CALLED)
        if not counted:
            return

        def fill(values: list[float]) -> None:
            index, start = self._first, 0
            for layer, total in zip(self._layers, totals, strict=True):
                if total is not None:
                    end = start + layer.experts
                    self._put(sample, index, layer, values[start:end], values[end])
                    start = end + 1
                index += 1 + self._drops + (layer.experts if self._loads else 0)

        sample.later(torch.cat(counted).to(torch.float32), fill)

    def _put(
        self, sample: Sample, index: int, layer: ExpertLayer, counts: list[float], dropped: float
    ) -> None:
        """The values of one layer, whose series begin at `index`."""
        routed = sum(counts)
        if not routed:
            return
        sample.put(index, max(counts) * layer.experts / routed)
        if self._drops:
            index += 1
            if layer.tells_drops:
                sample.put(index, dropped)
        if self._loads:
            for place, count in enumerate(counts, index + 1):
                sample.put(place, count / routed)

    def detach(self) -> None:
        self.watching = False
        for handle in self._hooks:
            handle.remove()
        self._hooks = []
        for layer in self._layers:
            layer.total = None
