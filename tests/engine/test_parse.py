from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.expression import Reading, Score, Statistic, Window
from sentinel.engine.grammar import MAX_NODES
from sentinel.engine.parse import MAX_TEXT, parse
from sentinel.errors import RuleError


@pytest.mark.parametrize(
    ("text", "when", "axes"),
    [
        ("loss > 3", "step", ()),
        ("robust_z(loss, window=200) > 6 and loss > 1.15 * median(loss[200])", "step", ()),
        ("robust_z(loss, 64) > 6 or robust_z(grad_norm) > 6", "step", ()),
        ("layer_grad_norm > 3 * grad_norm", "step", ("layer",)),
        ("by_rank(layer_grad_norm) > 0", "step", ("layer", "rank")),
        ("by_rank(loss) > loss", "step", ("rank",)),
        ("by_rank(loss)[10] > 0", "step", ("rank",)),
        ("by_rank(nonfinite_update) > 0", "frame", ("rank",)),
        ("nonfinite(by_rank(loss)) and not missing(by_rank(lr))", "frame", ("rank",)),
        ("by_rank(silence) > 30 or by_rank(lost) > 0", "tick", ("rank",)),
        ("silence > 30", "tick", ()),
        ("0 < -(loss - mean(loss[5])) / std(loss[5]) <= 2 != 1e300", "step", ()),
    ],
)
def test_expressions_are_judged_when_due(text: str, when: str, axes: tuple[str, ...]) -> None:
    text = text.replace("by_rank(loss)[10] > 0", "max(by_rank(loss)[10]) > 0")
    expression = parse(text)
    assert (expression.when, expression.axes) == (when, axes)


def test_value_is_the_first_signal_and_score_the_left_of_the_first_comparison() -> None:
    expression = parse("lr > 0 and robust_z(loss) > 6")
    assert (expression.value, expression.score) == (Reading("lr"), Reading("lr"))
    expression = parse("6 < robust_z(loss) or nonfinite(lr)")
    assert (expression.value, expression.score) == (
        Reading("loss"),
        Score("robust_z", Reading("loss"), (("window", 200), ("floor", 0.0))),
    )
    expression = parse("nonfinite(by_rank(lr))")
    assert (expression.value, expression.score) == (Reading("lr", True), Reading("lr", True))


