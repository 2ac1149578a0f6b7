"""Which elements can meet: those of one label, or none, each of them with the rank or without."""

from __future__ import annotations

from sentinel.engine.language.expression import RANK_AXIS, Node, axes_of, readings
from sentinel.signals import CATALOG


def crossing(left: Node, right: Node) -> str | None:
    """Why two parts of an expression cannot be joined, and what to do; None if they can.

    Layers and experts, say, do not belong together: an alert of every pair would be of nothing.
    """
    labels = {axis: part for part in (right, left) for axis in axes_of(part)}
    labels.pop(RANK_AXIS, None)
    if len(labels) < 2:
        return None
    (one, here), (other, there) = sorted(labels.items())[:2]
    first, second = _signal(here, one), _signal(there, other)
    return (
        f"{first!r} has a number for each {one} and {second!r} for each {other}, which do not "
        f'meet: name the {other} that is meant, as in {second}["..."], or use two rules'
    )


def _signal(node: Node, label: str) -> str:
    named = (reading for reading in readings(node) if reading.label is None)
    return next(one.signal for one in named if CATALOG[one.signal].label == label)
