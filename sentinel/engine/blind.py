"""What a rule cannot come to say while some of what it asks for is not measured."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel.engine.language.expression import (
    Both,
    Condition,
    Either,
    Missing,
    Node,
    Not,
    Reading,
    Statistic,
    children,
)


def can_be(condition: Condition, truth: bool, lacking: frozenset[Reading]) -> bool:
    """Whether a condition can come to be true, or false, while these readings are missing."""
    if isinstance(condition, Not):
        return can_be(condition.of, not truth, lacking)
    if isinstance(condition, (Both, Either)):
        sides = (can_be(side, truth, lacking) for side in (condition.left, condition.right))
        return all(sides) if isinstance(condition, Both) is truth else any(sides)
    lacks = not lacking.isdisjoint(_needed(condition))
    if isinstance(condition, Missing):
        return truth or not lacks
    return not lacks


def is_told(node: Node, lacking: frozenset[Reading]) -> bool:
    """Whether a number can have a value while these readings are missing."""
    return lacking.isdisjoint(_needed(node))


def _needed(node: Node) -> Iterator[Reading]:
    """The readings without which the node is missing; how many there were is always known."""
    if isinstance(node, Reading):
        yield node
    if not (isinstance(node, Statistic) and node.name == "count"):
        for child in children(node):
            yield from _needed(child)
