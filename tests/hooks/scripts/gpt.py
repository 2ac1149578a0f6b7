"""A small GPT and its data, for the training runs of the tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return attended


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Gpt(nn.Module):
    """Returns the logits, or the loss when it is given targets."""

    def __init__(
        self, *, vocabulary: int = 64, width: int = 32, layers: int = 2, heads: int = 2
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(1024, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        if targets is None:
            return logits
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Lora(nn.Module):
    """A frozen linear layer with an adapter of low rank beside it."""

    def __init__(self, frozen: nn.Module, rank: int = 2) -> None:
        super().__init__()
        assert isinstance(frozen, nn.Linear)
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.frozen(x) + self.up(self.down(x))
        return result


def adapted(model: Gpt) -> list[dict[str, object]]:
    """Tie the embeddings, freeze some weights, and adapt one layer; the groups to be trained."""
    model.head.weight = model.tokens.weight
    model.positions.requires_grad_(False)
    attention = model.get_submodule("blocks.0.attention")
    attention.qkv = Lora(attention.get_submodule("qkv"))
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() > 1]
    others = [p for p in trained if p.dim() == 1]
    return [{"params": matrices}, {"params": others, "weight_decay": 0.0, "eps": 1e-6}]


def batch(seed: int, *, size: int = 2, length: int = 16, vocabulary: int = 64) -> Tensor:
    """`size` rows of `length + 1` tokens that have something to learn: each follows the last."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(vocabulary, (size, 1), generator=generator)
    return (start + torch.arange(length + 1) * 3) % vocabulary


def digest(tensors: Iterable[Tensor]) -> str:
    """Of every bit of these."""
    found = hashlib.sha256()
    for one in tensors:
        found.update(bytes(one.detach().contiguous().view(-1).view(torch.uint8).numpy()))
    return found.hexdigest()
