from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.engine.language.expression import (
    Arithmetic,
    Constant,
    Expression,
    Forecast,
    RankOutlier,
    Reading,
    Score,
    SecondsSince,
    Statistic,
    Window,
)
from sentinel.engine.language.grammar import MAX_NODES
from sentinel.engine.language.parse import MAX_TEXT, parse
from sentinel.engine.rulefile import load, resolve_pack
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


@pytest.mark.parametrize(
    ("text", "when", "axes", "first", "score"),
    [
        ('logged["val_loss"] > 3', "step", (), Reading("logged", label="val_loss"), None),
        (
            "by_rank(layer_grad_norm['a \"b\" #c']) > 3",
            "step",
            ("rank",),
            Reading("layer_grad_norm", True, 'a "b" #c'),
            None,
        ),
        (
            'mean(logged["größe 🙂"][20]) > 3',
            "step",
            (),
            Reading("logged", label="größe 🙂"),
            Statistic("mean", Window(Reading("logged", label="größe 🙂"), 20)),
        ),
        (
            "count(layer_grad_norm[5]) < 5",
            "step",
            ("layer",),
            Reading("layer_grad_norm"),
            Statistic("count", Window(Reading("layer_grad_norm"), 5)),
        ),
        (
            "quantile(loss[50], share=1) > 5",
            "step",
            (),
            Reading("loss"),
            Statistic("quantile", Window(Reading("loss"), 50), 1),
        ),
        (
            "steps_until(by_rank(loss)[50], 2 * lr) < 5",
            "step",
            ("rank",),
            Reading("loss", True),
            Forecast(
                Window(Reading("loss", True), 50), Arithmetic("*", Constant(2.0), Reading("lr"))
            ),
        ),
        (
            "rank_outlier(collective_seconds) > 6",
            "step",
            ("collective", "rank"),
            Reading("collective_seconds", True),
            RankOutlier(Reading("collective_seconds", True)),
        ),
        ("disagrees(grad_norm)", "step", ("rank",), Reading("grad_norm", True), None),
        ("disagrees(grad_norm, tolerance=0)", "step", ("rank",), Reading("grad_norm", True), None),
        ("rank_outlier(silence) > 6", "tick", ("rank",), Reading("silence", True), None),
        (
            'seconds_since(logged["val_loss"]) > 600',
            "tick",
            (),
            SecondsSince(Reading("logged", label="val_loss")),
            SecondsSince(Reading("logged", label="val_loss")),
        ),
        (
            "seconds_since(layer_grad_norm) > 60 or by_rank(silence) > 3",
            "tick",
            ("layer", "rank"),
            SecondsSince(Reading("layer_grad_norm")),
            None,
        ),
    ],
)
def test_functions_say_when_they_are_judged_and_of_what(
    text: str, when: str, axes: tuple[str, ...], first: Reading, score: object
) -> None:
    expression = parse(text)
    assert (expression.when, expression.axes, expression.value) == (when, axes, first)
    assert score is None or expression.score == score


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ('loss["a"] > 1', 1, "'loss' has no labels: it is one number at each step"),
        ("logged[val_loss] > 1", 1, 'a label is written in quotes: logged["val_loss"]'),
        ("logged.val_loss > 1", 1, 'a label is written in quotes: logged["val_loss"]'),
        ("by_rank(layer_grad_norm)['a'] > 1", 1, "as in by_rank(layer_grad_norm['a'])"),
        ("layer_grad_norm['a']['b'] > 1", 1, "a label stands right behind the name"),
        ("layer_grad_norm['a' 'b'] > 1", 17, "is no label: one text in quotes is"),
        ("layer_grad_norm['a' + 'b'] > 1", 17, "is no label"),
        ("layer_grad_norm[b'a'] > 1", 17, "is no label"),
        ("layer_grad_norm[f'{loss}'] > 1", 17, "is no label"),
        ("layer_grad_norm['''a'''] > 1", 17, "is no label"),
        ("layer_grad_norm[''] > 1", 17, "is no label"),
        ("layer_grad_norm['a\x00'] > 1", 19, "is not part of the language"),
        ("layer_grad_norm['a\\x61'] > 1", 19, "is not part of the language"),
        (
            "layer_grad_norm > 1 and expert_load > 1",
            25,
            "'expert_load' has a number for each expert and 'layer_grad_norm' for each layer, "
            'which do not meet: name the layer that is meant, as in layer_grad_norm["..."]',
        ),
        ("layer_grad_norm > expert_load", 1, "which do not meet"),
        ("missing(layer_grad_norm - mean(expert_load[5]))", 9, "which do not meet"),
        ("steps_until(layer_grad_norm[5], expert_load) > 1", 1, "which do not meet"),
        ("quantile(loss[5]) > 1", 1, "quantile takes a window and a share from 0 to 1"),
        ("quantile(loss[5], 1.5) > 1", 19, "the share of 'quantile(loss[5], 1.5)' must be a"),
        ("quantile(loss[5], -0.1) > 1", 19, "must be a number from 0 to 1"),
        ("quantile(loss[5], lr) > 1", 19, "must be a number from 0 to 1"),
        ("quantile(loss, 0.5) > 1", 1, "quantile takes a window"),
        ("count(loss) > 1", 1, "count takes a window, such as count(loss[200])"),
        ("slope(loss[1]) > 1", 1, "a slope takes at least two values"),
        ("steps_until(loss[5]) > 1", 1, "steps_until takes a window and a number"),
        ("steps_until(loss, 5) > 1", 1, "steps_until takes a window and a number"),
        ("steps_until(loss[1], 5) > 1", 1, "a slope takes at least two values"),
        ("steps_until(loss[5], loss > 1) > 1", 22, "a limit is a number, and 'loss > 1' is a con"),
        ("rank_outlier(by_rank(loss)) > 1", 1, "rank_outlier takes the name of one signal"),
        ("rank_outlier(loss - lr) > 1", 1, "rank_outlier takes the name of one signal"),
        ("rank_outlier(layer_grad_norm) > 1", 14, "every rank tells the part of 'layer_grad_n"),
        ("rank_outlier(loss[5]) > 1", 19, "'5' is no label"),
        ("disagrees(loss) > 1", 1, "a comparison takes numbers, and 'disagrees(loss)' is a cond"),
        ("disagrees(loss, 2)", 17, "the tolerance of 'disagrees(loss, 2)' must be a number from"),
        ("disagrees(loss, tolerance=lr)", 27, "must be a number from 0 to 1"),
        ("disagrees(loss, 0.1, 0.2)", 1, "disagrees takes the name of one signal"),
        ("disagrees(loss, tolerance=0, tolerance=1)", 1, "disagrees takes the name of one"),
        ("seconds_since(loss - lr) > 1", 1, "seconds_since takes the name of one signal"),
        ("seconds_since(silence) > 1", 15, "'silence' is known at every moment"),
        ("seconds_since(loss) > 1 and lr > 0", 29, "'seconds_since' goes by the clock and 'lr'"),
        ("mean(seconds_since(loss)[5]) > 1", 6, "'seconds_since' goes by the clock and has no"),
        ("lost > 0 and robust_z(silence) > 1", 14, "'lost' goes by the clock and has no windows"),
        ("l\u043ess > 1", 2, "is not part of the language of rules: it is CYRILLIC SMALL LETTER O"),
        ("loss \u2265 1", 6, "it is GREATER-THAN OR EQUAL TO"),
        ("loss > 1 \\\n and lr > 0", 10, "is not part of the language"),
        ("\n  lss\n > 1", 4, "unknown signal 'lss'"),
        ("loss >\n\n", 7, "syntax error at the end"),
        ("mean(loss[10000]) > 1" + " or max(lr[10000]) > 1" * 60, 879, "more than 200 parts"),
        (
            " or ".join(f"max(loss[{10000 - n}]) > 1" for n in range(6)),
            1,
            "the windows hold 59985 values together, more than 50000: make them shorter",
        ),
        ("loss > 1\N{NO-BREAK SPACE}", 9, "is not part of the language"),
        ("loss > \uff11", 8, "it is FULLWIDTH DIGIT ONE"),
        ("[x for x in loss] > 1", 1, "is not part of the language"),
        ("f'{loss}' > 1", 1, "is not part of the language"),
        ("b'a' > 1", 1, "is neither a number nor a signal"),
        ("... > loss", 1, "is neither a number nor a signal"),
        ("None > loss", 1, "is neither a number nor a signal"),
        ("mean(*loss[5]) > 1", 1, "mean takes a window"),
        ("mean(loss[5], **lr) > 1", 1, "mean takes a window"),
        ("loss if lr > 1 else 2 > 1", 1, "is not part of the language"),
        ("loss == nan", 9, "unknown signal 'nan': nonfinite(x) asks for NaN and infinities"),
        ("(loss > 1) & (lr > 1)", 1, "and comparisons: conditions are joined by 'and'"),
        ("loss ** 2 > 1", 1, "and comparisons: a square is x * x"),
        ("yield", 1, "syntax error"),
        ("loss > 1; lr > 2", 9, "syntax error near '; lr > 2'"),
        ("loss = 1", 6, "syntax error"),
        ("loss.__class__ > 1", 1, "'loss.__class__' is not part of the language"),
        ("loss.__getattribute__('x') > 1", 1, "cannot be called"),
        ("mean.__globals__ > 1", 1, "is not part of the language"),
        ("loss > 1_0" + "0" * 1000, 8, "too large a number"),
        ("loss > " + "9" * 1900, 8, "too large a number"),
    ],
)
def test_errors_say_at_which_column(text: str, column: int, reason: str) -> None:
    with pytest.raises(RuleError) as raised:
        parse(text)
    assert reason in raised.value.reason
    assert (raised.value.column, raised.value.file) == (column, None)


