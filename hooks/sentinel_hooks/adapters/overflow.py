"""Have DeepSpeed leave out a step, in the way in which it leaves out one that has overflowed.

After `optimizer.step` the engine asks for `optimizer.overflow`, where there is one: such a step
counts in `global_steps` and `skipped_steps`, its scheduler does not step, and
`was_step_applied()` is false. Each of DeepSpeed's optimizers throws away the gradients it has
gathered in a way of its own; what its versions from 0.16.0 to 0.19.8 have in common is used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sentinel.errors import AttachError

Step = Callable[[], object]


class Overflow:
    """Declares a step of one engine's optimizer to have overflowed.

    Raises `AttachError` for an optimizer whose way of leaving out a step is not known.
    """

    def __init__(self, optimizer: object) -> None:
        self._optimizer = optimizer
        self._leave_out = _way(optimizer)
        self._before: object = _NOTHING
        self._declared = False

    def declare(self, step: Step) -> None:
        """Leave out this step: weights, masters and the optimizer's state stay as they are.

        `step` is the optimizer's own.
        """
        self._before = vars(self._optimizer).get("overflow", _NOTHING)
        self._declared = True
        _put(self._optimizer, "overflow", True)
        self._leave_out(self._optimizer, step)

    def over(self) -> None:
        """The engine has counted the step. Older versions would skip every later one, too."""
        if self._declared:
            self._declared = False
            _put(self._optimizer, "overflow", self._before)


def _way(optimizer: object) -> Callable[[Any, Step], None]:
    if isinstance(optimizer, torch.optim.Optimizer):
        return _not_at_all
    name = type(optimizer).__name__
    if name not in _WAYS:
        raise AttachError(
            f"guard=True: it is not known how to leave out a step of DeepSpeed's {name}; known "
            f"are {', '.join(_WAYS)} and the optimizers of torch"
        )
    way, needed = _WAYS[name]
    for method in needed:
        if not callable(getattr(optimizer, method, None)):
            raise AttachError(f"guard=True: this version's {name} has no {method}")
    return way


def _not_at_all(optimizer: Any, step: Step) -> None:
    """The optimizer has nothing but parameters, whose gradients the engine clears."""


def _with_16_bits(optimizer: Any, step: Step) -> None:
    """Without ZeRO, masters are given their gradients by the step itself."""
    optimizer._global_grad_norm = math.inf
    optimizer.zero_grad(set_to_none=True)


def _with_bf16_masters(optimizer: Any, step: Step) -> None:
    optimizer._global_grad_norm = math.inf
    optimizer.clear_hp_grads()
    optimizer.clear_lp_grads()


def _with_slices(optimizer: Any, step: Step) -> None:
    """ZeRO 1 and 2: their step itself, finding an overflow where it looks for one."""
    optimizer._global_grad_norm = math.inf  # which older versions would leave as it was
    found = {"check_overflow": lambda **_: _put(optimizer, "overflow", True)}
    with _instead(optimizer, {**found, "check_grad_overflow": True}):
        step()


def _with_partitions(optimizer: Any, step: Step) -> None:
    """ZeRO 3: what its step begins with, and what it does after an overflow."""
    optimizer._pre_step()
    optimizer._partition_all_parameters()
    optimizer._global_grad_norm = math.inf
    optimizer._overflow_clean_up(optimizer.loss_scale)


_STAGE_3 = (_with_partitions, ("_pre_step", "_partition_all_parameters", "_overflow_clean_up"))
_WAYS: dict[str, tuple[Callable[[Any, Step], None], tuple[str, ...]]] = {
    "DeepSpeedZeroOptimizer": (_with_slices, ("check_overflow",)),
    "DeepSpeedZeroOptimizer_Stage3": _STAGE_3,
    "MiCS_Optimizer": _STAGE_3,
    "BF16_Optimizer": (_with_bf16_masters, ("clear_hp_grads", "clear_lp_grads")),
    "FP16_Optimizer": (_with_16_bits, ("zero_grad",)),
    "FP16_UnfusedOptimizer": (_with_16_bits, ("zero_grad",)),
}


@contextmanager
def _instead(target: object, attributes: dict[str, object]) -> Iterator[None]:
    """Give an object these attributes for a while."""
    before = {name: vars(target).get(name, _NOTHING) for name in attributes}
    for name, value in attributes.items():
        _put(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            _put(target, name, value)


def _put(target: object, name: str, value: object) -> None:
    if value is _NOTHING:
        vars(target).pop(name, None)
    else:
        setattr(target, name, value)


_NOTHING = object()
