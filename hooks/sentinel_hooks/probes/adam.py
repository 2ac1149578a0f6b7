"""How far gradients are from what Adam's second moment expects, by tensor and by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from sentinel.wire import Series
from sentinel_hooks.probes.holdings import Sampler, Selection, read_back
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample
from sentinel_hooks.probes.readback import number
from sentinel_hooks.probes.tensors import RollUp

_MOMENT = "exp_avg_sq"
_Known = tuple[float, "float | Tensor"]  # beta2, and the count of steps that v has taken in
_LEAST = 1e-37  # of what is divided by: where v is 0, so is g


class AdamProbe(Probe):
    """RMS_t = sqrt(mean(g^2 / max(v, eps^2))), of which 1 is what Adam expects.

    After StableAdamW (Wortsman et al., Stable and low-precision training for large-scale
    vision-language models, NeurIPS 2023, section 3.4), in whose runs values of 2.3 and more
    preceded spikes of the loss by 1 to 8 steps. g is the gradient that the optimizer applied,
    unscaled and clipped; v its second moment *after* it has taken g in, divided by 1 - beta2^t as
    Adam does, so that the first steps mean the same as later ones. Elements are those of the
    `sampler`. A step that was skipped has no RMS_t. `absent` says why there is none at all.
    """

    name = "Adam's RMS"
    signals = ("tensor_adam_rms", "layer_adam_rms")
    every = 20
    core = False

    def __init__(self, sampler: Sampler, absent: str = "") -> None:
        holdings = sampler.holdings
        absent = absent or holdings.absent
        self._sampler = sampler
        announced = () if absent else holdings.announced
        self._parts = RollUp("adam_rms", holdings.tensors, announced, mean=True)
        self._absent = self._parts.missing(absent)
        self._measures = bool(announced)
        self._first = 0
        self._barrier: Barrier | None = None
        self._storages: dict[int, int] = {}  # id of a tensor of the optimizer's -> its place
        self._open: list[tuple[int, Tensor, Mapping[str, object]]] = []  # in a base step
        self._gradients = torch.empty(0)  # the chosen elements of all of theirs
        self._ratios: dict[int, Tensor] = {}
        self._lacking = ""
        self._scaled = False  # a fused optimizer may leave out a step, and nobody says so
        self._result: tuple[Tensor, set[int]] | None = None  # and the tensors measured

    def series(self) -> Sequence[Series]:
        return self._parts.series()

    def missing(self) -> Mapping[str, str]:
        return self._absent

    def start(self, first: int, barrier: Barrier) -> None:
        self._first, self._barrier = first, barrier

    def update_began(self) -> None:
        self._open, self._ratios, self._result = [], {}, None
        if self._measures:
            storages = self._sampler.holdings.storages()
            self._storages = {id(storages[one]): one for one in self._sampler.now().used}

    def base_step_began(self, optimizer: Optimizer) -> None:
        self._open = []
        if not self._storages:
            return
        held = [
            (self._storages[id(tensor)], tensor, group)
            for group in optimizer.param_groups
            for tensor in group["params"]
            if id(tensor) in self._storages
        ]
        gradients = []
        for place, tensor, group in held:
            gradient = tensor.grad
            if gradient is not None and not gradient.is_sparse:
                gradients.append((place, gradient))
                self._open.append((place, tensor, group))
        if gradients:
            self._gradients = self._sampler.now().take(gradients)
            scale: object = getattr(optimizer, "grad_scale", None)  # of a fused optimizer
            self._scaled = isinstance(scale, Tensor)
            if isinstance(scale, Tensor):
                self._gradients /= scale

    def base_step_ended(self, optimizer: Optimizer) -> None:
        # In few calls for all tensors together, since most of the cost would be the calls.
        held, self._open = self._open, []
        moments, known, floors = [], [], []
        for place, tensor, group in held:
            moment = self._moment(optimizer.state[tensor], group)
            if moment is None:
                return
            moments.append((place, moment[0]))
            known.append(moment[1])
            floors.append(moment[2])
        if moments:
            selection = self._sampler.now()
            counts = [selection.count(place) for place, _ in moments]
            share = self._each(_shares_known(known, selection.device), counts)
            least = self._each(floors, counts)
            seconds = selection.take(moments).div_(share).clamp_min_(least).sqrt_()
            ratios = torch.split(self._gradients / seconds, counts)
            places = (place for place, _ in moments)
            self._ratios.update(zip(places, ratios, strict=True))

    def _each(self, values: Sequence[float] | Tensor, counts: Sequence[int]) -> Tensor:
        """For each element that is looked at the value of its tensor."""
        device = self._sampler.now().device
        if isinstance(values, Tensor):
            single = values
        elif len(set(values)) == 1:
            return torch.tensor(values[0], dtype=torch.float64).to(device, non_blocking=True)
        else:
            single = torch.tensor(values, dtype=torch.float64).to(device, non_blocking=True)
        repeats = torch.tensor(counts).to(device, non_blocking=True)
        return single.repeat_interleave(repeats, output_size=sum(counts))

    def _moment(
        self, state: Mapping[str, object], group: Mapping[str, object]
    ) -> tuple[Tensor, _Known, float] | None:
        """The second moment, how much is known of it, and what it counts as at least."""
        moment, steps = state.get(_MOMENT), state.get("step", group.get("step"))
        betas, eps = group.get("betas"), group.get("eps")
        if not isinstance(moment, Tensor) or not isinstance(steps, int | float | Tensor):
            self._lacking = f"the optimizer keeps no {_MOMENT} with a count of its steps"
            return None
        if not isinstance(betas, tuple | list) or not isinstance(eps, float | int):
            self._lacking = "the optimizer has no betas and eps"
            return None
        if isinstance(steps, Tensor) and steps.is_cpu:  # of one element; else it cannot be read now
            steps = number(steps)
        return moment, (betas[1], steps), max(eps * eps, _LEAST)

    def update_ended(self) -> None:
        if not self._ratios:
            return
        selection = self._sampler.now()
        none = [one for one in selection.used if one not in self._ratios]
        parts = [
            self._ratios[one]
            if one in self._ratios
            else torch.zeros(selection.count(one), device=selection.device)
            for one in selection.used
        ]
        known = set(self._sampler.holdings.announced) - _tensors_in(selection, none)
        self._result = (selection.squares(torch.cat(parts)), known)

    def optimizer_ended(self, outcome: Outcome) -> None:
        if outcome.skipped or outcome.overflow:
            self._result = None
        self._storages = {}

    def read(self, sample: Sample) -> None:
        result, self._result = self._result, None
        if result is not None:
            sums, known = result
            read_back(sample, sums, lambda values: self._put(sample, values, known))
        elif self._lacking and self._barrier is not None:
            self._barrier.retire(self, self._lacking)

    def _put(self, sample: Sample, values: Sequence[float], known: set[int]) -> None:
        if self._scaled:
            known = {one for one in known if math.isfinite(values[one])}
        sums = [value if one in known else None for one, value in enumerate(values)]
        self._parts.put(sample, self._first, sums)


def _shares_known(known: Sequence[_Known], device: torch.device) -> list[float] | Tensor:
    """Of each v the share that does not come from its start at 0: 1 - beta2^t."""
    if not any(isinstance(steps, Tensor) for _, steps in known):
        return [float(1 - beta**steps) for beta, steps in known]
    first = known[0][0]
    counts = [torch.as_tensor(t, device=device).reshape(()).to(torch.float32) for _, t in known]
    if all(beta is first or beta == first for beta, _ in known):
        return 1 - first ** torch.stack(counts)
    return torch.stack([1 - beta**t for (beta, _), t in zip(known, counts, strict=True)])


def _tensors_in(selection: Selection, storages: Sequence[int]) -> set[int]:
    return {tensor for storage in storages for tensor in selection.tensors_in(storage)}