_WORDS = st.sampled_from(
    [
        *("loss", "lr", "by_rank(loss)", "layer_grad_norm", "silence", "3", "0.5", "nope"),
        *(" and ", " or ", "not ", " < ", " >= ", " == ", " + ", " / ", "-", "(", ")", "[5]", ","),
        *("mean(", "robust_z(", "nonfinite(", "missing(", "window=", "lambda", "'", "\n", "*"),
        *("quantile(", "steps_until(", "rank_outlier(", "disagrees(", "seconds_since(", "logged"),
        *(
            '["a"]',
            "[",
            "]",
            '"',
            ":=",
            "f'{",
            "if",
            "else",
            "1e999",
            "1j",
            "\\",
            "#",
            "é",
            ".real",
        ),
    ]
)
_VALID = st.sampled_from(
    [rule.expression.text for rule in load(resolve_pack("default"))]
    + ['seconds_since(logged["val_loss"]) > 60', "disagrees(grad_norm, tolerance=1e-5)"]
)


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """A rule that is right, but for a piece that is cut, doubled or replaced."""
    text = draw(_VALID)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 12)))
    inside = draw(st.one_of(st.just(""), _WORDS, st.just(text[start:end] * 2), st.text(max_size=3)))
    return text[:start] + inside + text[end:]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=50), st.lists(_WORDS, max_size=12).map("".join), _mutated()))
def test_whatever_is_not_a_rule_is_a_rule_error(text: str) -> None:
    expression: Expression | None
    try:
        expression = parse(text)
    except RuleError as error:
        expression, column = None, error.column or 1
    if expression is None:
        assert 1 <= column <= len(text) + 1
        return
    assert expression.when in ("frame", "step", "tick")
