"""From Python's syntax tree to the tree of a rule's expression, checked on the way."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence

from sentinel.engine.detectors import DETECTORS
from sentinel.engine.detectors.parameter import Parameter
from sentinel.engine.expression import (
    MAX_WINDOW,
    RANK_AXIS,
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
    axes_of,
    is_clocked,
    readings,
    walk,
)
from sentinel.engine.functions import STATISTICS, TESTS, USAGE
from sentinel.engine.units import clash
from sentinel.errors import RuleError
from sentinel.signals import CATALOG, Reduction, did_you_mean

MAX_NODES = 200
MAX_DEPTH = 30

_LITERAL = re.compile(r"\"[^\"]+\"|'[^']+'")  # no prefix, and no two texts in a row
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
_CONDITIONS = (Comparison, NonFinite, Missing, Disagrees, Not, Both, Either)
_SHARE = Parameter(0.5, 0.0, 1.0, "how much of the window lies below")
_TOLERANCE = Parameter(1e-5, 0.0, 1.0, "what the order of a sum can do, relative to it")


class Grammar:
    """One pass over the syntax tree of `line`, from left to right.

    `first` is the first signal that is named, or the first time since one was measured; `score`
    the left side of the first comparison that is no constant.
    """

    def __init__(self, line: str) -> None:
        self._bytes = line.lstrip().encode()  # Python counts columns in bytes
        self.start = len(line) - len(line.lstrip()) + 1
        self._nodes = 0
        self.first: Reading | SecondsSince | None = None
        self.score: Number | None = None
        self._by_clock: list[tuple[str, ast.expr]] = []
        self._by_step: list[tuple[str, ast.expr]] = []

    def whole(self, tree: ast.expr) -> Condition:
        """The root of the tree."""
        why = "a rule needs a condition that is true or false, such as 'loss > 10'"
        return self._condition(tree, 0, why)

    def check_clock(self) -> None:
        """What the engine knows by itself moves with the clock, all else with the steps."""
        if self._by_clock and self._by_step:
            (timed, _), (stepped, place) = self._by_clock[0], self._by_step[0]
            raise self._error(
                place,
                f"{timed!r} goes by the clock and {stepped!r} by steps: "
                "one expression cannot join them, use two rules",
            )

    def _error(self, node: ast.expr, reason: str) -> RuleError:
        before = self._bytes[: node.col_offset].decode()
        return RuleError(reason, column=self.start + len(before))

    def _misused(self, node: ast.expr, name: str) -> RuleError:
        return self._error(node, f"{self._source(node)}: {USAGE[name]}")

    def _source(self, node: ast.expr) -> str:
        return quoted(self._bytes[node.col_offset : node.end_col_offset].decode())

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
            return self._named(node)
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
            f"and the functions {', '.join(USAGE)}",
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

    # Signals.

    def _named(self, node: ast.expr, *, by_rank: bool = False) -> Reading:
        """A signal, with or without one of its labels, as a step's number."""
        reading = self._reading(node, by_rank=by_rank)
        self.first = self.first or reading
        (self._by_clock if is_clocked(reading) else self._by_step).append((reading.signal, node))
        return reading

    def _reading(self, node: ast.expr, *, by_rank: bool) -> Reading:
        label = None
        if isinstance(node, ast.Subscript):
            label, node = self._label(node), node.value
        if not isinstance(node, ast.Name):
            raise self._error(node, f"{self._source(node)} is not the name of a signal")
        name = node.id
        if name in USAGE:
            raise self._error(node, f"{name} is a function: {USAGE[name]}")
        if name not in CATALOG:
            hint = did_you_mean(name, [*CATALOG, *USAGE])
            raise self._error(node, f"unknown signal {name!r}{hint}")
        if label is not None and not CATALOG[name].label:
            raise self._error(node, f"{name!r} has no labels: it is one number at each step")
        return Reading(name, by_rank, label)

    def _label(self, node: ast.Subscript) -> str:
        source = self._bytes[node.slice.col_offset : node.slice.end_col_offset].decode()
        if not _LITERAL.fullmatch(source):
            raise self._error(
                node.slice,
                f"{quoted(source)} is no label: one text in quotes is, with no letters before them",
            )
        return source[1:-1]

    def _subscript(self, node: ast.Subscript, depth: int) -> Window | Reading:
        length = node.slice.value if isinstance(node.slice, ast.Constant) else node.slice
        if isinstance(length, (str, bytes, ast.JoinedStr, ast.BinOp)) and isinstance(
            node.value, ast.Name
        ):
            return self._named(node)
        if isinstance(length, str):
            raise self._error(
                node,
                f"{self._source(node)}: a label stands right behind the name of its signal, "
                f"as in by_rank(layer_grad_norm[{self._source(node.slice)[1:-1]}])",
            )
        if type(length) is not int or not 1 <= length <= MAX_WINDOW:
            raise self._error(
                node,
                f"the window of {self._source(node)} must be a whole number of values "
                f"from 1 to {MAX_WINDOW}{self._label_hint(node)}",
            )
        of = self._number(node.value, depth + 1, "a window holds numbers")
        self._has_steps(node, of)
        return Window(of, length)

    def _label_hint(self, node: ast.Subscript) -> str:
        label = isinstance(node.value, ast.Name) and CATALOG.get(node.value.id)
        if not label or not label.label or isinstance(node.slice, (ast.Constant, ast.UnaryOp)):
            return ""
        source = self._bytes[node.slice.col_offset : node.slice.end_col_offset].decode()
        return f'; a label is written in quotes: {label.name}["{source}"]'

    def _has_steps(self, node: ast.expr, of: Number) -> None:
        """What moves with the clock has no windows of steps."""
        if any(is_clocked(part) for part in walk(of)):
            name = next(name for name, _ in self._by_clock)
            raise self._error(node, f"{name!r} goes by the clock and has no windows of steps")

    # Operators.

    def _arithmetic(self, node: ast.BinOp, depth: int) -> Arithmetic:
        operator = _ARITHMETIC.get(type(node.op))
        if operator is None:
            raise self._error(
                node, f"{self._source(node)} uses an operator other than + - * / and comparisons"
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
        """Elements meet by one label and the rank: of two labels, no element has both."""
        labels = {axis: part for part in (right, left) for axis in axes_of(part)}
        labels.pop(RANK_AXIS, None)
        if len(labels) > 1:
            (one, here), (other, there) = sorted(labels.items())[:2]
            names = [
                next(r.signal for r in readings(part) if CATALOG[r.signal].label == axis)
                for axis, part in ((one, here), (other, there))
            ]
            raise self._error(
                node,
                f"{names[0]!r} has a number for each {one} and {names[1]!r} for each {other}, "
                f'which do not meet: name the {other} that is meant, as in {names[1]}["..."], '
                "or use two rules",
            )

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
            return self._since(node, argument)
        reading = self._named(argument, by_rank=True)
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

    def _since(self, node: ast.Call, argument: ast.expr) -> SecondsSince:
        reading = self._reading(argument, by_rank=False)
        if is_clocked(reading):
            raise self._error(
                argument, f"{self._source(node)}: {reading.signal!r} is known at every moment"
            )
        since = SecondsSince(reading)
        self.first = self.first or since
        self._by_clock.append(("seconds_since", node))
        return since

    def _score(self, node: ast.Call, name: str, depth: int) -> Score:
        known = DETECTORS[name].parameters
        argument, given = self._arguments(node, name, tuple(known))
        parameters = tuple(
            (key, self._given(node, key, given[key], one) if key in given else one.default)
            for key, one in known.items()
        )
        of = self._number(argument, depth + 1, f"{name} takes a number")
        self._has_steps(node, of)
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


def quoted(piece: str) -> str:
    """A piece of text in quotes, not too long to be read."""
    piece = " ".join(piece.split())
    return repr(piece if len(piece) <= 60 else piece[:57] + "...")
