"""What modules with experts say about where their tokens went.

Any module is read that, when Sentinel is attached, has

- `exp_counts`, a tensor [experts]: how many tokens chose each expert in the last forward pass,
  those included that then found no place there; zeros before the first pass;
- `exp_dropped`, a 0-d tensor: for how many of these choices there was no place. A module without
  it does not tell.

DeepSpeed's `MOELayer` has the first once it has run: before, it is known by its other attributes.
How many it drops follows from the capacity of its gate. A token that two experts turn away counts
twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import Module


class Gate(Protocol):
    """What tells the capacity of DeepSpeed's `TopKGate`."""

    k: int
    capacity_factor: float
    eval_capacity_factor: float
    min_capacity: int
    drop_tokens: bool
    training: bool


@dataclass
class ExpertLayer:
    """One module with experts, and its tokens of this step."""

    name: str
    module: Module
    experts: int
    tells_drops: bool
    total: Tensor | None = None  # by expert, and last those without a place

    def count(self, args: tuple[object, ...]) -> None:
        """Add what the module, which was called with `args`, did in its last forward pass."""
        counts = _counts(self.module)
        if counts is None or counts.numel() != self.experts:
            return
        dropped = _dropped(self.module, counts, args)
        seen = torch.cat([counts.detach().flatten(), dropped.detach().reshape(1)])
        self.total = seen if self.total is None else self.total + seen

    def take(self) -> Tensor | None:
        """All that was counted since the last call; None if there was no forward pass."""
        total, self.total = self.total, None
        return total


def expert_layers(root: Module) -> list[ExpertLayer]:
    """The modules of this model that say how their tokens are spread over experts."""
    found = []
    for name, module in root.named_modules():
        counts, gate = _counts(module), _gate(module)
        experts = _deepspeed_experts(module) if counts is None else counts.numel()
        if experts:
            tells_drops = gate is not None or _own_dropped(module) is not None
            name = name.removesuffix(".deepspeed_moe")
            found.append(ExpertLayer(name, module, experts, tells_drops))
    return found


def _counts(module: Module) -> Tensor | None:
    counts = getattr(module, "exp_counts", None)
    return counts if isinstance(counts, Tensor) else None


def _deepspeed_experts(module: Module) -> int:
    """How many experts a `MOELayer` of DeepSpeed has on all ranks; 0 if it is another module."""
    groups, local = (getattr(module, name, None) for name in ("ep_size", "num_local_experts"))
    known = _gate(module) is not None and isinstance(groups, int) and isinstance(local, int)
    return cast(int, groups) * cast(int, local) if known else 0


def _gate(module: Module) -> Gate | None:
    gate = getattr(module, "gate", None)
    names = ("k", "capacity_factor", "eval_capacity_factor", "min_capacity", "drop_tokens")
    known = isinstance(gate, Module) and all(hasattr(gate, name) for name in names)
    return cast(Gate, gate) if known else None


def _own_dropped(module: Module) -> Tensor | None:
    dropped = getattr(module, "exp_dropped", None)
    return dropped if isinstance(dropped, Tensor) else None


def _dropped(module: Module, counts: Tensor, args: tuple[object, ...]) -> Tensor:
    """How many choices of the last pass found no place, as far as the module tells; 0-d."""
    own, gate = _own_dropped(module), _gate(module)
    if own is not None:
        return own
    if gate is None or not gate.drop_tokens:
        return counts.new_zeros(())
    return (counts - _capacity(gate, args, counts.numel())).clamp(min=0).sum()


def _capacity(gate: Gate, args: tuple[object, ...], experts: int) -> int:
    """Tokens of this rank that each expert takes, computed in fp32 as DeepSpeed's gates do.

    From `deepspeed.moe.sharded_moe._capacity`: so many even shares, but at least the minimum.
    """
    tokens = args[0] if args else None
    if not isinstance(tokens, Tensor):
        raise TypeError(f"a layer of experts was called with {type(tokens).__name__}")
    factor = gate.capacity_factor if gate.training else gate.eval_capacity_factor
    share = tokens.numel() // tokens.shape[-1] / experts
    exact = share * torch.tensor(factor * gate.k, dtype=torch.float32)
    return max(int(torch.ceil(exact)), int(gate.min_capacity))
