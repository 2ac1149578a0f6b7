"""The text of an expression's node: parsed again, it is the same node.

The opposite of `parse.py`. What the author wrote is kept in `Expression.text`; this tells of any
part of it, such as the left side of the second comparison.
"""

from __future__ import annotations

from sentinel.engine.detectors import DETECTORS
from sentinel.engine.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Constant,
    Disagrees,
    Either,
    Forecast,
    Missing,
    Negative,
    Node,
    NonFinite,
    Not,
    RankOutlier,
    Reading,
    Score,
    SecondsSince,
    Statistic,
    Window,
)

# How tightly each kind binds: Python's own order, loosest first.
_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _SIGN, _ATOM = range(8)


def unparse(node: Node) -> str:
    """The node as text.

    >>> unparse(Arithmetic("*", Constant(1.5), Arithmetic("+", Reading("loss"), Reading("lr"))))
    '1.5 * (loss + lr)'
    """
    return _text(node, _OR)


def _text(node: Node, least: int) -> str:
    """The node's text, in parentheses where it binds less tightly than it must."""
    text, binds = _plain(node)
    return text if binds >= least else f"({text})"


def _plain(node: Node) -> tuple[str, int]:
    if isinstance(node, Constant):
        return _number(node.value), _SIGN if node.value < 0 else _ATOM
    if isinstance(node, Negative):
        return f"-{_text(node.of, _SIGN)}", _SIGN
    if isinstance(node, Arithmetic):
        binds = _SUM if node.operator in "+-" else _PRODUCT
        return _joined(node.left, node.operator, node.right, binds, binds)
    if isinstance(node, Comparison):
        return _joined(node.left, node.operator, node.right, _COMPARISON, _SUM)
    if isinstance(node, Not):
        return f"not {_text(node.of, _NOT)}", _NOT
    if isinstance(node, Both):
        return _joined(node.left, "and", node.right, _AND, _AND)
    if isinstance(node, Either):
        return _joined(node.left, "or", node.right, _OR, _OR)
    return _call(node), _ATOM


def _joined(left: Node, word: str, right: Node, binds: int, least: int) -> tuple[str, int]:
    """Two sides around a word; of equally tight ones the left comes first without parentheses."""
    return f"{_text(left, least)} {word} {_text(right, least + (binds == least))}", binds


def _call(node: Node) -> str:
    """What looks like a name, a window or a function."""
    if isinstance(node, Reading):
        return _reading(node)
    if isinstance(node, Window):
        return f"{_text(node.of, _ATOM)}[{node.length}]"
    if isinstance(node, Statistic):
        share = "" if node.share is None else f", {_number(node.share)}"
        return f"{node.name}({unparse(node.window)}{share})"
    if isinstance(node, Score):
        return f"{node.detector}({unparse(node.of)}{_parameters(node)})"
    if isinstance(node, Forecast):
        return f"steps_until({unparse(node.window)}, {unparse(node.limit)})"
    if isinstance(node, Disagrees):
        return f"disagrees({_named(node.of)}, tolerance={_number(node.tolerance)})"
    if isinstance(node, RankOutlier):
        return f"rank_outlier({_named(node.of)})"
    if isinstance(node, SecondsSince):
        return f"seconds_since({_reading(node.of)})"
    name = "nonfinite" if isinstance(node, NonFinite) else "missing"
    assert isinstance(node, (NonFinite, Missing))
    return f"{name}({unparse(node.of)})"


def _reading(node: Reading) -> str:
    return f"by_rank({_named(node)})" if node.by_rank else _named(node)


def _named(node: Reading) -> str:
    if node.label is None:
        return node.signal
    quote = "'" if '"' in node.label else '"'
    return f"{node.signal}[{quote}{node.label}{quote}]"


def _parameters(node: Score) -> str:
    """Those that are not as the detector has them anyway, and the window."""
    known = DETECTORS[node.detector].parameters
    return "".join(
        f", {name}={_number(value)}"
        for name, value in node.parameters
        if name == "window" or value != known[name].default
    )


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")
