"""From Python's syntax tree to the tree of a rule's expression, checked on the way."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence

from sentinel.engine.detectors import DETECTORS
from sentinel.engine.detectors.parameter import Parameter
from sentinel.engine.language.excerpt import Excerpt
from sentinel.engine.language.expression import (
    MAX_WINDOW,
    Arithmetic,
    ArithmeticOperator,
    Both,
    Comparison,
    ComparisonOperator,
    Condition,
    Constant,
    Disagrees,
    Either,
    Forecast,
    Missing,
    Negative,
    Node,
    NonFinite,
    Not,
    Number,
    RankOutlier,
    Reading,
    Score,
    SecondsSince,
    Statistic,
    Window,
)
from sentinel.engine.language.functions import STATISTICS, TESTS, USAGE
from sentinel.engine.language.labels import crossing
from sentinel.engine.language.names import Names
from sentinel.engine.language.units import clash
from sentinel.signals import CATALOG, Reduction, did_you_mean

MAX_NODES = 200
MAX_DEPTH = 30

_ARITHMETIC: dict[type[ast.operator], ArithmeticOperator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_INSTEAD: dict[type[ast.operator], str] = {
    ast.BitAnd: ": conditions are joined by 'and'",
    ast.BitOr: ": conditions are joined by 'or'",
    ast.Pow: ": a square is x * x",
}
_COMPARISONS: dict[type[ast.cmpop], ComparisonOperator] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_CONDITIONS = (Comparison, NonFinite, Missing, Disagrees, Not, Both, Either)
_SHARE = Parameter(0.5, 0.0, 1.0, "how much of the window lies below")
_TOLERANCE = Parameter(1e-5, 0.0, 1.0, "what the order of a sum can do, relative to it")


class Grammar:
    """One pass over a syntax tree, from left to right.

    `score` is the left side of the first comparison, or the right one where the left is constant.
    """

    def __init__(self, excerpt: Excerpt, names: Names) -> None:
        self._names = names
        self._error, self._misused = excerpt.error, excerpt.misused
        self._source = excerpt.quote
        self._nodes = 0
        self.score: Number | None = None

    def whole(self, tree: ast.expr) -> Condition:
        """The root of the tree."""
        why = "a rule needs a condition that is true or false, such as 'loss > 10'"
        return self._condition(tree, 0, why)

    def _enter(self, node: ast.expr, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(node, f"the expression has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise self._error(node, f"the expression is nested deeper than {MAX_DEPTH}")

    # The three kinds that an expression is made of, each asked for by name.

    def _condition(self, node: ast.expr, depth: int, why: str) -> Condition:
        part = self._part(node, depth)
        if isinstance(part, _CONDITIONS):
            return part
        raise self._error(node, f"{why}, and {self._source(node)} is {_kind(part)}")

    def _number(self, node: ast.expr, depth: int, why: str) -> Number:
        part = self._part(node, depth)
        if isinstance(part, Window):
            raise self._error(
                node,
                f"{self._source(node)} is a window: take {', '.join(STATISTICS)} of it, "
                f"such as median({self._source(node)[1:-1]})",
            )
        if isinstance(part, _CONDITIONS):
            raise self._error(node, f"{why}, and {self._source(node)} is {_kind(part)}")
        return part

    def _window(self, call: ast.Call, name: str, node: ast.expr, depth: int) -> Window:
        part = self._part(node, depth)
        if not isinstance(part, Window):
            raise self._misused(call, name)
        return part

    def _part(self, node: ast.expr, depth: int) -> Number | Condition | Window:
        self._enter(node, depth)
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            return self._names.signal(node)
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, depth)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node, depth)
        if isinstance(node, ast.Compare):
            return self._comparison(node, depth)
        if isinstance(node, ast.BoolOp):
            return self._logic(node, depth)
        if isinstance(node, ast.Subscript):
            return self._subscript(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        raise self._error(
            node,
            f"{self._source(node)} is not part of the language of rules: it knows signals, "
            "windows such as loss[200], + - * /, comparisons, and, or, not, "
            f"and the functions {', '.join(USAGE)}{self._names.hint(node)}",
        )

    def _constant(self, node: ast.Constant) -> Constant:
        if isinstance(node.value, str):
            raise self._error(
                node, f'{self._source(node)} is a text: only labels are, as in logged["val_loss"]'
            )
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            raise self._error(node, f"{self._source(node)} is neither a number nor a signal")
        try:
            value = float(node.value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise self._error(node, f"{self._source(node)} is too large a number")
        return Constant(value)

    def _subscript(self, node: ast.Subscript, depth: int) -> Window | Reading:
        length = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if self._names.is_labeled(node):
            if isinstance(node.value, ast.Name):
                return self._names.signal(node)
            raise self._error(
                node,
                f"{self._source(node)}: a label stands right behind the name of its signal, "
                f"as in by_rank(layer_grad_norm[{self._source(node.slice)[1:-1]}])",
            )
        if type(length) is not int or not 1 <= length <= MAX_WINDOW:
            raise self._error(
                node,
                f"the window of {self._source(node)} must be a whole number of values "
                f"from 1 to {MAX_WINDOW}{self._names.hint(node)}",
            )
        of = self._number(node.value, depth + 1, "a window holds numbers")
        self._names.check_steps(node, of)
        return Window(of, length)

    # Operators.

    def _arithmetic(self, node: ast.BinOp, depth: int) -> Arithmetic:
        operator = _ARITHMETIC.get(type(node.op))
        if operator is None:
            instead = _INSTEAD.get(type(node.op), "")
            raise self._error(
                node,
                f"{self._source(node)} uses an operator other than + - * / and comparisons"
                f"{instead}",
            )
        why = f"{operator!r} takes numbers"
        left = self._number(node.left, depth + 1, why)
        right = self._number(node.right, depth + 1, why)
        if operator == "/" and right == Constant(0.0):
            raise self._error(node.right, f"{self._source(node)} divides by zero")
        if operator in ("+", "-"):
            self._check_units(node, left, right, "cannot be added or subtracted")
        self._check_labels(node, left, right)
        return Arithmetic(operator, left, right)

    def _unary(self, node: ast.UnaryOp, depth: int) -> Number | Condition:
        if isinstance(node.op, ast.Not):
            return Not(self._condition(node.operand, depth + 1, "'not' takes a condition"))
        if isinstance(node.op, ast.USub):
            of = self._number(node.operand, depth + 1, "'-' takes a number")
            return Constant(-of.value) if isinstance(of, Constant) else Negative(of)
        raise self._error(node, f"{self._source(node)} uses an operator that rules do not know")

    def _comparison(self, node: ast.Compare, depth: int) -> Condition:
        why = "a comparison takes numbers"
        left = self._number(node.left, depth + 1, why)
        chain: Condition | None = None
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            operator = _COMPARISONS.get(type(op))
            if operator is None:
                raise self._error(
                    node, f"{self._source(node)} compares by other than < <= > >= == !="
                )
            right = self._number(right_node, depth + 1, why)
            self._check_units(node, left, right, "cannot be compared")
            self._check_labels(node, left, right)
            if self.score is None:
                self.score = right if isinstance(left, Constant) else left
            link = Comparison(operator, left, right)
            chain = self._joined(node, Both, chain, link) if chain else link
            left = right
        assert chain is not None  # Python's grammar: a comparison compares something
        return chain

    def _logic(self, node: ast.BoolOp, depth: int) -> Condition:
        word, join = ("and", Both) if isinstance(node.op, ast.And) else ("or", Either)
        why = f"{word!r} joins conditions"
        whole = self._condition(node.values[0], depth + 1, why)
        for value in node.values[1:]:
            other = self._condition(value, depth + 1, why)
            whole = self._joined(value, join, whole, other)
        return whole

    def _joined(
        self, node: ast.expr, join: type[Both | Either], left: Condition, right: Condition
    ) -> Condition:
        self._check_labels(node, left, right)
        return join(left, right)

    def _check_units(self, node: ast.expr, left: Number, right: Number, why: str) -> None:
        if reason := clash(left, right):
            raise self._error(node, f"the two sides of {self._source(node)} {why}: {reason}")

    def _check_labels(self, node: ast.expr, left: Node, right: Node) -> None:
        if reason := crossing(left, right):
            raise self._error(node, reason)

    # Functions.

    def _call(self, node: ast.Call, depth: int) -> Number | Condition:
        if not isinstance(node.func, ast.Name):
            raise self._error(node, f"{self._source(node.func)} cannot be called")
        name = node.func.id
        if name not in USAGE:
            hint = did_you_mean(name, [*USAGE, *CATALOG])
            raise self._error(node, f"unknown function {name!r}{hint}")
        if name in DETECTORS:
            return self._score(node, name, depth)
        if name == "quantile":
            return self._quantile(node, depth)
        if name == "steps_until":
            return self._forecast(node, depth)
        if name in STATISTICS:
            return self._statistic(node, name, depth)
        if name in TESTS:
            argument, _ = self._arguments(node, name)
            return TESTS[name](self._number(argument, depth + 1, f"{name} takes a number"))
        return self._of_signal(node, name, depth)

    def _arguments(
        self, node: ast.Call, name: str, known: Sequence[str] = (), required: int = 0
    ) -> tuple[ast.expr, dict[str, ast.expr]]:
        """The first argument, and by name what is given of the others that are known."""
        given: dict[str, ast.expr] = dict(zip(known, node.args[1:], strict=False))
        words = {str(word.arg): word.value for word in node.keywords}
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        many = len(node.args) - 1 > len(known)
        twice = len(words) < len(node.keywords) or bool(given.keys() & words)
        given |= words
        lacking = [key for key in known[:required] if key not in given]
        if starred or many or twice or lacking or not node.args or given.keys() - set(known):
            raise self._misused(node, name)
        return node.args[0], given

    def _statistic(self, node: ast.Call, name: str, depth: int) -> Statistic:
        argument, _ = self._arguments(node, name)
        window = self._window(node, name, argument, depth + 1)
        if name == "slope":
            self._has_two(node, window)
        return Statistic(STATISTICS[name], window)

    def _has_two(self, node: ast.Call, window: Window) -> None:
        if window.length < 2:
            raise self._error(node, f"{self._source(node)}: a slope takes at least two values")

    def _quantile(self, node: ast.Call, depth: int) -> Statistic:
        argument, given = self._arguments(node, "quantile", ("share",), required=1)
        window = self._window(node, "quantile", argument, depth + 1)
        return Statistic("quantile", window, self._given(node, "share", given["share"], _SHARE))

    def _forecast(self, node: ast.Call, depth: int) -> Forecast:
        argument, given = self._arguments(node, "steps_until", ("limit",), required=1)
        window = self._window(node, "steps_until", argument, depth + 1)
        self._has_two(node, window)
        limit = self._number(given["limit"], depth + 1, "a limit is a number")
        self._check_units(node, window.of, limit, "cannot be compared")
        self._check_labels(node, window.of, limit)
        return Forecast(window, limit)

    def _of_signal(
        self, node: ast.Call, name: str, depth: int
    ) -> Reading | RankOutlier | SecondsSince | Disagrees:
        known = ("tolerance",) if name == "disagrees" else ()
        argument, given = self._arguments(node, name, known)
        self._enter(argument, depth + 1)
        if not isinstance(argument, (ast.Name, ast.Subscript)):
            raise self._misused(node, name)
        if name == "seconds_since":
            return self._names.since(node, argument)
        reading = self._names.signal(argument, by_rank=True)
        if name == "by_rank":
            return reading
        if CATALOG[reading.signal].reduction is Reduction.ROOT_SUM:
            raise self._error(
                argument,
                f"{self._source(node)}: every rank tells the part of {reading.signal!r} that it "
                "holds, and no two of these need be alike",
            )
        if name == "rank_outlier":
            return RankOutlier(reading)
        tolerance = given.get("tolerance")
        return Disagrees(
            reading,
            self._given(node, "tolerance", tolerance, _TOLERANCE)
            if tolerance
            else _TOLERANCE.default,
        )

    def _score(self, node: ast.Call, name: str, depth: int) -> Score:
        known = DETECTORS[name].parameters
        argument, given = self._arguments(node, name, tuple(known))
        parameters = tuple(
            (key, self._given(node, key, given[key], one) if key in given else one.default)
            for key, one in known.items()
        )
        of = self._number(argument, depth + 1, f"{name} takes a number")
        self._names.check_steps(node, of)
        return Score(name, of, parameters)

    def _given(self, call: ast.Call, name: str, node: ast.expr, parameter: Parameter) -> float:
        """What a parameter is set to."""
        self._enter(node, 1)
        value = _value(node)
        kinds: tuple[type, ...] = (int,) if parameter.whole else (int, float)
        if type(value) in kinds and parameter.lowest <= value <= parameter.highest:  # type: ignore[operator]
            return value  # type: ignore[return-value]
        kind = "a whole number" if parameter.whole else "a number"
        raise self._error(
            node,
            f"the {name} of {self._source(call)} must be {kind} "
            f"from {parameter.lowest:g} to {parameter.highest:g}",
        )


def _value(node: ast.expr) -> object:
    """The literal that is written there, also with a minus; None if there is none."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        return -value if isinstance(value, (int, float)) else None
    return node.value if isinstance(node, ast.Constant) else None


def _kind(part: Number | Condition | Window) -> str:
    if isinstance(part, Window):
        return "a window"
    return "a condition" if isinstance(part, _CONDITIONS) else "a number"
