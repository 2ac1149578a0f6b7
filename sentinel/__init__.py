"""Sentinel watches a large model while it trains.

`attach` and `__version__` are the whole promise of this module. `attach` is imported on first
use, so that the daemon, which shares this package, never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentinel_hooks.attach import attach

__version__ = "0.1.0"
__all__ = ["__version__", "attach"]


def __getattr__(name: str) -> object:
    if name == "attach":
        try:
            from sentinel_hooks.attach import attach
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ModuleNotFoundError(
                "sentinel.attach belongs in a training script: this environment has no PyTorch",
                name=error.name,
            ) from error
        return attach
    raise AttributeError(f"module 'sentinel' has no attribute {name!r}")