def test_equal_subexpressions_are_equal_however_they_are_written() -> None:
    one = parse("median( loss [ 200 ] )>1").score
    assert one == parse("lr > 2 and 1 < median(loss[200])\n").root.right.right  # type: ignore[union-attr]
    assert one == Statistic("median", Window(Reading("loss"), 200))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lss > 3", "column 1: unknown signal 'lss', did you mean 'loss'?"),
        ("loss > 3 and grad_nrom > 1", "column 14: unknown signal 'grad_nrom', did you mean"),
        ("medain(loss[5]) > 1", "column 1: unknown function 'medain', did you mean 'median'?"),
        ("foo(loss) > 1", "unknown function 'foo'"),
        ("loss >", "column 7: syntax error at the end: invalid syntax"),
        ("loss > 3)", "column 9: syntax error near ')'"),
        ("loss > 3 and and lr > 1", "column 14: syntax error near 'and lr > 1'"),
        ("", "the expression is empty"),
        ("   \n ", "the expression is empty"),
        ("loss", "needs a condition that is true or false, such as 'loss > 10', and 'loss' is a"),
        ("loss[200]", "'loss[200]' is a window"),
        ("loss[200] > 1", "'loss[200]' is a window: take mean, std"),
        ("1 > 0", "names no signal"),
        ("loss > 1 and lr", "column 14: 'and' joins conditions, and 'lr' is a number"),
        ("not loss", "'not' takes a condition, and 'loss' is a number"),
        ("(loss > 1) + 1 > 2", "column 2: '+' takes numbers, and 'loss > 1' is a condition"),
        ("(loss > 1) > 0", "a comparison takes numbers"),
        ("-(loss > 1) > 0", "'-' takes a number"),
        ("mean(loss) > 1", "mean takes a window, such as mean(loss[200])"),
        ("mean(loss[200], 3) > 1", "mean takes a window"),
        ("mean > 1", "mean is a function"),
        ("robust_z(loss[200]) > 1", "is a window"),
        ("robust_z(loss, windw=3) > 1", "robust_z takes a number and window, floor"),
        ("robust_z(loss, 200, 0.1, 3) > 1", "robust_z takes a number and window, floor"),
        ("robust_z(loss, 200, window=3) > 1", "robust_z takes a number and window, floor"),
        ("robust_z(loss, window=7) > 1", "from 8 to 10000"),
        ("robust_z(loss, window=lr) > 1", "from 8 to 10000"),
        ("robust_z(*loss) > 1", "robust_z takes a number and window, floor"),
        ("robust_z(loss, **lr) > 1", "robust_z takes a number and window, floor"),
        ("by_rank(loss + 1) > 1", "by_rank takes the name of one signal"),
        ("by_rank(x=loss) > 1", "by_rank takes the name of one signal"),
        ("by_rank() > 1", "by_rank takes the name of one signal"),
        ("nonfinite(loss > 1)", "nonfinite takes a number, and 'loss > 1' is a condition"),
        ("missing(loss[3])", "is a window"),
        ("mean(loss[0]) > 1", "from 1 to 10000"),
        ("mean(loss[10001]) > 1", "from 1 to 10000"),
        ("mean(loss[-1]) > 1", "from 1 to 10000"),
        ("mean(loss[True]) > 1", "from 1 to 10000"),
        ("mean(loss[1.5]) > 1", "from 1 to 10000"),
        ("mean(loss[lr]) > 1", "from 1 to 10000"),
        ("mean(loss[1:5]) > 1", "from 1 to 10000"),
        ("mean((loss > 1)[5]) > 1", "a window holds numbers"),
        ("loss ** 2 > 1", "an operator other than + - * /"),
        ("loss % 2 > 1", "an operator other than + - * /"),
        ("~loss > 1", "an operator that rules do not know"),
        ("+loss > 1", "an operator that rules do not know"),
        ("loss in lr", "compares by other than"),
        ("loss is lr", "compares by other than"),
        ("loss > 1 if lr > 1 else lr > 2", "is not part of the language of rules"),
        ("(lambda: loss)() > 1", "cannot be called"),
        ("loss.real > 1", "'loss.real' is not part of the language of rules"),
        ("().__class__ > 1", "is not part of the language of rules"),
        ("__import__('os') > 1", "unknown function '__import__'"),
        ("[loss] > 1", "is not part of the language of rules"),
        ("(loss := 1) > 1", "is not part of the language of rules"),
        ("loss > '3'", "\"'3'\" is a text: only labels are"),
        ("loss > True", "'True' is neither a number nor a signal"),
        ("loss > 1j", "'1j' is neither a number nor a signal"),
        ("loss > 1e999", "'1e999' is too large a number"),
        ("loss > 1" + "0" * 400, "is too large a number"),
        ("loss > 1 # much", "column 10: '#' is not part of the language"),
        ("l\u00f6ss > 1", "column 2: '\u00f6' is not part of the language"),
        ("loss > 1\0", "'\\x00' is not part of the language"),
        ("silence > 30 and loss > 1", "'silence' goes by the clock and 'loss' by steps"),
        ("mean(silence[5]) > 30", "'silence' goes by the clock and has no windows"),
        ("robust_z(by_rank(silence)) > 30", "'silence' goes by the clock and has no windows"),
        ("loss > " + "-" * 40 + "1", "nested deeper"),
        ("loss > " + "(" * 300 + "1" + ")" * 300, ": syntax error near '(("),
        (" or ".join(["loss > 1"] * (MAX_NODES // 2)), "has more than 200 parts"),
        ("loss > 1" + " " * MAX_TEXT, "exceeds 2000"),
    ],
)
def test_errors_quote_the_offending_piece(text: str, reason: str) -> None:
    with pytest.raises(RuleError) as raised:
        parse(text)
    assert reason in str(raised.value)


_WORDS = st.sampled_from(
    [
        *("loss", "lr", "by_rank(loss)", "layer_grad_norm", "silence", "3", "0.5", "nope"),
        *(" and ", " or ", "not ", " < ", " >= ", " == ", " + ", " / ", "-", "(", ")", "[5]", ","),
        *("mean(", "robust_z(", "nonfinite(", "missing(", "window=", "lambda", "'", "\n", "*"),
    ]
)


@given(st.one_of(st.text(max_size=50), st.lists(_WORDS, max_size=12).map("".join)))
def test_whatever_is_not_a_rule_is_a_rule_error(text: str) -> None:
    try:
        expression = parse(text)
    except RuleError:
        return
    assert expression.when in ("frame", "step", "tick")
