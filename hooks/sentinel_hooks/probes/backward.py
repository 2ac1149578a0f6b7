"""The first parameter, in the order of the backward pass, whose gradient is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

from sentinel.wire import Finding, Series
from sentinel_hooks.probes.finite import is_bad
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

_THOROUGH = 100  # steps
_NOTED = 100  # steps between two at which the order is noted, where nothing else is to be seen
_SMALL = 1 << 17  # elements; gradients that are smaller are looked at whole


class BackwardProbe(Probe):
    """Counts the parameters whose gradient had NaN or Inf on this rank, and names the first.

    Hooks on the parameters see each gradient as this rank computed it, micro-batch by micro-batch
    in the order of the backward pass, before it is reduced over ranks: afterwards a NaN of one
    rank is everybody's. One element of each row is looked at (small gradients whole): what is not
    finite in the gradient of an output makes entire rows of the weight's so, and all that follows.
    What this overlooks is found when the reduced gradients are measured (`Sample.bad_parameters`);
    then, for some steps, every local gradient is looked at whole.

    `alone`: there is no other rank. With one micro-batch a step, too, the reduced gradients are
    the local ones, and only their order is noted here, now and then. In the passes between there
    are no hooks, since every one, whatever it does, holds up the thread that starts the kernels.
    """

    name = "local gradients"
    signals = ("nonfinite_local_gradient",)

    def __init__(
        self,
        parameters: Sequence[tuple[str, Parameter]],
        root_name: str,
        device: torch.device,
        *,
        alone: bool,
    ) -> None:
        self._root_name = root_name
        self._nothing = torch.empty(0, device=device)
        self._parameters = parameters
        self._alone = alone
        self._first = 0
        self._barrier: Barrier | None = None
        self._handles: list[RemovableHandle] = []
        self._passes = 0  # backward passes of this step
        self._before = 1  # of the step before
        self._steps = 0
        self.looks = self.notes = False  # at gradients, at their order only
        self.order: list[str] = []  # of the last pass in which it was noted
        self._bad: dict[str, int] = {}  # parameter -> micro-batch
        self._later: list[tuple[str, int, Tensor]] = []  # with a sum that shows it
        self._thorough = 0  # steps for which gradients are looked at whole
        self._overflow = False

    def series(self) -> Sequence[Series]:
        return (Series("nonfinite_local_gradient"),) if self._parameters else ()

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first
        self._barrier = barrier
        if not self._alone:
            self._place_hooks()

    def backward_began(self) -> None:
        self._passes += 1
        several = max(self._passes, self._before) > 1
        self.looks = not self._alone or several or bool(self._thorough)
        self.notes = not self._steps % _NOTED
        if self.looks or self.notes:
            self.order = []
            self._place_hooks()
        else:
            self._remove_hooks()

    def _place_hooks(self) -> None:
        if not self._handles and self._barrier is not None:
            self._handles = [
                parameter.register_hook(_GradientHook(self, name))  # type: ignore[no-untyped-call]
                for name, parameter in self._parameters
            ]

    def _remove_hooks(self) -> None:
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        for _, parameter in self._parameters:
            if parameter._backward_hooks is not None and not parameter._backward_hooks:
                parameter._backward_hooks = None  # torch leaves an empty dictionary
        self._handles = []

    def seen(self, name: str, gradient: Tensor) -> None:
        """The backward pass has come to this parameter. Called from its hook: guards itself."""
        barrier = self._barrier
        if barrier is None:
            return
        began = perf_counter()
        try:
            with torch.inference_mode():
                self._look(name, gradient)
        except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
            barrier.fault(self, error)
        barrier.spent(self, perf_counter() - began)

    def _look(self, name: str, gradient: Tensor) -> None:
        if gradient.is_sparse:
            gradient = gradient._values()
        slim = gradient.dim() > 1 and gradient.numel() > _SMALL and not self._thorough
        values = gradient.select(-1, 0) if slim else gradient
        if not values.is_cpu:
            total = values.sum(dtype=torch.float32)
            self._later.append((name, max(0, self._passes - 1), total))
        elif is_bad(values):
            self._bad.setdefault(name, max(0, self._passes - 1))

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._overflow = bool(outcome.overflow)

    def read(self, sample: Sample) -> None:
        """Comes after the gradients, which say what is bad of those that are reduced."""
        passes, order, bad, later = self._passes, self.order, self._bad, self._later
        self._passes, self._bad, self._later = 0, {}, []
        self._steps += 1
        self._before = passes or self._before
        self._thorough = max(0, self._thorough - 1)
        overflow, self._overflow = self._overflow, False
        if overflow or not passes:
            return  # after an overflow in fp16 the gradients say nothing

        def fill(sums: list[float]) -> None:
            for (name, micro_batch, _), total in zip(later, sums, strict=True):
                if total - total != 0:  # NaN or infinite
                    bad.setdefault(name, micro_batch)
            self._put(sample, order, bad)

        totals = [total for _, _, total in later]
        # Empty, it still comes after what the gradient norms have found on the device.
        sample.later(torch.stack(totals) if totals else self._nothing, fill)

    def _put(self, sample: Sample, order: Sequence[str], bad: dict[str, int]) -> None:
        reduced = sample.bad_parameters
        if self._alone and not bad:
            bad = dict.fromkeys(sorted(reduced, key=_places(order, reduced)), 0)
        sample.put(self._first, float(len(bad)))
        if bad:
            name, micro_batch = next(iter(bad.items()))
            sample.find(self._finding("nonfinite_local_gradient", name, micro_batch))
        elif sample.bad_gradients:
            self._thorough = _THOROUGH
        if reduced:
            first = min(reduced, key=_places(order, reduced))
            sample.find(self._finding("nonfinite_gradient", first))

    def _finding(self, signal: str, parameter: str, micro_batch: int = 0) -> Finding:
        module = parameter.rpartition(".")[0] or self._root_name
        return Finding(signal, module, micro_batch, parameter=parameter)

    def detach(self) -> None:
        self._remove_hooks()
        self._barrier = None
        self.order, self._bad, self._later = [], {}, []


class _GradientHook:
    """A hook on a parameter; torch leaves it out, without a warning, when the model is saved."""

    __slots__ = ("__weakref__", "name", "probe")
    __torch_unserializable__ = True

    def __init__(self, probe: BackwardProbe, name: str) -> None:
        self.probe = probe
        self.name = name

    def __call__(self, gradient: Tensor) -> None:
        probe = self.probe
        if probe.looks and not torch.compiler.is_compiling():
            probe.order.append(self.name)
            probe.seen(self.name, gradient)
        elif probe.notes:
            probe.order.append(self.name)


def _places(order: Sequence[str], names: Sequence[str]) -> Callable[[str], int]:
    """When the backward pass came to a parameter; where that was not seen, the model's last."""
    seen = {name: place for place, name in enumerate(order)}
    unseen = {name: len(order) + place for place, name in enumerate(reversed(names))}
    return lambda name: seen.get(name, unseen.get(name, 0))
