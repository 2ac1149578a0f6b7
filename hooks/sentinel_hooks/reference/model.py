"""A small decoder in the DeepSeek manner: RMSNorm, rotary attention, SwiGLU, no biases.

Bytes in, bytes out. The forward pass takes the targets too and returns the loss, so that the whole
of it lies within what DeepSpeed wraps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sentinel_hooks.reference.feed_forward import Mixture, MixtureOfExperts, SwiGLU


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `layers`, `width`, `heads` are counts, `context` is in tokens."""

    layers: int = 4
    width: int = 96
    heads: int = 4
    context: int = 64
    vocabulary: int = 256  # every byte is a token

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.context) < 1:
            raise ValueError("layers, width, heads and context must be at least 1")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width must be a multiple of 2 * heads = {2 * self.heads}: rotary attention turns"
                f" pairs of each head's coordinates, got {self.width}"
            )

    @property
    def hidden(self) -> int:
        """Width inside SwiGLU: 8/3 of `width`, so that three matrices weigh as much as two of 4."""
        return -(-8 * self.width // 3 // 16) * 16


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in fp32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, eps=1e-6).to(x.dtype) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the coordinate pairs of x [batch, heads, time, size] by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary position embedding (Su et al., 2021)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, shape.width, bias=False)
        self.value = nn.Linear(shape.width, shape.width, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, width = x.shape

        def split(flat: Tensor) -> Tensor:
            return flat.view(batch, time, self.heads, width // self.heads).transpose(1, 2)

        query = rotate(split(self.query(x)), cos, sin)
        key = rotate(split(self.key(x)), cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, split(self.value(x)), is_causal=True)
        y: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, time, width))
        return y


class Layer(nn.Module):
    """x + attention(norm(x)), then the same with the feed-forward network."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width)
        self.attention = Attention(shape)
        self.mlp_norm = RMSNorm(shape.width)
        self.mlp = SwiGLU(shape.width, shape.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class ExpertLayer(nn.Module):
    """A layer whose feed-forward network is a mixture of experts."""

    def __init__(self, shape: Shape, mixture: Mixture) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width)
        self.attention = Attention(shape)
        self.moe_norm = RMSNorm(shape.width)
        self.moe = MixtureOfExperts(shape.width, shape.hidden, mixture)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y: Tensor = x + self.moe(self.moe_norm(x))
        return y


class Decoder(nn.Module):
    """The whole model. `recompute`: keep only each layer's input and run it again in backward.

    With a `mixture` all layers but the first have experts, as in DeepSeekMoE.
    """

    def __init__(
        self, shape: Shape, mixture: Mixture | None = None, *, recompute: bool = False
    ) -> None:
        super().__init__()
        if mixture is not None and shape.layers < 2:
            raise ValueError("experts need at least 2 layers: the first has none")
        self.recompute = recompute
        self.balance = 0.0 if mixture is None else mixture.balance
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(
            Layer(shape) if mixture is None or index == 0 else ExpertLayer(shape, mixture)
            for index in range(shape.layers)
        )
        self.norm = RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        size = shape.width // shape.heads
        speed = 10_000.0 ** (-torch.arange(0, size, 2) / size)
        # Plain attributes, not buffers: DeepSpeed casts buffers to bf16, which has too few digits.
        self.angles = torch.outer(torch.arange(shape.context), speed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:  # what adds to the residual stream starts smaller, as in GPT-2
                last = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if last else 0.02)
        # As wide as what RMSNorm makes of it: narrower, and rare bytes get enormous gradients.
        nn.init.normal_(self.embed.weight, std=1.0)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of `targets` after `tokens`, both int64 [batch, time].

        With experts the mean balance loss of their layers comes on top, times its weight.
        """
        angles = self.angles = self.angles.to(tokens.device)
        cos, sin = angles[: tokens.shape[1]].cos(), angles[: tokens.shape[1]].sin()
        x = self.embed(tokens)
        for layer in self.layers:
            if self.recompute:
                x = checkpoint(layer, x, cos, sin, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, cos, sin)
        logits: Tensor = self.head(self.norm(x))
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        unbalance = [layer.moe.balance for layer in self.layers if isinstance(layer, ExpertLayer)]
        return loss + self.balance * torch.stack(unbalance).mean() if unbalance else loss
