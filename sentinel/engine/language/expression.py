"""What a rule's expression means: a tree of small frozen nodes, equal when they mean the same.

Equal subexpressions of different rules are equal objects here, so that their streaming state is
kept once. `parse.py` makes these trees from text; `operators.py` evaluates them over all labels
at once, `scalar.py` over the values of a single rank.

A number is *missing* when it was not measured, or when a window has not yet seen enough values.
Missing is not NaN: what is computed from it is missing too, `missing(x)` asks for it, and `and`,
`or` and `not` know three values, true, false and missing (Kleene). NaN was measured, and
compares as IEEE 754 says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sentinel.signals import CATALOG

RANK_AXIS = "rank"
MAX_WINDOW = 10_000
WARM = 32  # values a window or score must hold (or its length, when shorter) before it counts

ArithmeticOperator = Literal["+", "-", "*", "/"]
ComparisonOperator = Literal["<", "<=", ">", ">=", "==", "!="]
StatisticName = Literal["mean", "std", "median", "mad", "min", "max", "slope", "count", "quantile"]
When = Literal["frame", "step", "tick"]


@dataclass(frozen=True)
class Constant:
    """A finite number."""

    value: float


@dataclass(frozen=True)
class Reading:
    """A signal's value at this step, reduced over ranks or, `by_rank`, of each rank.

    `label` is the only one of its labels that is meant, as in `logged["val_loss"]`.
    """

    signal: str
    by_rank: bool = False
    label: str | None = None


@dataclass(frozen=True)
class Window:
    """The last `length` finite values of a number before this step."""

    of: Number
    length: int


@dataclass(frozen=True)
class Statistic:
    """One number for each window; `share` says which quantile."""

    name: StatisticName
    window: Window
    share: float | None = None


@dataclass(frozen=True)
class Score:
    """What a streaming detector says of a number, such as `robust_z(loss, window=200)`.

    `parameters` are all those of the detector, in its own order.
    """

    detector: str
    of: Number
    parameters: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Forecast:
    """`steps_until(x[n], limit)`: in how many values the window's slope takes x to the limit.

    0 where x is there now, infinite where it does not move towards it.
    """

    window: Window
    limit: Number


@dataclass(frozen=True)
class RankOutlier:
    """`rank_outlier(x)`: how many robust deviations each rank lies above the median of all.

    It reads x by rank.
    """

    of: Reading


@dataclass(frozen=True)
class SecondsSince:
    """`seconds_since(x)`: how long ago x was last measured, by the clock."""

    of: Reading


@dataclass(frozen=True)
class Arithmetic:
    operator: ArithmeticOperator
    left: Number
    right: Number


@dataclass(frozen=True)
class Negative:
    of: Number


@dataclass(frozen=True)
class Comparison:
    operator: ComparisonOperator
    left: Number
    right: Number


@dataclass(frozen=True)
class NonFinite:
    """True where a NaN or an infinity was measured."""

    of: Number


@dataclass(frozen=True)
class Missing:
    """True where nothing was measured, or a window is not warm."""

    of: Number


@dataclass(frozen=True)
class Disagrees:
    """`disagrees(x)`: true of ranks whose value is not that of most, where all should be equal.

    It reads x by rank. `tolerance` is relative.
    """

    of: Reading
    tolerance: float


@dataclass(frozen=True)
class Not:
    of: Condition


@dataclass(frozen=True)
class Both:
    left: Condition
    right: Condition


@dataclass(frozen=True)
class Either:
    left: Condition
    right: Condition


Number = (
    Constant
    | Reading
    | Statistic
    | Score
    | Forecast
    | RankOutlier
    | SecondsSince
    | Arithmetic
    | Negative
)
Condition = Comparison | NonFinite | Missing | Disagrees | Not | Both | Either
Node = Number | Condition | Window


def children(node: Node) -> tuple[Node, ...]:
    """The nodes that `node` is made of, from left to right."""
    if isinstance(node, (Constant, Reading)):
        return ()
    if isinstance(node, Statistic):
        return (node.window,)
    if isinstance(node, Forecast):
        return (node.window, node.limit)
    if isinstance(node, (Arithmetic, Comparison, Both, Either)):
        return (node.left, node.right)
    return (node.of,)


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def readings(node: Node) -> list[Reading]:
    """All signals read below the node, from left to right, with repetitions."""
    return [part for part in walk(node) if isinstance(part, Reading)]


def axes_of(node: Node) -> tuple[str, ...]:
    """The labels that tell the node's elements apart: those of its signals, `rank` last."""
    found: set[str] = set()
    for reading in readings(node):
        label = CATALOG[reading.signal].label
        found |= {label} if label and reading.label is None else set()
        found |= {RANK_AXIS} if reading.by_rank else set()
    return tuple(sorted(found, key=lambda axis: (axis == RANK_AXIS, axis)))


def is_clocked(node: Node) -> bool:
    """Whether the node itself moves with the clock, not with steps."""
    if isinstance(node, Reading):
        return CATALOG[node.signal].made_by == "engine"
    return isinstance(node, SecondsSince)


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    `value` is the first signal that it names (or how long ago that was measured, where this is
    asked) and `score` the left side of its first comparison: both say how bad it was when an alert
    fires.
    """

    text: str
    root: Condition
    value: Reading | SecondsSince
    score: Number

    @property
    def signal(self) -> str:
        """The first signal that it names."""
        return self.value.of.signal if isinstance(self.value, SecondsSince) else self.value.signal

    @property
    def axes(self) -> tuple[str, ...]:
        """The labels of the alerts that this expression raises."""
        return axes_of(self.root)

    @property
    def when(self) -> When:
        """When it is judged.

        "frame": the moment a rank's frame arrives, because it asks for nothing but that rank's own
        values at that step. "tick": by the clock, because it reads what the engine itself knows, or
        asks how long ago something was measured. "step": when the step is judged, all else.
        """
        parts = list(walk(self.root))
        if any(is_clocked(part) for part in parts):
            return "tick"
        alone = all(
            part.by_rank and not CATALOG[part.signal].label
            for part in parts
            if isinstance(part, Reading)
        )
        joint = any(isinstance(part, (RankOutlier, Disagrees)) for part in parts)
        return "frame" if alone and not joint and not self.has_state else "step"

    @property
    def has_state(self) -> bool:
        """Whether it depends on earlier steps."""
        return any(isinstance(part, (Window, Score)) for part in walk(self.root))
