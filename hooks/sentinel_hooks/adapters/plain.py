"""Watch a plain training loop, which shows no more than a model and its optimizer.

A step is over when the optimizer's `step` is. The gradients are measured when a backward pass
ends, before the loop can clip them (and with DistributedDataParallel once they are reduced).
Under fp16 autocast a GradScaler may keep them scaled until the optimizer's step: there they are
measured on entry to it, after whatever clipping the loop does.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sentinel.errors import AttachError
from sentinel.wire import Checkpoint, Group, Remedies
from sentinel_hooks.adapters import membership
from sentinel_hooks.adapters.instruments import instruments
from sentinel_hooks.adapters.masters import of_parameters, without_moment
from sentinel_hooks.adapters.membership import groups_of
from sentinel_hooks.adapters.options import DEFAULT, Options
from sentinel_hooks.adapters.parameters import parameters_of
from sentinel_hooks.adapters.rate_scale import RateScale
from sentinel_hooks.adapters.remedy import Treatment
from sentinel_hooks.adapters.root import RootWatch
from sentinel_hooks.adapters.shards import Shards, replicated
from sentinel_hooks.adapters.weights import first_bad
from sentinel_hooks.collectives.group import Groups
from sentinel_hooks.collectives.sequence import Sequences
from sentinel_hooks.loaders import Loaders
from sentinel_hooks.probes.adam import AdamProbe
from sentinel_hooks.probes.bypass import BypassProbe
from sentinel_hooks.probes.clipping import ClippingProbe
from sentinel_hooks.probes.compression import CompressionProbe, compression_of
from sentinel_hooks.probes.gradient import GradientProbe
from sentinel_hooks.probes.holdings import Sampler
from sentinel_hooks.probes.loss_scale import LossScaleProbe
from sentinel_hooks.probes.masking import MaskingProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Gradients, Outcome, Probe
from sentinel_hooks.probes.rate import RateProbe
from sentinel_hooks.probes.skip import SkipProbe
from sentinel_hooks.probes.update import UpdateProbe

_SKIPS = "a plain loop skips in ways that cannot be seen: a GradScaler just does not call step"
_CHECKPOINTS = "a plain loop saves its checkpoints in ways that cannot be seen"
_SCALE = "a plain loop's GradScaler cannot be seen"
_OWN_BACKWARD = "a plain loop has no backward of its own that could be gone past"
_OWN_NORM = "a plain loop has no gradient norm of its own that could be masked"
_OWN_CLIPPING = "a plain loop clips in its own code, and nothing tells whether it does"
_SHARDED = "parameters sharded by torch (FSDP, DTensor) are not measured yet"

_attached: WeakSet[Optimizer] = WeakSet()


class PlainAdapter:
    """The `Adapter` of a plain loop. Steps are counted from 1 at the first one it sees.

    Raises `AttachError` when this optimizer is attached to already.
    """

    trainer = "plain"

    def __init__(self, model: Module, optimizer: Optimizer, options: Options = DEFAULT) -> None:
        if optimizer in _attached:
            raise AttachError("this optimizer is attached already: detach it first")
        self._optimizer = optimizer
        self.model: Module = model.module if isinstance(model, DistributedDataParallel) else model
        self.device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self._shards = self._find_shards()
        process_groups = Groups(self.device)
        self.sequences = Sequences(process_groups)
        compression = compression_of(optimizer, model)
        probes = self._probes(options, compression, process_groups)
        self.panel = Panel(probes, self.device)
        self.loaders = Loaders()
        self._rate = RateScale(lambda: optimizer.param_groups)
        self._treatment = Treatment(
            self._rate, self.loaders, step=self.step, first_bad_weight=self.first_bad_weight
        )
        self.offers = self._treatment.offers
        self._handles: list[RemovableHandle] = []
        self._root: RootWatch | None = None
        self._on_boundary: Callable[[int], None] = lambda _: None
        self._on_phase: Callable[[str], None] = lambda _: None
        self._steps = 0
        self._measured = False  # gradients seen at the end of a backward pass

    def _find_shards(self) -> Shards:
        sharded = any(
            hasattr(parameter, "to_local") or type(parameter).__name__ == "FlatParameter"
            for parameter in self.model.parameters()
        )
        absent = _SHARDED if sharded else ""
        held = membership.replicated()
        return replicated(parameters_of(self.model), lambda _: held, absent=absent)

    def _probes(
        self, options: Options, compression: CompressionProbe, process_groups: Groups
    ) -> list[Probe]:
        shards = self._shards
        self._gradients = GradientProbe(
            shards.parameters.tensors,
            shards.announced,
            whole=True,
            no_norm=shards.absent,
            no_shards=shards.absent,
        )
        sampler = Sampler(of_parameters(shards, shards.absent), exact=options.exact_updates)
        own: list[Probe] = [
            RateProbe(self._rates),
            LossScaleProbe(
                lambda: None, lambda: None, dict.fromkeys(LossScaleProbe.signals, _SCALE)
            ),
            SkipProbe(dict.fromkeys(SkipProbe.signals, _SKIPS)),
            BypassProbe(_OWN_BACKWARD),
            self._gradients,
            MaskingProbe(self.device, _OWN_NORM),
            ClippingProbe(lambda: None, self.device, _OWN_CLIPPING),
            UpdateProbe(sampler),
            AdamProbe(sampler, without_moment(self._optimizer)),
            compression,
        ]
        return instruments(
            self.model,
            self.device,
            shards.parameters,
            own,
            options,
            process_groups,
            no_checkpoints=_CHECKPOINTS,
        )

    def groups(self) -> tuple[Group, ...]:
        shards = self._shards
        return groups_of(self.panel.series, shards.parameters.tensors, shards.members)

    def _rates(self) -> list[float | Tensor]:
        return [group["lr"] for group in self._optimizer.param_groups]

    def step(self) -> int:
        return self._steps

    def install(
        self,
        on_boundary: Callable[[int], None],
        on_phase: Callable[[str], None],
        on_failure: Callable[[BaseException], None] = lambda _: None,
        on_saved: Callable[[Checkpoint], None] = lambda _: None,
    ) -> None:
        self._on_boundary, self._on_phase = on_boundary, on_phase
        _attached.add(self._optimizer)
        self.panel.start(self._steps)
        self._root = RootWatch(
            self.model,
            self.panel,
            self._phase,
            backward_ended=self._backward_ended,
            failed=on_failure,
        )
        optimizer = self._optimizer
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._guard(self._enter_step)),
            optimizer.register_step_post_hook(lambda *_: self._guard(self._leave_step)),
        ]

    def _guard(self, function: Callable[[], None]) -> None:
        self.panel.fence.run("watching the training loop", function)

    def _phase(self, phase: str) -> None:
        self._guard(lambda: self._on_phase(phase))

    def _backward_ended(self) -> None:
        if not self._is_half():
            self._measured = True
            self._measure(self.panel.gradients_ready)

    def _is_half(self) -> bool:
        return self._root is not None and self._root.half

    def _measure(self, tell: Callable[[Gradients], None]) -> None:
        if not self._shards.absent:
            began = perf_counter()
            scale: object = getattr(self._optimizer, "grad_scale", None)
            gradients = self._shards.gradients(scale if isinstance(scale, Tensor) else 1.0)
            self.panel.cost.add(perf_counter() - began)
            tell(gradients)

    def _enter_step(self) -> None:
        self._phase("optimizer")
        self._guard(self._rate.settle)
        self.panel.optimizer_began()
        if not self._measured:
            self._measure(self.panel.gradients_ready)
        elif self._gradients.asks_again:
            self._measure(self.panel.gradients_final)
        self.panel.update_began()
        self.panel.base_step_began(self._optimizer)

    def _leave_step(self) -> None:
        self.panel.base_step_ended(self._optimizer)
        self.panel.update_ended()
        self._measured = False
        self._steps += 1
        self._guard(self._report)  # whatever becomes of it, the boundary must be told of
        self._phase("data")
        self._guard(lambda: self._on_boundary(self._steps))
        self.panel.resumed()

    def _report(self) -> None:
        self.panel.optimizer_ended(Outcome(self._steps))
        self.panel.read(self._steps)
        if self._root is not None:
            self._root.look()

    # What is ordered from outside.

    def refuses(self, remedies: Remedies) -> str:
        return self._treatment.refuses(remedies)

    def apply(self, remedies: Remedies) -> None:
        self._treatment.apply(remedies)

    def undo(self, remedies: Remedies) -> None:
        self._treatment.undo(remedies)

    def first_bad_weight(self) -> str:
        return first_bad(self.model)

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _attached.discard(self._optimizer)
        if self._root is not None:
            self._root.detach()
            self._root = None
        self.panel.detach()
