"""Watch a DeepSpeed engine.

The engine has no callbacks: its `step`, `backward`, `optimizer.step` and a few more are
intercepted on the instance. A step is over when `global_steps` has changed across `engine.step`
(`train_batch` for a pipeline engine). Nothing here imports DeepSpeed, and what one of its
versions does not have is missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sentinel.errors import AttachError
from sentinel.wire import Checkpoint, Group, Remedies
from sentinel_hooks.adapters import capability, masters, replicas
from sentinel_hooks.adapters.checkpoint_calls import CheckpointCalls, Surroundings
from sentinel_hooks.adapters.checkpoints import Checkpoints
from sentinel_hooks.adapters.guarded import GuardedStep
from sentinel_hooks.adapters.instruments import instruments
from sentinel_hooks.adapters.interception import (
    After,
    Around,
    Before,
    Interception,
    is_intercepted,
)
from sentinel_hooks.adapters.membership import groups_of, own_rank
from sentinel_hooks.adapters.options import DEFAULT, Options
from sentinel_hooks.adapters.rate_scale import RateScale
from sentinel_hooks.adapters.remedy import Treatment
from sentinel_hooks.adapters.root import RootWatch
from sentinel_hooks.adapters.shards import is_complete
from sentinel_hooks.adapters.survey import require, survey
from sentinel_hooks.adapters.weights import first_bad
from sentinel_hooks.collectives.group import Groups
from sentinel_hooks.collectives.sequence import Sequences
from sentinel_hooks.loaders import Loaders
from sentinel_hooks.probes.adam import AdamProbe
from sentinel_hooks.probes.bypass import BypassProbe
from sentinel_hooks.probes.clipping import ClippingProbe
from sentinel_hooks.probes.gradient import GradientProbe
from sentinel_hooks.probes.holdings import Sampler
from sentinel_hooks.probes.loss_scale import LossScaleProbe
from sentinel_hooks.probes.masking import MaskingProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Outcome, Probe
from sentinel_hooks.probes.rate import RateProbe
from sentinel_hooks.probes.replica import ReplicaProbe
from sentinel_hooks.probes.skip import SkipProbe
from sentinel_hooks.probes.update import UpdateProbe

Arguments = tuple[object, ...]
Keywords = Mapping[str, object]


class DeepSpeedAdapter:
    """The `Adapter` of a DeepSpeed engine, or of a `trainer` that has one.

    Raises `AttachError` for an engine that does not train, or is attached to already.
    """

    trainer = "deepspeed"

    def __init__(
        self, engine: capability.Engine, trainer: object = None, options: Options = DEFAULT
    ) -> None:
        self._is_pipeline = callable(getattr(engine, "train_batch", None))
        self._boundary = "train_batch" if self._is_pipeline else "step"
        require(engine, self._boundary)
        if is_intercepted(engine, self._boundary):
            raise AttachError("this engine is attached already: detach it first")
        self._engine = engine
        self._trainer = trainer
        self.model = engine.module
        self.device = torch.device(engine.device)
        found = survey(engine, is_pipeline=self._is_pipeline)
        self._absent, self._shards, self._has_norm = found.absent, found.shards, found.has_norm
        self._replicas = replicas.of_engine(engine, self._shards.parameters.every)
        self._gradients = self._gradient_probe()
        self._bypass = BypassProbe(self._absent.get("backward_bypassed", ""))
        self._masters = masters.of_engine(self._shards, engine.optimizer)
        process_groups = Groups(self.device)
        self.sequences = Sequences(process_groups)
        self.panel = Panel(self._probes(options, process_groups), self.device)
        self.loaders = Loaders()
        self.guarded = options.guard
        self._guarded_step = (
            GuardedStep(engine, self._shards, self._gradients, self.panel) if self.guarded else None
        )
        self._rate = RateScale(lambda: engine.optimizer.param_groups)
        checkpoints = Checkpoints(engine, options.checkpoints)
        self._calls = CheckpointCalls(checkpoints, self._surroundings(), self._guard)
        self._treatment = Treatment(
            self._rate,
            self.loaders,
            step=self.step,
            first_bad_weight=self.first_bad_weight,
            trainer=trainer,
            checkpoints=checkpoints,
        )
        self.offers = self._treatment.offers
        self._interceptions: list[Interception] = []
        self._handles: list[RemovableHandle] = []
        self._root: RootWatch | None = None
        self._on_boundary: Callable[[int], None] = lambda _: None
        self._on_phase: Callable[[str], None] = lambda _: None
        self._on_failure: Callable[[BaseException], None] = lambda _: None
        self._announced = False  # in a backward pass that the engine was asked for
        self._entered = (0, 0)  # steps, and skipped ones, when the boundary method was entered
        self._measured = self._stepped = False  # gradients seen; optimizer called

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            rate=self._rate,
            loaders=self.loaders,
            step=self.step,
            bad_weight=self._written_badly,
            began=lambda: self._phase("checkpoint"),
            ended=self._leave_checkpoint,
            moved=lambda: self.panel.moved(self.step()),
            is_first=own_rank() == 0,
        )

    def _gradient_probe(self) -> GradientProbe:
        shards, absent = self._shards, self._absent
        return GradientProbe(
            shards.parameters.tensors,
            shards.announced,
            whole=shards.whole,
            no_norm=absent.get("grad_norm", ""),
            no_shards=shards.absent,
            no_update=absent.get("nonfinite_update", ""),
            replicas=self._replicas.places,
            no_replicas=self._replicas.no_gradients,
        )

    def _probes(self, options: Options, process_groups: Groups) -> list[Probe]:
        engine, absent, device = self._engine, self._absent, self.device
        sampler = Sampler(self._masters, exact=options.exact_updates)
        no_moment = masters.without_moment(masters.base_of(engine.optimizer))
        readings = [
            RateProbe(lambda: capability.rates(engine), absent.get("lr", "")),
            LossScaleProbe(
                lambda: capability.loss_scale(engine),
                lambda: capability.loss_scale_floor(engine),
                absent,
            ),
            SkipProbe(absent),
            self._bypass,
            self._gradients,
            MaskingProbe(device, absent.get("grad_norm_masked", "")),
            ClippingProbe(
                lambda: capability.clip_threshold(engine),
                device,
                absent.get("clip_coefficient", ""),
            ),
            UpdateProbe(sampler),
            AdamProbe(sampler, no_moment),
            ReplicaProbe(self._replicas.held, self._replicas.absent),
            capability.compression_probe(engine),
        ]
        return instruments(
            self.model,
            device,
            self._shards.parameters,
            readings,
            options,
            process_groups,
            no_checkpoints=absent.get("checkpoint_seconds", ""),
            complete=is_complete(engine),
        )

    def groups(self) -> tuple[Group, ...]:
        shards = self._shards
        return groups_of(self.panel.series, shards.parameters.tensors, shards.members)

    def step(self) -> int:
        return int(self._engine.global_steps)

    def install(
        self,
        on_boundary: Callable[[int], None],
        on_phase: Callable[[str], None],
        on_failure: Callable[[BaseException], None] = lambda _: None,
        on_saved: Callable[[Checkpoint], None] = lambda _: None,
    ) -> None:
        self._on_boundary, self._on_phase = on_boundary, on_phase
        self._on_failure = on_failure
        self.panel.start(self.step())
        self._root = RootWatch(
            self.model,
            self.panel,
            self._phase,
            announced=lambda: self._announced,
            backward_ended=self._bypass.noticed,
            failed=on_failure,
        )
        engine = self._engine
        self._intercept(engine, self._boundary, self._enter_step, self._leave_step)
        if not self._is_pipeline:
            self._intercept(engine, "backward", self._enter_backward, self._leave_backward)
        self._intercept(
            engine.optimizer,
            "step",
            self._enter_optimizer,
            self._leave_optimizer,
            self._guarded_step,
        )
        self._intercept(engine, "clip_fp32_gradients", self._enter_clipping, None)
        self._calls.watch(engine, self._trainer, on_saved, self._failed)
        base = masters.base_of(engine.optimizer)
        if isinstance(base, Optimizer):
            began, ended = self.panel.base_step_began, self.panel.base_step_ended
            self._handles = [
                base.register_step_pre_hook(lambda one, *_: self._guard(lambda: began(one))),
                base.register_step_post_hook(lambda one, *_: self._guard(lambda: ended(one))),
            ]

    def _intercept(
        self,
        target: object,
        name: str,
        before: Before,
        after: After | None,
        around: Around | None = None,
    ) -> None:
        if callable(getattr(target, name, None)):
            self._interceptions.append(
                Interception(target, name, self._guard, before, after, self._failed, around)
            )

    def _guard(self, function: Callable[[], None]) -> None:
        self.panel.fence.run("watching the DeepSpeed engine", function)

    def _phase(self, phase: str) -> None:
        self._guard(lambda: self._on_phase(phase))

    def _failed(self, error: BaseException) -> None:
        self._announced = False
        self._over()
        self._on_failure(error)

    def _over(self) -> None:
        if self._guarded_step is not None:
            self._guarded_step.over()

    # Around the trainer's own calls.

    def _enter_backward(self, args: Arguments, options: Keywords) -> None:
        self._announced = True
        self._phase("backward")
        loss = args[0] if args else options.get("loss")
        if isinstance(loss, Tensor):
            self.panel.loss_known(loss, averaged=options.get("scale_wrt_gas") is False)
        self.panel.backward_began()

    def _leave_backward(self, result: object) -> None:
        self._announced = False
        self.panel.backward_ended()

    def _enter_step(self, args: Arguments, options: Keywords) -> None:
        engine = self._engine
        self._entered = (engine.global_steps, capability.skipped_steps(engine))
        self._announced = self._measured = self._stepped = False
        if not self._is_pipeline:
            self._begin_optimizer()

    def _begin_optimizer(self) -> None:
        self._phase("optimizer")
        self._guard(self._rate.settle)
        self.panel.optimizer_began()

    def _enter_clipping(self, args: Arguments, options: Keywords) -> None:
        self._measure()

    def _enter_optimizer(self, args: Arguments, options: Keywords) -> None:
        self._stepped = True
        if self._is_pipeline:
            self._begin_optimizer()
        if not self._measured:  # else seen before they were clipped
            self._measure()
        self.panel.update_began()

    def _measure(self) -> None:
        self._measured = True
        if self._shards.absent:
            return
        began = perf_counter()
        try:
            gradients = self._shards.gradients(capability.gradient_scale(self._engine))
        except Exception as error:  # noqa: BLE001 - DeepSpeed's internals are not as expected
            self.panel.fault(self._gradients, error)
            return
        self.panel.cost.add(perf_counter() - began)
        self.panel.gradients_ready(gradients)

    def _leave_optimizer(self, result: object) -> None:
        self.panel.update_ended()
        self._rate.relax()  # the scheduler steps next

    def _leave_step(self, result: object) -> None:
        engine = self._engine
        self._over()
        self._guard(self._rate.tighten)
        if engine.global_steps == self._entered[0]:
            self._phase("data")
            return
        if self._is_pipeline and isinstance(result, Tensor):
            self.panel.loss_known(result, averaged=False)
        self._guard(self._report)  # whatever becomes of it, the boundary must be told of
        self._phase("data")
        self._guard(lambda: self._on_boundary(self.step()))
        self.panel.resumed()

    def _report(self) -> None:
        self.panel.optimizer_ended(self._outcome())
        self.panel.read(self.step())
        if self._root is not None:
            self._root.look()

    def _outcome(self) -> Outcome:
        engine = self._engine
        norm = self._own_norm() if self._has_norm else None
        if "skipped" in self._absent:
            return Outcome(self.step(), grad_norm=norm)
        skipped = capability.was_skipped(engine, self._entered[1]) or not self._stepped
        scaler = "overflow" not in self._absent
        return Outcome(
            self.step(),
            skipped=skipped and not scaler,
            overflow=skipped if scaler else None,
            grad_norm=norm,
        )

    def _own_norm(self) -> float | Tensor | None:
        try:
            return capability.own_norm(self._engine)
        except Exception as error:  # noqa: BLE001 - DeepSpeed's internals are not as expected
            self._has_norm = False
            self.panel.fault(self._gradients, error)
            return None

    def _leave_checkpoint(self, seconds: float | None) -> None:
        if seconds is not None:
            self.panel.interlude(seconds)
        self._phase("data")

    def _written_badly(self) -> str:
        """The first parameter that is not finite, for a checkpoint with these weights."""
        began = perf_counter()
        try:
            return self.first_bad_weight()
        except Exception as error:  # noqa: BLE001 - what cannot be read is said, not raised
            return f"weights could not be read: {error}"[:500]
        finally:
            self.panel.cost.add(perf_counter() - began)

    # What is ordered from outside.

    def refuses(self, remedies: Remedies) -> str:
        return self._treatment.refuses(remedies)

    def apply(self, remedies: Remedies) -> None:
        self._treatment.apply(remedies)

    def undo(self, remedies: Remedies) -> None:
        self._treatment.undo(remedies)

    def first_bad_weight(self) -> str:
        return first_bad(self.model, self._masters)

    def detach(self) -> None:
        self._calls.remove()
        for interception in reversed(self._interceptions):
            interception.remove()
        self._interceptions = []
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._root is not None:
            self._root.detach()
            self._root = None
        self.panel.detach()
