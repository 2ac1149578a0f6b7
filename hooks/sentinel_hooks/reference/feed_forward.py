"""The half of a layer that works on each token by itself: one network, or a mixture of experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn


@dataclass(frozen=True)
class Mixture:
    """How many experts there are, and who gets a token.

    Each token passes all of the `shared` experts and `top_k` of the `routed` ones. `capacity`
    times an even share of the tokens of a micro-batch is what a routed expert takes; `balance`
    weighs the loss that evens their loads out.
    """

    routed: int
    shared: int = 1
    top_k: int = 2
    capacity: float = 1.25
    balance: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.routed:
            raise ValueError(f"top-k must be 1 to the {self.routed} experts, got {self.top_k}")
        if self.shared < 0:
            raise ValueError(f"shared experts must be 0 or more, got {self.shared}")
        if not 0 < self.capacity < math.inf:
            raise ValueError(f"the capacity factor must be positive, got {self.capacity}")
        if not 0 <= self.balance < math.inf:
            raise ValueError(f"the weight of the balance loss must be 0 or more: {self.balance}")

    def places(self, tokens: int) -> int:
        """How many of so many tokens one routed expert takes."""
        return min(tokens, math.ceil(self.capacity * self.top_k * tokens / self.routed))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return y


class Router(nn.Module):
    """The affinity of tokens to experts: softmax over a linear map, in fp32 (Fedus et al., 2021).

    A module of its own, since ZeRO-3 gathers parameters when their module is called.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens.float(), self.weight.float()).softmax(dim=-1)


class MixtureOfExperts(nn.Module):
    """The shared experts' outputs, and those of the top-k routed ones times their affinities.

    As in DeepSeekMoE (Dai et al., 2024): experts are so narrow that a token costs what it costs in
    a dense layer, and affinities are not normalized again. Each micro-batch is dealt out in this
    order: all tokens' first choices, then all second ones, and so on; a token that finds an
    expert full goes without it (GShard, Lepikhin et al., 2020).

    Every rank has all experts and calls each of them in every pass, on as many rows, with zeros
    where no token came: ZeRO-3 needs the same calls on all ranks, and every parameter gets a
    gradient.

    After a forward pass three attributes tell of it. `exp_counts`, int64 [routed], and
    `exp_dropped`, int64 [], are what Sentinel reads: how many tokens chose each expert, and for
    how many choices there was no place. `balance` is the loss of Fedus et al. (2021), eq. 4:
    sum over experts of experts * (share of choices) * (mean affinity); 1 if all are even.
    """

    def __init__(self, width: int, hidden: int, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        narrow = -(-hidden // (mixture.shared + mixture.top_k) // 16) * 16
        self.router = Router(width, mixture.routed)
        self.shared = nn.ModuleList(SwiGLU(width, narrow) for _ in range(mixture.shared))
        self.routed = nn.ModuleList(SwiGLU(width, narrow) for _ in range(mixture.routed))
        # Plain attributes, not buffers: DeepSpeed casts buffers to bf16 and saves them.
        self.exp_counts = torch.zeros(mixture.routed, dtype=torch.int64)
        self.exp_dropped = torch.zeros((), dtype=torch.int64)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        affinities = self.router(tokens)
        chosen_affinities, chosen = affinities.topk(self.mixture.top_k, dim=-1)
        mixed = self._mix(tokens, chosen.t(), chosen_affinities.t())
        self.balance = self.mixture.routed * torch.sum(
            affinities.mean(dim=0) * (self.exp_counts / chosen.numel())
        )
        for expert in self.shared:
            mixed = mixed + expert(tokens)
        return mixed.view_as(x)

    def _mix(self, tokens: Tensor, chosen: Tensor, affinities: Tensor) -> Tensor:
        """What the routed experts make of tokens [count, width]; the rest is [top_k, count].

        1. Number the choices of each expert, in their order.
        2. Put every token into the rows of the experts that have a place for it.
        3. Call all experts.
        4. Take each token's results back out and add them up.
        """
        count, width = tokens.shape
        places, experts = self.mixture.places(count), self.mixture.routed
        is_chosen = F.one_hot(chosen.flatten(), experts)
        self.exp_counts = is_chosen.sum(dim=0)
        place = ((is_chosen.cumsum(dim=0) - 1) * is_chosen).sum(dim=1)
        found = place < places
        self.exp_dropped = found.numel() - found.sum()

        nowhere = experts * places  # one more row, for those without a place
        row = torch.where(found, chosen.flatten() * places + place, nowhere)
        rows = tokens.new_zeros(nowhere + 1, width)
        rows = rows.index_copy(0, row, tokens.repeat(len(chosen), 1))[:-1]

        parts = rows.view(experts, places, width)
        results = [expert(part) for expert, part in zip(self.routed, parts, strict=True)]
        results.append(tokens.new_zeros(1, width))
        taken = torch.cat(results).index_select(0, row).view(*chosen.shape, width)
        mixed: Tensor = (taken * affinities.unsqueeze(-1)).sum(dim=0)
        return mixed.to(tokens.dtype)
