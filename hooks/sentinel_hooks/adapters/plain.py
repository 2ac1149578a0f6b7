"""Watch a plain training loop, which shows no more than a model and its optimizer.

A step is over when the optimizer's `step` is. The gradients are measured when a backward pass
ends, before the loop can clip them (and with DistributedDataParallel once they are reduced).
Under fp16 autocast a GradScaler may keep them scaled until the optimizer's step: there they are
measured on entry to it, after whatever clipping the loop does. Gradients that may not be finite are
looked at once more before they are applied, since the loop may have mended them. On a device that
is not known in time of any, and there those are looked at again that were written to meanwhile;
where other ranks' gradients may yet be added by the loop itself, all. A guard looks at what the
optimizer is about to apply in any case: between backward and step the loop may have done anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from sentinel_hooks.adapters import membership, replicas
from sentinel_hooks.adapters.instruments import instruments, is_alone
from sentinel_hooks.adapters.interception import Interception
from sentinel_hooks.adapters.masters import of_parameters, without_moment
from sentinel_hooks.adapters.membership import groups_of
from sentinel_hooks.adapters.options import DEFAULT, Options
from sentinel_hooks.adapters.parameters import parameters_of
from sentinel_hooks.adapters.rate_scale import RateScale
from sentinel_hooks.adapters.remedy import Treatment
from sentinel_hooks.adapters.root import RootWatch
from sentinel_hooks.adapters.shards import Shards, local, replicated
from sentinel_hooks.adapters.stamps import Stamps
from sentinel_hooks.adapters.weights import first_bad
from sentinel_hooks.collectives.group import Groups
from sentinel_hooks.collectives.sequence import Sequences
from sentinel_hooks.guard import Guard
from sentinel_hooks.loaders import Loaders
from sentinel_hooks.probes.adam import AdamProbe
from sentinel_hooks.probes.bypass import BypassProbe
from sentinel_hooks.probes.clipping import ClippingProbe
from sentinel_hooks.probes.compression import CompressionProbe, compression_of
from sentinel_hooks.probes.finite import may_not_be_finite, not_finite
from sentinel_hooks.probes.gradient import GradientProbe
from sentinel_hooks.probes.holdings import Sampler
from sentinel_hooks.probes.loss_scale import LossScaleProbe
from sentinel_hooks.probes.masking import MaskingProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Gradients, Outcome, Probe
from sentinel_hooks.probes.rate import RateProbe
from sentinel_hooks.probes.replica import ReplicaProbe
from sentinel_hooks.probes.skip import SkipProbe
from sentinel_hooks.probes.update import UpdateProbe

_SKIPS = "a plain loop skips in ways that cannot be seen: a GradScaler just does not call step"
_CHECKPOINTS = "a plain loop saves its checkpoints in ways that cannot be seen"
_SCALE = "a plain loop's GradScaler cannot be seen"
_OWN_BACKWARD = "a plain loop has no backward of its own that could be gone past"
_OWN_NORM = "a plain loop has no gradient norm of its own that could be masked"
_OWN_CLIPPING = "a plain loop clips in its own code, and nothing tells whether it does"
_CLOSURE = "only the optimizers of torch are known to begin a step with its closure"
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
        self._replicas = replicas.of_model(model, self._shards.parameters.every)
        process_groups = Groups(self.device)
        self.sequences = Sequences(process_groups)
        compression = compression_of(optimizer, model)
        probes = self._probes(options, compression, process_groups)
        self.panel = Panel(probes, self.device)
        self.loaders = Loaders()
        self.guarded = options.guard
        self._finite_only = self._guard_of(optimizer) if options.guard else None
        self._interception: Interception | None = None
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
        self._seen = Stamps(())  # as they were then
        self._reduced = isinstance(model, DistributedDataParallel) or is_alone()  # by then
        self._begun = False  # the optimizer's step

    def _guard_of(self, optimizer: Optimizer) -> Guard:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise AttachError(
                "guard=True: LBFGS computes more gradients within its step, which nobody can guard"
            )
        return Guard(self.device, self.panel.fence, self.panel.cost)

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
            replicas=self._replicas.places,
            no_replicas=self._replicas.no_gradients,
        )
        sampler = Sampler(of_parameters(shards, shards.absent), exact=options.exact_updates)
        own: list[Probe] = [
            RateProbe(self._rates),
            LossScaleProbe(
                lambda: None, lambda: None, dict.fromkeys(LossScaleProbe.signals, _SCALE)
            ),
            SkipProbe(dict.fromkeys(("overflow",) if options.guard else SkipProbe.signals, _SKIPS)),
            BypassProbe(_OWN_BACKWARD),
            self._gradients,
            MaskingProbe(self.device, _OWN_NORM),
            ClippingProbe(lambda: None, self.device, _OWN_CLIPPING),
            UpdateProbe(sampler),
            AdamProbe(sampler, without_moment(self._optimizer)),
            ReplicaProbe(self._replicas.held, self._replicas.absent),
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
        if self._finite_only is not None:
            self._interception = Interception(
                optimizer, "step", self._guard, around=partial(self._guarded, self._finite_only)
            )

    def _guard(self, function: Callable[[], None]) -> None:
        self.panel.fence.run("watching the training loop", function)

    def _phase(self, phase: str) -> None:
        self._guard(lambda: self._on_phase(phase))

    def _backward_ended(self) -> None:
        if not self._is_half():
            self._measured = True
            self._measure(self.panel.gradients_ready)
            self._seen = Stamps(self._shards.parameters.every)

    def _is_half(self) -> bool:
        return self._root is not None and self._root.half

    def _measure(self, tell: Callable[[Gradients], None]) -> None:
        if not self._shards.absent:
            began = perf_counter()
            scale: object = getattr(self._optimizer, "grad_scale", None)
            gradients = self._shards.gradients(scale if isinstance(scale, Tensor) else 1.0)
            self.panel.cost.add(perf_counter() - began)
            tell(gradients)

    def _guarded(
        self, guard: Guard, step: Callable[..., object], *args: object, **options: object
    ) -> object:
        """The optimizer's step, unless the gradients of some rank are not finite.

        A closure is called here, which torch's optimizers would begin with: it makes the gradients.
        """
        loss: object = None
        closure = args[0] if args else options.get("closure")
        if callable(closure):
            if not _begins_with_closure(self._optimizer):
                self.panel.fence.say("the guard", _CLOSURE)
                self._guard(self._begin_step)
                return step(*args, **options)
            with torch.enable_grad():
                loss = closure()
            known = _Known(loss, closure)
            if args:
                args = (known, *args[1:])
            else:
                options = {**options, "closure": known}
        self._guard(self._begin_step)
        if not guard.forbids(self._doubt, self._proof):
            return step(*args, **options)
        self._guard(self._leave_out)
        return loss

    def _doubt(self) -> bool | Tensor:
        doubt = may_not_be_finite(self._to_apply())
        if doubt is True and not self._gradients.asks_again:
            self._measure(self.panel.gradients_ready)  # it was not there after the backward pass
        return doubt

    def _proof(self) -> bool:
        return any(bool(not_finite(one)) for one in self._to_apply())

    def _to_apply(self) -> list[Tensor]:
        """The gradients that the optimizer is about to apply, where nobody else judges them."""
        if self._scaler_decides():
            return []
        groups = self._optimizer.param_groups
        gradients = (one.grad for group in groups for one in group["params"])
        return [local(one) for one in gradients if one is not None]

    def _scaler_decides(self) -> bool:
        """Whether a GradScaler tells a fused optimizer what it has found, during its step."""
        return getattr(self._optimizer, "found_inf", None) is not None

    def _leave_out(self) -> None:
        self.panel.update_began()
        self.panel.update_ended()
        self._end_step(skipped=True)

    def _enter_step(self) -> None:
        if not self._begun:
            if self._finite_only is not None:
                self.panel.fence.say("the guard", "the optimizer's step was called past it")
            self._begin_step()
        self.panel.update_began()
        self.panel.base_step_began(self._optimizer)

    def _begin_step(self) -> None:
        self._begun = True
        self._phase("optimizer")
        self._guard(self._rate.settle)
        self.panel.optimizer_began()
        if not self._measured:
            self._measure(self.panel.gradients_ready)
        elif self._gradients.asks_again:
            if self._is_as_seen():
                self._gradients.taken_as_seen()
            else:
                self._measure(self.panel.gradients_final)

    def _is_as_seen(self) -> bool:
        """Whether the gradients are surely those that were seen after the backward pass."""
        return self._reduced and not self._gradients.is_wary and self._seen.hold()

    def _leave_step(self) -> None:
        self.panel.base_step_ended(self._optimizer)
        self.panel.update_ended()
        # A fused optimizer leaves out by itself what its GradScaler tells it to, and says nothing.
        known = self._finite_only is not None and not self._scaler_decides()
        self._end_step(skipped=False if known else None)

    def _end_step(self, *, skipped: bool | None) -> None:
        self._measured = self._begun = False
        self._steps += 1
        # Whatever becomes of it, the boundary must be told of.
        self._guard(lambda: self._report(Outcome(self._steps, skipped)))
        self._phase("data")
        self._guard(lambda: self._on_boundary(self._steps))
        self.panel.resumed()

    def _report(self, outcome: Outcome) -> None:
        self.panel.optimizer_ended(outcome)
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
        if self._interception is not None:
            self._interception.remove()
            self._interception = None
        _attached.discard(self._optimizer)
        if self._root is not None:
            self._root.detach()
            self._root = None
        self.panel.detach()


def _begins_with_closure(optimizer: Optimizer) -> bool:
    return str(getattr(type(optimizer).step, "__module__", "")).startswith("torch.optim.")


class _Known:
    """A closure that has just been called: once more it returns what it returned then."""

    def __init__(self, loss: object, closure: Callable[[], object]) -> None:
        self._loss = loss
        self._closure = closure
        self._told = False

    def __call__(self) -> object:
        if self._told:
            return self._closure()
        self._told = True
        return self._loss
