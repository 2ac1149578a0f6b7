"""Random expressions, well-typed, and how they are written."""

from __future__ import annotations

from hypothesis import strategies as st

from sentinel.engine.detectors import DETECTORS
from sentinel.engine.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Disagrees,
    Either,
    Forecast,
    Missing,
    Negative,
    NonFinite,
    Not,
    Number,
    RankOutlier,
    Reading,
    Score,
    SecondsSince,
    Statistic,
    StatisticName,
    Window,
)

PLAIN = ("loss", "lr")
LABELLED = "expert_imbalance"  # of a layer; every rank has its own, to be compared with others
LAYERS, RANKS = ("a", "b", "c"), ("0", "1", "2", "3", "4", "5")


def written(node: Number | Condition | Window) -> str:
    """The text of an expression, with parentheses wherever they may stand."""
    if isinstance(node, Constant):
        return repr(node.value)
    if isinstance(node, Reading):
        name = node.signal if node.label is None else f'{node.signal}["{node.label}"]'
        return f"by_rank({name})" if node.by_rank else name
    if isinstance(node, Window):
        return f"({written(node.of)})[{node.length}]"
    if isinstance(node, Statistic):
        share = "" if node.share is None else f", {node.share!r}"
        return f"{node.name}({written(node.window)}{share})"
    if isinstance(node, Score):
        given = "".join(f", {name}={value!r}" for name, value in node.parameters)
        return f"{node.detector}({written(node.of)}{given})"
    if isinstance(node, Forecast):
        return f"steps_until({written(node.window)}, {written(node.limit)})"
    if isinstance(node, (RankOutlier, Disagrees, SecondsSince)):
        names = {RankOutlier: "rank_outlier", Disagrees: "disagrees", SecondsSince: "seconds_since"}
        name = written(Reading(node.of.signal, label=node.of.label))
        tolerance = f", {node.tolerance!r}" if isinstance(node, Disagrees) else ""
        return f"{names[type(node)]}({name}{tolerance})"
    return _operation(node)


def _operation(
    node: Arithmetic | Negative | Comparison | NonFinite | Missing | Not | Both | Either,
) -> str:
    if isinstance(node, (Negative, Not)):
        return f"{'-' if isinstance(node, Negative) else 'not '}({written(node.of)})"
    if isinstance(node, (NonFinite, Missing)):
        return f"{type(node).__name__.lower()}({written(node.of)})"
    if isinstance(node, (Arithmetic, Comparison)):
        word: str = node.operator
    else:
        word = "and" if isinstance(node, Both) else "or"
    return f"({written(node.left)}) {word} ({written(node.right)})"


_constants = st.builds(Constant, st.integers(-12, 12).map(lambda n: n / 2))
_labels = st.sampled_from([None, None, None, "a", "c", "never"])
_readings = st.one_of(
    st.builds(Reading, st.sampled_from(PLAIN), st.booleans()),
    st.builds(Reading, st.just(LABELLED), st.booleans(), _labels),
)
_by_rank = st.one_of(
    st.builds(Reading, st.sampled_from(PLAIN), st.just(True)),
    st.builds(Reading, st.just(LABELLED), st.just(True), _labels),
)
_POWERS = st.sampled_from([1, 2, 4, 8])
_LENGTHS = st.sampled_from([1, 2, 3, 4, 5, 8, 40])
_ORDERED: st.SearchStrategy[StatisticName] = st.sampled_from(["median", "mad", "min", "max"])


def _statistics(
    names: st.SearchStrategy[StatisticName],
    of: st.SearchStrategy[Number],
    lengths: st.SearchStrategy[int],
) -> st.SearchStrategy[Number]:
    return st.builds(Statistic, names, st.builds(Window, of, lengths))


def _not_constant(number: Number) -> bool:
    return not isinstance(number, Constant)


def _grown_exactly(of: st.SearchStrategy[Number]) -> st.SearchStrategy[Number]:
    """What is a multiple of a small power of two if all of its parts are."""
    return st.one_of(
        st.builds(Arithmetic, st.sampled_from(["+", "-", "*"]), of, of),
        st.builds(Negative, of.filter(_not_constant)),
        _statistics(st.sampled_from(["mean"]), of, _POWERS),
        _statistics(_ORDERED, of, _POWERS),
        _statistics(st.sampled_from(["count"]), of, _LENGTHS),
    )


# Sums of these are the same in whichever order they are added up, so that numbers can be compared
# with no tolerance at all.
exact = st.recursive(st.one_of(_readings, _readings, _constants), _grown_exactly, max_leaves=3)


def _scores(of: st.SearchStrategy[Number]) -> st.SearchStrategy[Number]:
    shortest = {
        name: tuple(
            (key, int(one.lowest) if one.whole else one.default)
            for key, one in kind.parameters.items()
        )
        for name, kind in DETECTORS.items()
    }
    return st.builds(
        lambda name, number: Score(name, number, shortest[name]),
        st.sampled_from(sorted(DETECTORS)),
        of,
    )


def _grown(of: st.SearchStrategy[Number]) -> st.SearchStrategy[Number]:
    longer = st.sampled_from([2, 3, 4, 8])
    return st.one_of(
        st.builds(Arithmetic, st.sampled_from(["+", "-", "*"]), of, of),
        st.builds(Arithmetic, st.just("/"), of, of.filter(lambda one: one != Constant(0.0))),
        _statistics(_ORDERED, of, _LENGTHS),
        _statistics(st.sampled_from(["slope"]), of, longer),
        st.builds(
            Statistic,
            st.just("quantile"),
            st.builds(Window, of, _LENGTHS),
            st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.9, 1.0]),
        ),
        st.builds(Forecast, st.builds(Window, of, longer), of),
        _scores(of),
    )


numbers = st.recursive(
    st.one_of(
        exact,
        exact,
        _statistics(st.sampled_from(["mean"]), exact, _LENGTHS),
        _statistics(st.sampled_from(["std"]), _readings, _POWERS),
        st.builds(RankOutlier, _by_rank),
    ),
    _grown,
    max_leaves=4,
)
_comparisons = st.builds(
    Comparison, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers, numbers
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(
        _comparisons,
        _comparisons,
        st.builds(NonFinite, numbers),
        st.builds(Missing, numbers),
        st.builds(Disagrees, _by_rank, st.sampled_from([0.0, 1e-5, 0.5])),
    ),
    lambda of: st.one_of(st.builds(Not, of), st.builds(Both, of, of), st.builds(Either, of, of)),
    max_leaves=3,
)
