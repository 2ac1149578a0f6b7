"""What a DeepSpeed engine cannot show, and why: all that we rely on is asked for at attach.

DeepSpeed has no interface for watchers, so that most of what is read from it is its own affair,
and another version may have it no more or have it otherwise. Each question here looks for the
internals that some signals rest on, as they are used later; a signal whose question is answered
with a reason is *missing* from the start. Nothing here raises, and nothing changes the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from sentinel.errors import AttachError
from sentinel_hooks.adapters import capability
from sentinel_hooks.adapters.capability import Engine
from sentinel_hooks.adapters.membership import replicas_of
from sentinel_hooks.adapters.parameters import parameters_of
from sentinel_hooks.adapters.shards import Shards, of_engine, replicated

_GRADIENTS = ("tensor_grad_norm", "layer_grad_norm", "summed_grad_norm", "nonfinite_gradient")
_NOT_HALF = "training is not in fp16: the loss is not scaled"


@dataclass(frozen=True)
class Subject:
    """What is asked about: an engine, its gradient shards, and whether it is a pipeline."""

    engine: Engine
    shards: Shards
    is_pipeline: bool


@dataclass(frozen=True)
class Survey:
    """What was found: `absent` has the signals that cannot be shown, name -> why.

    `shards` is how to read the gradients, `has_norm` whether the engine tells its own norm.
    """

    absent: Mapping[str, str]
    shards: Shards
    has_norm: bool


class _AbsentError(Exception):
    """The reason why something cannot be shown."""


def survey(engine: Engine, *, is_pipeline: bool) -> Survey:
    """Ask an engine for all that we rely on."""
    shards = _find_shards(engine)
    why = _ask(_gradients, Subject(engine, shards, is_pipeline))
    if why:
        shards = replace(shards, absent=why)
    subject = Subject(engine, shards, is_pipeline)
    absent: dict[str, str] = {}
    for signals, question in _QUESTIONS.items():
        if why := _ask(question, subject):
            absent |= dict.fromkeys(signals, why)
    return Survey(absent, shards, has_norm=not _ask(_own_norm, subject))


def _ask(question: Callable[[Subject], None], subject: Subject) -> str:
    """The reason, or "" where all that was asked for is there."""
    try:
        question(subject)
    except _AbsentError as reason:
        return str(reason)
    except Exception as error:  # noqa: BLE001 - it is there, and is not what we know
        return _unlike(error)
    return ""


def _find_shards(engine: Engine) -> Shards:
    try:
        return of_engine(engine, engine.module, engine.optimizer, torch.device(engine.device))
    except Exception as error:  # noqa: BLE001 - internals that are not what we know
        parameters = parameters_of(engine.module)
        members = lambda one: replicas_of(engine, one)  # noqa: E731
        return replicated(parameters, members, whole=False, absent=_unlike(error))


def require(engine: object, boundary: str) -> None:
    """Raises `AttachError` unless the engine has what nothing can be watched without."""
    optimizer = getattr(engine, "optimizer", None)
    if not callable(getattr(optimizer, "step", None)):
        raise AttachError("this DeepSpeed engine has no optimizer: there is no training here")
    for name in ("module", "device", "global_steps", boundary):
        if getattr(engine, name, None) is None:
            raise AttachError(f"{_version()} has no engine.{name}: it cannot be watched")


def lacking(what: str) -> str:
    """The reason for what this version of DeepSpeed does not have."""
    return f"{_version()} has no {what}"


def _version() -> str:
    version: object = getattr(sys.modules.get("deepspeed"), "__version__", "")
    return f"DeepSpeed {version}".rstrip()


def _unlike(error: Exception) -> str:
    return f"{_version()} is not as we know it: {type(error).__name__}: {error}"[:500]


def _has(owner: object, name: str) -> bool:
    return callable(getattr(owner, name, None))


def _skips(subject: Subject) -> None:
    engine = subject.engine
    counted = isinstance(getattr(engine, "skipped_steps", None), int)
    if not counted and not _has(engine, "was_step_applied"):
        raise _AbsentError(lacking("engine.skipped_steps and no engine.was_step_applied"))


def _overflows(subject: Subject) -> None:
    engine = subject.engine
    _skips(subject)
    _is_half(subject)
    if capability.grad_scaler(engine) is None and not _has(engine, "dynamic_loss_scale"):
        raise _AbsentError(lacking("engine.dynamic_loss_scale"))
    if not capability.is_rescaled(engine):
        raise _AbsentError("the loss scale is fixed: an overflow is a skipped step")


def _is_half(subject: Subject) -> None:
    engine = subject.engine
    if capability.grad_scaler(engine) is None and not _has(engine, "fp16_enabled"):
        raise _AbsentError(lacking("engine.fp16_enabled"))
    if not capability.is_half(engine):
        raise _AbsentError(_NOT_HALF)


def _loss_scale(subject: Subject) -> None:
    engine = subject.engine
    _is_half(subject)
    scaler = capability.grad_scaler(engine)
    if scaler is not None:
        _needs(scaler, "GradScaler", "_scale")  # None until it is used for the first time
    elif capability.loss_scale(engine) is None:
        raise _AbsentError(lacking("optimizer.cur_scale"))


def _floor(subject: Subject) -> None:
    _loss_scale(subject)
    _overflows(subject)
    if capability.grad_scaler(subject.engine) is not None:
        raise _AbsentError("torch's GradScaler has no floor: it halves the scale without end")
    if capability.loss_scale_floor(subject.engine) is None:
        raise _AbsentError(lacking("optimizer.loss_scaler.min_scale"))


def _rates(subject: Subject) -> None:
    try:
        groups = capability.rates(subject.engine)
    except (AttributeError, KeyError):
        groups = []
    if not groups:
        raise _AbsentError(lacking("learning rate in optimizer.param_groups"))


def _own_norm(subject: Subject) -> None:
    engine = subject.engine
    if not _has(engine, "get_global_grad_norm"):
        raise _AbsentError(lacking("engine.get_global_grad_norm"))
    capability.own_norm(engine)  # may have been renamed underneath
    if capability.ask(engine, "zero_compute_grad_norm") is False:
        raise _AbsentError(
            "DeepSpeed does not compute it: zero_optimization.compute_grad_norm is false"
        )


def _norm(subject: Subject) -> None:
    shards = subject.shards
    if shards.whole and not shards.absent:
        return  # we take our own
    if capability.clips_outside(subject.engine):
        none = "at stage 0 in fp32 DeepSpeed has no norm"
        raise _AbsentError(shards.absent or f"no rank has all gradients, and {none}")
    _own_norm(subject)


def _masking(subject: Subject) -> None:
    if subject.shards.absent:
        _own_norm(subject)


def _clipping(subject: Subject) -> None:
    threshold = capability.clip_threshold(subject.engine)
    if threshold is None:
        raise _AbsentError(lacking("engine.gradient_clipping"))
    if threshold <= 0:
        raise _AbsentError("gradient clipping is off")
    _norm(subject)


def _gradients(subject: Subject) -> None:
    engine, shards = subject.engine, subject.shards
    if shards.absent:
        raise _AbsentError(shards.absent)
    _where_gradients_are(engine)
    if capability.is_half(engine) and (why := _ask(_loss_scale, subject)):
        raise _AbsentError(f"{why}: gradients cannot be unscaled")
    clips = capability.clip_threshold(engine) != 0 and capability.clips_outside(engine)
    if clips and _has(engine, "gradient_clipping") and not _has(engine, "clip_fp32_gradients"):
        raise _AbsentError(
            lacking("engine.clip_fp32_gradients") + ": gradients are clipped before they are seen"
        )


def _where_gradients_are(engine: Engine) -> None:
    """Each stage keeps gradients in another place; see `shards` for what is read there."""
    optimizer = engine.optimizer
    parameters = [one for one in engine.module.parameters() if one.requires_grad]
    if any(hasattr(one, "ds_id") for one in parameters):
        _needs(optimizer, "optimizer", "fp16_groups")
        if not hasattr(optimizer, "averaged_gradients"):
            source = getattr(parameters[0], "_z3_optimizer", None)
            _needs(source, "optimizer", "get_local_fp32_grad_for_param")
        return
    mapped = [one for one in parameters if getattr(one, "_hp_mapping", None) is not None]
    if hasattr(optimizer, "params_in_partition") and not getattr(optimizer, "cpu_offload", False):
        _needs(optimizer, "optimizer", "averaged_gradients")
    elif mapped:
        _needs(mapped[0], "parameter", "_index_in_param_group")
        for name in ("get_lp_grad_fragment", "lp_fragment_address"):
            _needs(getattr(mapped[0], "_hp_mapping", None), "parameter._hp_mapping", name)
    stage = capability.ask(engine, "zero_optimization_stage")
    if (
        isinstance(stage, int)
        and stage > 0
        and not any(hasattr(p, "_hp_mapping") for p in parameters)
    ):
        raise _AbsentError(lacking("parameter._hp_mapping"))


def _needs(owner: object, place: str, name: str) -> None:
    if not hasattr(owner, name):
        raise _AbsentError(lacking(f"{place}.{name}"))


def _bypass(subject: Subject) -> None:
    if subject.is_pipeline:
        raise _AbsentError("a pipeline engine runs the backward passes itself")
    if not _has(subject.engine, "backward"):
        raise _AbsentError(lacking("engine.backward"))


def _saving(subject: Subject) -> None:
    if not _has(subject.engine, "save_checkpoint"):
        raise _AbsentError(lacking("engine.save_checkpoint"))


_QUESTIONS: dict[tuple[str, ...], Callable[[Subject], None]] = {
    ("skipped", "nonfinite_update"): _skips,
    ("overflow",): _overflows,
    ("loss_scale",): _loss_scale,
    ("loss_scale_at_floor",): _floor,
    ("lr", "zero_lr"): _rates,
    ("grad_norm",): _norm,
    ("grad_norm_masked",): _masking,
    ("clip_coefficient",): _clipping,
    _GRADIENTS: _gradients,
    ("backward_bypassed",): _bypass,
    ("checkpoint_seconds",): _saving,
}
