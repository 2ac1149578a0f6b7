"""What a detector can be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A number within bounds, both included; `whole` ones are integers, such as windows."""

    default: float
    lowest: float
    highest: float
    help: str
    whole: bool = False


def window(default: int) -> Parameter:
    """How many values a baseline is made of."""
    return Parameter(default, 8, 10_000, "how many values the baseline is made of", whole=True)
