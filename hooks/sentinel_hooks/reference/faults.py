"""Faults on purpose: what breaks real runs, at a chosen place and time.

`parse` reads one from the command line; `arm` builds it into a trainer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from sentinel_hooks.probes.control_group import field, find_group

if TYPE_CHECKING:  # importing DeepSpeed takes seconds, which a slip in an option need not cost
    from sentinel_hooks.reference.trainer import Trainer

SYNTAX = """\
  nan:module=NAME,step=N[,rank=R][,batches=N|forever]  NaN in the output of a module
  poison:step=N[,rank=R][,batches=N|forever]           random bytes instead of text
  lr-jump:step=N,factor=X                              learning rate times X from step N on
  corrupt:module=NAME,rank=R,step=N[,share=X]          a share of its weights, 1%, on one rank
  leak:rank=R,step=N,mb=M                              M MB more host memory each step from N on
  leak:rank=R,step=N,percent=P                         P% of what is free, each step from N on
  slow-rank:rank=R,step=N,seconds=S                    S s longer forward passes from step N on
  hang:rank=R,step=N                                   stands still for ever within step N
  kill-rank:rank=R,step=N                              SIGKILL before step N"""


class FaultError(ValueError):
    """A fault that cannot be understood, or that does not fit the model or the run."""


class Fault(Protocol):
    """Something that goes wrong. Steps, like batches, count from 1; ranks from 0."""

    def check(self, model: nn.Module, world_size: int) -> None:
        """Raise FaultError unless it can happen to this model on this many ranks."""

    def arm(self, trainer: Trainer, rank: int) -> None:
        """Make it happen to `trainer`, whose rank this process is."""


@dataclass(frozen=True)
class Nan:
    """One NaN in the output of `module` on `rank`, in all micro-batches of `batches` batches.

    As a bad shard would, it sits in the data: it begins with the batch that step `step` reads when
    none was skipped, it is met again after a rollback, and skipping batches gets past it.
    """

    module: str
    step: int
    rank: int = 0
    batches: float = 1  # infinity: for ever

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step, batches=self.batches)

    def check(self, model: nn.Module, world_size: int) -> None:
        _check_rank(self.rank, world_size)
        names = [name for name, _ in model.named_modules() if name]
        # Containers such as `layers` are never called, so that a hook on them would never fire.
        callable_names = [n for n in names if not isinstance(model.get_submodule(n), nn.ModuleList)]
        if self.module not in callable_names:
            close = get_close_matches(self.module, callable_names, n=4, cutoff=0.4)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise FaultError(f"the model has no module {self.module!r} that can be called{hint}")

    def arm(self, trainer: Trainer, rank: int) -> None:
        def poison(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            if not self.step <= trainer.batch < self.step + self.batches:
                return output
            output = output.clone()
            output.view(-1)[0] = float("nan")
            return output

        if rank == self.rank:
            trainer.engine.module.get_submodule(self.module).register_forward_hook(poison)


@dataclass(frozen=True)
class Poison:
    """The text of `batches` batches is random bytes on `rank`, so that its loss jumps.

    A corrupted shard. Like `Nan` it sits in the data, from the batch that step `step` reads on.
    """

    step: int
    rank: int = 0
    batches: float = 1  # infinity: for ever

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step, batches=self.batches)

    def check(self, model: nn.Module, world_size: int) -> None:
        _check_rank(self.rank, world_size)

    def arm(self, trainer: Trainer, rank: int) -> None:
        if rank == self.rank:
            trainer.text.corrupt(self.step, self.batches)


@dataclass(frozen=True)
class LrJump:
    """The learning rate is multiplied by `factor` from step `step` on: a slip in a schedule."""

    step: int
    factor: float

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step)
        _check_positive(factor=self.factor)

    def check(self, model: nn.Module, world_size: int) -> None:
        """It can happen everywhere."""

    def arm(self, trainer: Trainer, rank: int) -> None:
        def jump() -> None:
            if trainer.engine.global_steps + 1 == self.step:
                trainer.scale_lr(self.factor)
                trainer.before_step.remove(jump)  # a rollback does not make the same slip again

        trainer.before_step.append(jump)


@dataclass(frozen=True)
class Corrupt:
    """Bits of the weights of `module` flip on `rank` before step `step`, without a word.

    Once, in a `share` of the elements: the lowest bit of the exponent, so that each is twice or
    half of what it was. Under ZeRO 0 in fp32 they stay so, since the same updates are added to
    them as to the others; where weights are gathered after each step, they are mended at once.
    """

    module: str
    rank: int
    step: int
    share: float = 0.01

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step)
        if not 0 < self.share <= 1:
            raise FaultError(f"share must be more than 0 and at most 1, got {self.share}")

    def check(self, model: nn.Module, world_size: int) -> None:
        _check_rank(self.rank, world_size)
        weighty = {name for name, one in model.named_modules() if _weight_of(one) is not None}
        if self.module not in weighty:
            close = get_close_matches(self.module, weighty, n=4, cutoff=0.4)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise FaultError(f"the model has no module {self.module!r} with a weight{hint}")

    def arm(self, trainer: Trainer, rank: int) -> None:
        def corrupt() -> None:
            if trainer.engine.global_steps + 1 == self.step:
                weight = _weight_of(trainer.engine.module.get_submodule(self.module))
                if weight is not None:
                    flip(weight.detach(), self.share)
                trainer.before_step.remove(corrupt)

        if rank == self.rank:
            trainer.before_step.append(corrupt)


def _weight_of(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def flip(weight: Tensor, share: float) -> None:
    """Flip the lowest bit of the exponent in evenly spread elements of floating-point weights."""
    kind, bit = {
        torch.float32: (torch.int32, 1 << 23),
        torch.bfloat16: (torch.int16, 1 << 7),
        torch.float16: (torch.int16, 1 << 10),
    }[weight.dtype]
    every = max(1, round(1 / share))
    weight.view(-1)[::every].view(kind).bitwise_xor_(bit)


@dataclass(frozen=True)
class Leak:
    """Process `rank` keeps more memory before each step: `mb` megabytes (of 10^6 bytes).

    Or `percent` of what was free when it began, on the machine or in the control group: so much
    on any machine, and so little.
    """

    rank: int
    step: int
    mb: float | None = None
    percent: float | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step)
        if (self.mb is None) == (self.percent is None):
            raise FaultError("leak needs mb or percent, one of them")
        if self.mb is not None:
            _check_positive(mb=self.mb)
        if self.percent is not None:
            _check_positive(percent=self.percent)

    def check(self, model: nn.Module, world_size: int) -> None:
        _check_rank(self.rank, world_size)

    def arm(self, trainer: Trainer, rank: int) -> None:
        kept: list[bytes] = []
        if self.mb is not None:
            size = round(self.mb * 1e6)
        else:
            size = round((self.percent or 0.0) / 100 * free_memory())

        def leak() -> None:
            if rank == self.rank and trainer.engine.global_steps + 1 >= self.step:
                # Written to: the kernel gives no memory for pages that are only asked for.
                kept.append(b"\x01" * size)

        trainer.before_step.append(leak)


def free_memory() -> int:
    """Bytes that this process can still take, as far as the machine and its groups say."""
    root = Path("/")
    machine = (root / "proc/meminfo").read_bytes()
    free = 1024 * field(machine, b"MemAvailable:")
    group = find_group(root, 1024 * field(machine, b"MemTotal:"))
    if group is not None:
        free = min(free, group.limit - group.used())
        group.close()
    return max(0, free)


@dataclass(frozen=True)
class SlowRank:
    """Each step of process `rank` takes `seconds` longer from step `step` on, before its backward.

    As on a host with a slow core or a throttled device, the time is spent in the forward pass.
    """

    rank: int
    step: int
    seconds: float

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step)
        _check_positive(seconds=self.seconds)

    def check(self, model: nn.Module, world_size: int) -> None:
        _check_rank(self.rank, world_size)

    def arm(self, trainer: Trainer, rank: int) -> None:
        def dawdle() -> None:
            if trainer.engine.global_steps + 1 >= self.step:
                time.sleep(self.seconds)

        if rank == self.rank:
            _at_end_of_forward(trainer, dawdle)


@dataclass(frozen=True)
class Hang:
    """Process `rank` stands still within step `step`, for ever. Its other threads go on."""

    rank: int
    step: int

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step)

    def check(self, model: nn.Module, world_size: int) -> None:
        _check_rank(self.rank, world_size)

    def arm(self, trainer: Trainer, rank: int) -> None:
        def hang() -> None:
            if trainer.engine.global_steps + 1 == self.step:
                threading.Event().wait()

        if rank == self.rank:
            _at_end_of_forward(trainer, hang)


@dataclass(frozen=True)
class KillRank:
    """Process `rank` is killed before step `step`, as by the kernel when memory is out."""

    rank: int
    step: int

    def __post_init__(self) -> None:
        _check_at_least(1, step=self.step)

    def check(self, model: nn.Module, world_size: int) -> None:
        _check_rank(self.rank, world_size)

    def arm(self, trainer: Trainer, rank: int) -> None:
        def die() -> None:
            if rank == self.rank and trainer.engine.global_steps + 1 == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

        trainer.before_step.append(die)


def _at_end_of_forward(trainer: Trainer, act: Callable[[], None]) -> None:
    """Do this within the last forward pass of every step."""

    def hook(model: nn.Module, inputs: object, output: object) -> None:
        if trainer.engine.is_gradient_accumulation_boundary():
            act()

    trainer.engine.module.register_forward_hook(hook)


KINDS: Mapping[str, Callable[..., Fault]] = {
    "nan": Nan,
    "poison": Poison,
    "lr-jump": LrJump,
    "corrupt": Corrupt,
    "leak": Leak,
    "slow-rank": SlowRank,
    "hang": Hang,
    "kill-rank": KillRank,
}

_READ: Mapping[str, Callable[[str], str | float]] = {
    "module": str,
    "rank": int,
    "step": int,
    "batches": lambda text: float("inf") if text == "forever" else int(text),
    "factor": float,
    "share": float,
    "mb": float,
    "percent": float,
    "seconds": float,
}


def parse(text: str) -> Fault:
    """Read `kind:key=value,key=value`; raises FaultError that shows what is right."""
    try:
        return _parse(text)
    except FaultError as error:
        raise FaultError(f"{text!r}: {error}; right are\n{SYNTAX}") from None


def _parse(text: str) -> Fault:
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise FaultError(f"there is no fault {kind!r}")
    values: dict[str, str | float] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in _keys(kind):
            raise FaultError(f"{kind} has no {key!r}")
        if key in values:
            raise FaultError(f"{key} is given twice")
        try:
            values[key] = _READ[key](value)
        except ValueError:
            raise FaultError(f"{value!r} is no {key}") from None
    missing = [key for key in _keys(kind, needed=True) if key not in values]
    if missing:
        raise FaultError(f"{kind} needs {' and '.join(missing)}")
    return KINDS[kind](**values)


def _keys(kind: str, *, needed: bool = False) -> list[str]:
    described = fields(KINDS[kind])  # type: ignore[arg-type]
    return [key.name for key in described if key.default is MISSING or not needed]


def _check_at_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if value < least:
            raise FaultError(f"{name} must be at least {least}, got {value}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise FaultError(f"{name} must be a positive number, got {value}")


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise FaultError(f"there is no rank {rank} among {world_size}, counted from 0")
