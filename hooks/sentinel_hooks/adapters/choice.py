"""Find the adapter for what `attach` was given."""

from __future__ import annotations

import sys
from typing import cast

from torch.nn import Module
from torch.optim import Optimizer

from sentinel.errors import AttachError
from sentinel_hooks.adapters.adapter import Adapter
from sentinel_hooks.adapters.capability import Engine
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from sentinel_hooks.adapters.options import DEFAULT, Options
from sentinel_hooks.adapters.plain import PlainAdapter

_EXPECTED = (
    "expected a DeepSpeed engine (what deepspeed.initialize returns first), a trainer whose "
    "attribute 'engine' is one, or model= and optimizer= of a plain loop"
)


def choose(
    trainer: object = None,
    model: object = None,
    optimizer: object = None,
    *,
    options: Options = DEFAULT,
) -> Adapter:
    """The adapter for a trainer, or for a model and its optimizer.

    Raises `AttachError` when it is given neither or both, something that is no trainer, or
    something that is attached to already.
    """
    if trainer is not None and (model is not None or optimizer is not None):
        raise AttachError("attach takes a trainer, or model= and optimizer=, not both")
    if trainer is not None:
        return _of_trainer(trainer, options)
    if model is None and optimizer is None:
        raise AttachError(f"attach was given nothing to watch: {_EXPECTED}")
    if not isinstance(model, Module):
        raise AttachError(f"model= is {_what(model)}: expected a torch.nn.Module")
    if not isinstance(optimizer, Optimizer):
        raise AttachError(f"optimizer= is {_what(optimizer)}: expected a torch.optim.Optimizer")
    if _is_engine(model):
        raise AttachError("model= is a DeepSpeed engine: attach(engine) is all it takes")
    return PlainAdapter(model, optimizer, options)


def _of_trainer(trainer: object, options: Options) -> Adapter:
    if _is_engine(trainer):
        return DeepSpeedAdapter(cast(Engine, trainer), options=options)
    engine = getattr(trainer, "engine", None)
    if _is_engine(engine):
        return DeepSpeedAdapter(cast(Engine, engine), trainer, options)
    if isinstance(trainer, Module):
        raise AttachError(
            f"{_what(trainer)} is a model, no trainer: use attach(model=..., optimizer=...)"
        )
    raise AttachError(f"{_what(trainer)} is no trainer: {_EXPECTED}")


def _is_engine(candidate: object) -> bool:
    """Whether this is a DeepSpeed engine; if DeepSpeed was never imported, nothing is."""
    loaded = sys.modules.get("deepspeed.runtime.engine")
    kind = getattr(loaded, "DeepSpeedEngine", None)
    return isinstance(kind, type) and isinstance(candidate, kind)


def _what(thing: object) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"
