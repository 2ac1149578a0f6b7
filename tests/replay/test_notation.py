from __future__ import annotations

import contextlib
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import RuleError
from sentinel.replay.rule_test.notation import MAX_STEPS, NamedSeries, Value, series, values
from sentinel.wire import Series

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.5", [2.5]),
        ("1+0.5x3", [1, 1.5, 2, 2.5]),
        ("1-2x2", [1, -1, -3]),
        ("-2+4x3", [-2, 2, 6, 10]),
        ("7x0 8x2", [7, 8, 8, 8]),
        ("1 _ _x2 2", [1, None, None, None, 2]),
        ("_x0 1", [1]),
        ("Inf -Inf +Infx1", [INF, -INF, INF, INF]),
        ("  1e3\n .5  +1 ", [1000, 0.5, 1]),
        ("noise(3, 0)x1", [3, 3]),
        ("noise( 3-1 , 0 )x2", [3, 2, 1]),
    ],
)
def test_series_are_written_as_for_promtool(text: str, expected: list[Value]) -> None:
    assert values(text) == expected


def test_nan_is_a_value_like_others() -> None:
    found = values("1 NaN NaNx1")
    assert [math.isnan(one) for one in found if one is not None] == [False, True, True, True]


def test_noise_is_the_same_every_time_and_other_noise_elsewhere() -> None:
    noise = [one for one in values("noise(3, 0.5)x3999", "seed") if one is not None]
    assert noise == values("noise(3, 0.5)x3999", "seed")
    assert noise != values("noise(3, 0.5)x3999", "another")
    assert values("noise(3, 0.5)x9 noise(3, 0.5)x9")[:10] != values("noise(3, 0.5)x9 1")[10:]
    assert statistics.fmean(noise) == pytest.approx(3, abs=0.05)
    assert statistics.stdev(noise) == pytest.approx(0.5, abs=0.05)
    assert noise[0] == pytest.approx(3.35239545)  # on every machine, and in years


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no values"),
        ("2.5 2.5y40", "column 5: '2.5y40' is no value"),
        ("1+2", "does not say how often: expected 1+2x40"),
        ("x40", "no value"),
        ("nan", "no value"),
        ("1x-3", "no value"),
        ("1x99999", f"at most {MAX_STEPS}"),
        ("1x" + "9" * 5000, "no value"),
        ("_x15000 _x15000", f"column 9: a series has at most {MAX_STEPS}"),
        ("1e999", "too large a number"),
        ("noise(1)x3", "no value"),
        ("noise(1, -1)x3", "no value"),
        ("stale", "no value"),
        ("\u0661x3", "no value"),
        ("1 " * 15_000, "exceed"),
    ],
)
def test_what_is_no_value_is_said_with_its_column(text: str, said: str) -> None:
    with pytest.raises(RuleError) as raised:
        values(text)
    assert said in str(raised.value)


@given(st.text("0123456789.+-x_ eNaInfoise(),", max_size=30))
def test_no_text_breaks_the_notation(text: str) -> None:
    with contextlib.suppress(RuleError):
        assert 0 < len(values(text)) <= MAX_STEPS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss", NamedSeries(Series("loss"), None)),
        (' loss{ rank = "3" } ', NamedSeries(Series("loss"), 3)),
        ("loss{}", NamedSeries(Series("loss"), None)),
        ('logged{name="val_loss"}', NamedSeries(Series("logged", "val_loss"), None)),
        (
            'layer_grad_norm{layer="h.3",rank="1",}',
            NamedSeries(Series("layer_grad_norm", "h.3"), 1),
        ),
    ],
)
def test_a_series_is_named_with_its_labels(text: str, expected: NamedSeries) -> None:
    assert series(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("los", "did you mean 'loss'"),
        ("", "no series"),
        ("loss{rank=1}", "labels are written"),
        ('loss{layer="h"}', "has no label 'layer': it may carry rank"),
        ('layer_grad_norm{rank="1"}', 'expected layer_grad_norm{layer="..."}'),
        ("layer_grad_norm", 'expected layer_grad_norm{layer="..."}'),
        ('loss{rank="-1"}', "no rank"),
        ('loss{rank="1", rank="2"}', "labels are written"),
        ("loss[5]", "no series"),
    ],
)
def test_what_is_no_series_is_said(text: str, said: str) -> None:
    with pytest.raises(RuleError) as raised:
        series(text)
    assert said in str(raised.value)
