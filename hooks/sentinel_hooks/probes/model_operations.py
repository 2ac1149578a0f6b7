"""How many floating-point operations a model needs for a token, by a stated formula.

Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways" (2022), appendix B: a training
step takes 6N + 12LHQT operations per token, with N parameters, L layers of H attention heads of
size Q, and sequences of T tokens. What the model needs counts, not what the device does: nothing
is added for activations that are computed twice, nothing taken off for causal masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.nn import Embedding, EmbeddingBag, Module, Parameter

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Operations:
    """What one token takes: `by_parameter`, and `by_length` for each token of its sequence.

    `absent` says why the formula does not hold for this model, where it does not.
    """

    by_parameter: float = 0.0  # 6N
    by_length: float = 0.0  # 12LHQ; 0 where the model does not tell its layers and their width
    absent: str = ""

    def of(self, tokens: int, length: int) -> float:
        """Operations for so many tokens in sequences of this length."""
        return tokens * (self.by_parameter + self.by_length * length)


def operations_of(root: Module, *, complete: bool = True) -> Operations:
    """The operations of this model.

    N counts the parameters that are trained, in full also where ZeRO 3 has partitioned them.
    Tables of embeddings are looked up and not multiplied with: they count only where another
    module shares them, such as the head. `complete`: this rank has all layers; else only its own
    parameters count, and no attention.
    """
    config = getattr(root, "config", None)
    experts = any(getattr(parameter, "allreduce", True) is False for parameter in root.parameters())
    if experts or (_first(config, _EXPERTS) or 0) > 1:
        return Operations(absent="a mixture of experts: a token does not meet every parameter")
    count = sum(map(_size, _multiplied(root)))
    if not count:
        return Operations(absent="the model has no trained parameters but embeddings")
    return Operations(6.0 * count, 12.0 * _attention(config) if complete else 0.0)


def _multiplied(root: Module) -> Iterator[Parameter]:
    """The trained parameters, each once, without tables that are nothing but looked up."""
    looked_up: dict[int, Parameter] = {}
    others: dict[int, Parameter] = {}
    for module in root.modules():
        into = looked_up if isinstance(module, Embedding | EmbeddingBag) else others
        own = module.parameters(recurse=False)
        into.update({id(parameter): parameter for parameter in own if parameter.requires_grad})
    yield from others.values()


def _size(parameter: Parameter) -> int:
    whole = getattr(parameter, "ds_numel", None)
    return whole if isinstance(whole, int) else parameter.numel()


def _attention(config: object) -> int:
    """Layers times heads times the size of a head, or 0."""
    if getattr(config, "is_encoder_decoder", False):
        return 0
    layers, heads = _first(config, _LAYERS), _first(config, _HEADS)
    size = _first(config, ("head_dim",))
    width = heads * size if heads and size else _first(config, _WIDTH)
    return layers * width if layers and width else 0


def _first(config: object, names: tuple[str, ...]) -> int | None:
    """The first of these fields that is a positive integer."""
    for name in names:
        value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
