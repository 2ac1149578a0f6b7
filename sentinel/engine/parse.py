"""Parse and check a rule's expression: a small language in Python's own syntax.

Every error is a `RuleError` that quotes the offending piece and its column, counted from 1. Only
a handful of `ast` nodes are known here; whatever else Python can say is refused.
"""

from __future__ import annotations

import ast
import math
from typing import get_args

from sentinel.engine.detectors import DETECTORS, Detector
from sentinel.engine.detectors.parameter import Parameter
from sentinel.engine.expression import (
    MAX_WINDOW,
    Arithmetic,
    ArithmeticOperator,
    Both,
    Comparison,
    ComparisonOperator,
    Condition,
    Constant,
    Either,
    Expression,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    Reading,
    Score,
    Statistic,
    StatisticName,
    Window,
)
from sentinel.errors import RuleError
from sentinel.signals import CATALOG, did_you_mean

MAX_TEXT = 2000  # characters
MAX_NODES = 200
MAX_DEPTH = 30

_STATISTICS: dict[str, StatisticName] = {
    name: name for name in get_args(StatisticName) if name not in ("count", "quantile")
}
_TESTS: dict[str, type[NonFinite | Missing]] = {"nonfinite": NonFinite, "missing": Missing}
_FUNCTIONS = (*_STATISTICS, *DETECTORS, *_TESTS, "by_rank")
_ARITHMETIC: dict[type[ast.operator], ArithmeticOperator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_COMPARISONS: dict[type[ast.cmpop], ComparisonOperator] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_CONDITIONS = (Comparison, NonFinite, Missing, Not, Both, Either)


def parse(text: str) -> Expression:
    """The expression that `text` means. Raises `RuleError`."""
    if len(text) > MAX_TEXT:
        raise RuleError(f"expression of {len(text)} characters exceeds {MAX_TEXT}")
    parser = _Parser(text)
    root = parser.whole()
    first = parser.readings[0] if parser.readings else None
    if first is None:
        raise RuleError(f"{_quote(text)} names no signal")
    expression = Expression(text.strip(), root, first, parser.score or first)
    _check_clock(expression, parser.readings)
    return expression


def _check_clock(expression: Expression, read: list[Reading]) -> None:
    """Signals that the engine makes move with the clock, all others with the steps."""
    if expression.when != "tick":
        return
    timed = next(r.signal for r in read if CATALOG[r.signal].made_by == "engine")
    stepped = [r.signal for r in read if CATALOG[r.signal].made_by != "engine"]
    if stepped:
        raise RuleError(
            f"{timed!r} goes by the clock and {stepped[0]!r} by steps: "
            "one expression cannot join them, use two rules"
        )
    if expression.has_state:
        raise RuleError(f"{timed!r} goes by the clock and has no windows of steps")


class _Parser:
    """One pass over the syntax tree, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = " ".join(text.splitlines()).strip()
        self._nodes = 0
        self.readings: list[Reading] = []  # in the order in which they are named
        self.score: Number | None = None

    def whole(self) -> Condition:
        """The root of the tree."""
        if strange := next((c for c in self._text if c == "#" or not " " <= c <= "~"), None):
            column = self._text.index(strange) + 1
            raise RuleError(f"column {column}: {strange!r} is not part of the language of rules")
        try:
            tree = ast.parse(self._text, mode="eval")
        except SyntaxError as error:
            raise self._syntax_error(error) from None
        except (ValueError, RecursionError, MemoryError):
            raise RuleError(f"{_quote(self._text)} cannot be parsed") from None
        return self._condition(
            tree.body, 0, "a rule needs a condition that is true or false, such as 'loss > 10'"
        )

    def _syntax_error(self, error: SyntaxError) -> RuleError:
        if not self._text:
            return RuleError("the expression is empty")
        column = error.offset or len(self._text) + 1  # Python tells no place for the end
        rest = self._text[column - 1 :].strip()
        near = f" near {_quote(rest)}" if rest else ", the end"
        return RuleError(f"syntax error at column {column}{near}: {error.msg}")

    def _error(self, node: ast.expr, reason: str) -> RuleError:
        return RuleError(f"column {node.col_offset + 1}: {reason}")

    def _enter(self, node: ast.expr, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise RuleError(f"the expression has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise self._error(node, f"the expression is nested deeper than {MAX_DEPTH}")

    # The two kinds that an expression is made of, each asked for by name.

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
                f"{self._source(node)} is a window: take {', '.join(_STATISTICS)} of it, "
                f"such as median({_plain(self._source(node))})",
            )
        if isinstance(part, _CONDITIONS):
            raise self._error(node, f"{why}, and {self._source(node)} is {_kind(part)}")
        return part

    def _part(self, node: ast.expr, depth: int) -> Number | Condition | Window:
        self._enter(node, depth)
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            return self._reading(node, by_rank=False)
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, depth)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node, depth)
        if isinstance(node, ast.Compare):
            return self._comparison(node, depth)
        if isinstance(node, ast.BoolOp):
            return self._logic(node, depth)
        if isinstance(node, ast.Subscript):
            return self._window(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        raise self._error(
            node,
            f"{self._source(node)} is not part of the language of rules: it knows signals, "
            "windows such as loss[200], + - * /, comparisons, and, or, not, "
            f"and the functions {', '.join(_FUNCTIONS)}",
        )

    def _constant(self, node: ast.Constant) -> Constant:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            raise self._error(node, f"{self._source(node)} is neither a number nor a signal")
        try:
            value = float(node.value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise self._error(node, f"{self._source(node)} is too large a number")
        return Constant(value)

    def _reading(self, node: ast.Name, *, by_rank: bool) -> Reading:
        if node.id in _FUNCTIONS:
            raise self._error(node, f"{node.id} is a function: {_USAGE[node.id]}")
        if node.id not in CATALOG:
            hint = did_you_mean(node.id, [*CATALOG, *_FUNCTIONS])
            raise self._error(node, f"unknown signal {node.id!r}{hint}")
        reading = Reading(node.id, by_rank)
        self.readings.append(reading)
        return reading

    def _arithmetic(self, node: ast.BinOp, depth: int) -> Arithmetic:
        operator = _ARITHMETIC.get(type(node.op))
        if operator is None:
            raise self._error(
                node, f"{self._source(node)} uses an operator other than + - * / and comparisons"
            )
        why = f"{operator!r} takes numbers"
        left = self._number(node.left, depth + 1, why)
        return Arithmetic(operator, left, self._number(node.right, depth + 1, why))

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
            if self.score is None:
                self.score = right if isinstance(left, Constant) else left
            link = Comparison(operator, left, right)
            chain = Both(chain, link) if chain else link
            left = right
        assert chain is not None  # Python's grammar: a comparison compares something
        return chain

    def _logic(self, node: ast.BoolOp, depth: int) -> Condition:
        word, join = ("and", Both) if isinstance(node.op, ast.And) else ("or", Either)
        why = f"{word!r} joins conditions"
        whole = self._condition(node.values[0], depth + 1, why)
        for value in node.values[1:]:
            whole = join(whole, self._condition(value, depth + 1, why))
        return whole

    def _window(self, node: ast.Subscript, depth: int) -> Window:
        length = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if type(length) is not int or not 1 <= length <= MAX_WINDOW:
            raise self._error(
                node,
                f"the window of {self._source(node)} must be a whole number of steps "
                f"from 1 to {MAX_WINDOW}",
            )
        return Window(self._number(node.value, depth + 1, "a window holds numbers"), length)

    def _call(self, node: ast.Call, depth: int) -> Number | Condition:
        if not isinstance(node.func, ast.Name):
            raise self._error(node, f"{self._source(node.func)} cannot be called")
        name = node.func.id
        if name not in _FUNCTIONS:
            hint = did_you_mean(name, [*_FUNCTIONS, *CATALOG])
            raise self._error(node, f"unknown function {name!r}{hint}")
        if name in DETECTORS:
            return self._score(node, name, depth)
        if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            raise self._error(node, f"{self._source(node)}: {_USAGE[name]}")
        return self._function(node, name, node.args[0], depth)

    def _function(
        self, node: ast.Call, name: str, argument: ast.expr, depth: int
    ) -> Number | Condition:
        if name == "by_rank":
            self._enter(argument, depth + 1)
            if not isinstance(argument, ast.Name):
                raise self._error(argument, f"{self._source(node)}: {_USAGE[name]}")
            return self._reading(argument, by_rank=True)
        if name in _TESTS:
            return _TESTS[name](self._number(argument, depth + 1, f"{name} takes a number"))
        of = self._part(argument, depth + 1)
        if not isinstance(of, Window):
            raise self._error(argument, f"{self._source(node)}: {_USAGE[name]}")
        return Statistic(_STATISTICS[name], of)

    def _score(self, node: ast.Call, name: str, depth: int) -> Score:
        known = DETECTORS[name].parameters
        given = dict(zip(known, node.args[1:], strict=False))
        keywords = {str(word.arg): word.value for word in node.keywords}
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        many = len(node.args) - 1 > len(known)
        if starred or many or not node.args or given.keys() & keywords or keywords.keys() - known:
            raise self._error(node, f"{self._source(node)}: {_USAGE[name]}")
        given |= keywords
        parameters = tuple(
            (key, self._parameter(node, key, one, given[key]) if key in given else one.default)
            for key, one in known.items()
        )
        return Score(
            name, self._number(node.args[0], depth + 1, f"{name} takes a number"), parameters
        )

    def _parameter(self, call: ast.Call, name: str, parameter: Parameter, node: ast.expr) -> float:
        self._enter(node, 1)
        value = node.value if isinstance(node, ast.Constant) else None
        kinds: tuple[type, ...] = (int,) if parameter.whole else (int, float)
        if type(value) in kinds and parameter.lowest <= value <= parameter.highest:  # type: ignore[operator]
            return value  # type: ignore[return-value]
        kind = "a whole number" if parameter.whole else "a number"
        raise self._error(
            call,
            f"the {name} of {self._source(call)} must be {kind} "
            f"from {parameter.lowest:g} to {parameter.highest:g}",
        )

    def _source(self, node: ast.expr) -> str:
        return _quote(self._text[node.col_offset : node.end_col_offset])


def _example(kind: type[Detector]) -> str:
    name, parameter = next(iter(kind.parameters.items()))
    return f"{name}={parameter.default:g}"


_USAGE = {
    **{name: f"{name} takes a window, such as {name}(loss[200])" for name in _STATISTICS},
    **{
        name: f"{name} takes a number and {', '.join(kind.parameters)}, "
        f"such as {name}(loss, {_example(kind)})"
        for name, kind in DETECTORS.items()
    },
    "nonfinite": "nonfinite takes one number, such as nonfinite(loss)",
    "missing": "missing takes one number, such as missing(loss)",
    "by_rank": "by_rank takes the name of one signal, such as by_rank(loss)",
}


def _kind(part: Number | Condition | Window) -> str:
    if isinstance(part, Window):
        return "a window"
    return "a condition" if isinstance(part, _CONDITIONS) else "a number"


def _quote(piece: str) -> str:
    piece = " ".join(piece.split())
    return repr(piece if len(piece) <= 60 else piece[:57] + "...")


def _plain(quoted: str) -> str:
    return quoted[1:-1]
