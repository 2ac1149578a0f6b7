"""Look for weights that are not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import Module


def first_bad(root: Module) -> str:
    """The first parameter of which this rank holds a NaN or Inf, or "" if there is none.

    Under ZeRO 3 a rank looks at its own partitions. Waits for the device.
    """
    for name, parameter in root.named_parameters():
        held = getattr(parameter, "ds_tensor", parameter)
        if isinstance(held, Tensor) and held.is_floating_point() and not _is_finite(held):
            return name
    return ""


def _is_finite(tensor: Tensor) -> bool:
    """Whether every element is; a sum is quick, and looked into only when it is not."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    values = local.detach()
    if math.isfinite(float(values.sum(dtype=torch.float32))):
        return True
    return bool(torch.isfinite(values).all())
