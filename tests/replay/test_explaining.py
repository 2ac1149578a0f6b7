"""An explanation says what every part of a rule was at a step, as the engine judged it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.engine.event import Began
from sentinel.engine.explanation import Part
from sentinel.engine.rule import Rule
from sentinel.errors import ReplayError
from sentinel.replay.explaining import Explained, explain_run
from sentinel.replay.messages import Moment, Replay, begins_to_fire
from sentinel.wire import Coverage, Goodbye
from tests.engine.world import Measured, frame, hello, rule, seconds, steps

NAN = math.nan
NAMES = ["loss", "grad_norm", "layer_grad_norm/h.0", "layer_grad_norm/h.1"]


def _told(
    measured: Sequence[Measured], own: Mapping[int, Sequence[Measured]] | None = None
) -> Iterator[Moment]:
    """A rank for each of `own`, or one; step n is at second n."""
    ranks = own or {0: measured}
    for rank in ranks:
        yield Moment(0.0, rank, hello(rank, len(ranks), NAMES))
    for step in range(1, max(map(len, ranks.values())) + 1):
        for rank, values in ranks.items():
            if step <= len(values):
                yield Moment(float(step), rank, frame(step, step, NAMES, values[step - 1]))


def _losses(*values: float) -> list[Measured]:
    return [{"loss": value} for value in values]


def _explain(
    one: Rule, told: Iterator[Moment], step: int, labels: Mapping[str, str] | None = None
) -> Explained:
    return explain_run("run", told, one, step, labels=labels or {})


def _parts(part: Part) -> Iterator[Part]:
    yield part
    for below in part.parts:
        yield from _parts(below)


def _values(explained: Explained) -> dict[str, tuple[float | bool | None, ...]]:
    return {part.text: part.values for part in _parts(explained.explanation.whole)}


def test_every_part_has_its_value() -> None:
    told = _told(_losses(*[2.0] * 39, 3.0))
    found = _explain(rule("loss > 1.2 * median(loss[32]) and loss < 2 + 1 * 5"), told, 40)
    assert _values(found) == {
        "loss > 1.2 * median(loss[32]) and loss < 2 + 1 * 5": (True,),
        "loss > 1.2 * median(loss[32])": (True,),
        "loss": (3.0,),
        "1.2 * median(loss[32])": (2.4,),
        "median(loss[32])": (2.0,),
        "loss[32]": (32.0,),
        "loss < 2 + 1 * 5": (True,),
    }
    assert [alert.state for alert in found.explanation.alerts] == ["firing"]


@pytest.mark.parametrize(
    ("step", "state", "detail"),
    [
        (3, "inactive", "does not hold"),
        (4, "pending", "1 of 3 steps"),
        (5, "pending", "2 of 3 steps"),
        (6, "firing", "since this step, its condition since step 4"),
        (7, "firing", "since step 6"),
        (8, "firing", "gone for 1 of 2 steps"),
        (10, "inactive", "does not hold"),
        (11, "inactive", "could not be judged"),
    ],
)
def test_the_alert_is_as_it_stood_after_the_step(step: int, state: str, detail: str) -> None:
    one = rule("loss > 3", holds=steps(3), keeps=steps(2))
    measured = [*_losses(2, 2, 2, 5, 5, 5, 5, 2, 2, 2), {}]
    (alert,) = _explain(one, _told(measured), step).explanation.alerts
    assert alert.state == state
    assert detail in alert.detail


def test_what_is_missing_is_said_and_why() -> None:
    told = _told(_losses(*[2.0] * 10))
    one = rule("robust_z(loss, window=50) > 6 and loss > median(loss[50]) and grad_norm > 1")
    found = _explain(one, told, 5)
    reasons = [why for part in _parts(found.explanation.whole) for why in part.why]
    assert reasons == [
        "robust_z(loss, window=50) has not seen enough values yet",
        "median(loss[50]) needs 32 values in its window, which holds 4",
        "grad_norm was not measured",
    ]
    assert found.explanation.missing == 1


@pytest.mark.parametrize(
    ("expr", "why"),
    [
        (
            "steps_until(loss[40], 5) < 10",
            "steps_until(loss[40], 5) needs 32 values in its window, which holds 1",
        ),
        (
            "rank_outlier(loss) > 5",
            "rank_outlier(loss) has too few ranks with a finite value to compare for rank 0",
        ),
        ('logged["a"] > 1', 'logged["a"] was not measured'),
    ],
)
def test_every_kind_of_part_says_why_it_is_missing(expr: str, why: str) -> None:
    found = _explain(rule(expr), _told(_losses(2, 2)), 2)
    assert [one for part in _parts(found.explanation.whole) for one in part.why] == [why]


def test_what_was_never_measured_has_no_time_since() -> None:
    found = _explain(rule("seconds_since(grad_norm) > 60"), _told(_losses(2, 2, 2)), 3)
    assert found.explanation.whole.parts[0].why == ("seconds_since(grad_norm) was never measured",)


def test_why_a_rank_does_not_measure_it_is_told_in_its_own_words() -> None:
    told = list(_told(_losses(2, 2, 2)))
    told.insert(2, Moment(1.5, 0, Coverage(1, "grad_norm", "the optimizer hides it")))
    (blind,) = _explain(rule("grad_norm > 1"), iter(told), 3).blind
    assert (blind.signal, blind.ranks, blind.reason) == ("grad_norm", "0", "the optimizer hides it")


def test_what_is_asked_whether_it_is_missing_needs_no_reason() -> None:
    found = _explain(rule("loss > 1 and missing(grad_norm)"), _told(_losses(2)), 1)
    assert [why for part in _parts(found.explanation.whole) for why in part.why] == []


def test_the_elements_that_hold_come_first_and_then_the_worst() -> None:
    own = {rank: _losses(2.0 + 0.1 * rank, 2.0) for rank in range(8)}
    own[6] = _losses(5.0, 2.0)
    told = _told([], own)
    found = _explain(rule("by_rank(loss) > 3"), told, 1).explanation
    assert [alert.labels["rank"] for alert in found.alerts] == ["6", "7", "5", "4", "3"]
    assert found.whole.values == (True, False, False, False, False)
    assert (found.count, found.holding, found.missing) == (8, 1, 0)
    low = _explain(rule("by_rank(loss) < 1"), _told([], own), 1).explanation
    assert [alert.labels["rank"] for alert in low.alerts] == ["0", "1", "2", "3", "4"]


def test_labels_narrow_down_what_is_shown() -> None:
    own = {rank: _losses(2.0 + rank) for rank in range(8)}
    found = _explain(rule("by_rank(loss) > 3 * loss"), _told([], own), 1, {"rank": "3"})
    assert _values(found) == {
        "by_rank(loss) > 3 * loss": (False,),
        "by_rank(loss)": (5.0,),
        "3 * loss": (16.5,),
        "loss": (5.5,),
    }


def test_layers_have_values_of_their_own_beside_what_they_share() -> None:
    measured = [{"loss": 1.0, "layer_grad_norm/h.0": 4.0, "layer_grad_norm/h.1": 100.0}]
    found = _explain(rule("layer_grad_norm > 5 * loss"), _told(measured), 1)
    assert [alert.labels for alert in found.explanation.alerts] == [
        {"layer": "h.1"},
        {"layer": "h.0"},
    ]
    assert _values(found)["layer_grad_norm"] == (10.0, 2.0)
    assert _values(found)["5 * loss"] == (5.0, 5.0)


def test_a_rule_of_frames_is_explained_by_what_its_own_rank_said_then() -> None:
    """The other rank is three steps behind when this one's condition is gone again."""
    messages = [Moment(0.0, rank, hello(rank, 2, NAMES)) for rank in (0, 1)]
    for step, loss in enumerate([2.0, NAN, 2.0, 2.0], 1):
        messages.append(Moment(1.0, 0, frame(step, step, NAMES, {"loss": loss})))
    for step in range(1, 5):
        messages.append(Moment(2.0, 1, frame(step, step, NAMES, {"loss": 2.0})))
    found = _explain(rule("nonfinite(by_rank(loss))"), iter(messages), 2).explanation
    assert [(one.labels["rank"], one.state) for one in found.alerts] == [
        ("0", "firing"),
        ("1", "inactive"),
    ]


def test_a_rule_of_the_clock_is_explained_by_the_last_look_at_the_step() -> None:
    told = [*_told(_losses(2, 2, 2)), Moment(50.0, 0, Goodbye("finished"))]
    one = rule("by_rank(silence) > 30", holds=seconds(5))
    found = _explain(one, iter(told), 3)
    assert _values(found)["by_rank(silence)"] == (47.0,)
    assert found.explanation.alerts[0].state == "firing"


def test_of_a_step_that_was_done_twice_the_last_is_explained() -> None:
    told = [*_told(_losses(2, 5, 5))]
    for at, step in enumerate([2, 3], 4):
        told.append(Moment(float(at), 0, frame(step, at, NAMES, {"loss": 1.0})))
    found = _explain(rule("loss > 3"), iter(told), 2)
    assert (found.times, _values(found)["loss"]) == (2, (1.0,))


def test_a_daemon_that_was_started_again_knows_nothing_of_earlier_steps() -> None:
    first = list(_told(_losses(*[2.0] * 40)))
    again = Began(clean_steps=50, continues=True, step=40)
    later = [Moment(at, 0, frame(int(at), int(at), NAMES, {"loss": 2.0})) for at in (41.0, 42.0)]
    told = [*first, Moment(40.5, 0, again), Moment(40.6, 0, hello(0, 1, NAMES)), *later]
    one = rule("loss > 1.2 * median(loss[32])")
    assert _values(_explain(one, iter(told), 40))["loss[32]"] == (32.0,)
    assert _values(_explain(one, iter(told), 42))["loss[32]"] == (1.0,)


def test_windows_of_a_run_that_went_back_are_as_the_rule_had_them() -> None:
    told = list(_told(_losses(*[2.0] * 250)))
    for at, step in enumerate(range(220, 225), 251):
        told.append(Moment(float(at), 0, frame(step, at, NAMES, {"loss": 3.0})))
    found = _explain(rule("loss > 1.2 * median(loss[300])"), iter(told), 221)
    assert _values(found)["loss[300]"] == (201.0,)  # of the snapshot at step 200, and step 220


@pytest.mark.parametrize(
    ("expr", "step", "said"),
    [
        ("loss > 3", 9, "steps from 1 to 7, the nearest is step 7"),
        ("loss > 3", 4, "the nearest are step 3 and step 7"),
        ("by_rank(silence) > 3", 2, "goes by the clock"),
    ],
)
def test_a_step_that_was_not_judged_is_said(expr: str, step: int, said: str) -> None:
    told = [*_told(_losses(2, 2, 2)), Moment(7.0, 0, frame(7, 7, NAMES, {"loss": 2.0}))]
    with pytest.raises(ReplayError) as raised:
        explain_run("run", told, rule(expr), step, labels={}, clock=False)
    assert said in str(raised.value)


def test_a_run_without_a_step_is_said() -> None:
    with pytest.raises(ReplayError, match="no step of run 'run' was judged"):
        _explain(rule("loss > 3"), iter([]), 1)


@settings(max_examples=30, deadline=None)
@given(
    losses=st.lists(st.sampled_from([1.0, 2.0, 2.1, 9.0, NAN, math.inf]), min_size=1, max_size=60),
    ranks=st.integers(1, 3),
    expr=st.sampled_from(
        [
            "loss > 1.5 * mean(loss[8])",
            "robust_z(loss, window=8, floor=0.1) > 3 or nonfinite(loss)",
            "by_rank(loss) > 1.5 * max(by_rank(loss)[4])",
            "nonfinite(by_rank(loss))",
        ]
    ),
    data=st.data(),
)
def test_what_is_explained_is_what_was_judged(
    losses: list[float], ranks: int, expr: str, data: st.DataObject
) -> None:
    """The explained truth and state are those of an engine that nobody looks into."""
    step = data.draw(st.integers(1, len(losses)))
    own = {rank: _losses(*losses[rank:], *losses[:rank]) for rank in range(ranks)}
    one = rule(expr, holds=steps(2))
    found = _explain(one, _told([], own), step).explanation
    replay = Replay("run", [one])
    for moment in _told([], own):
        if moment.now <= step:
            replay.take(moment)
    firing = {tuple(alert.labels.values()) for alert in found.alerts if alert.state == "firing"}
    pending = {tuple(alert.labels.values()) for alert in found.alerts if alert.state == "pending"}
    live = replay.engine.watch(_Nobody())["Rule"].live
    assert firing == {key for key, alert in live.items() if alert.firing}
    assert pending == {key for key, alert in live.items() if not alert.firing}
    for alert, holds in zip(found.alerts, found.whole.values, strict=True):
        following = live.get(tuple(alert.labels.values()))
        if holds is not None:  # what cannot be judged leaves the alert as it was
            assert holds == (following is not None and following.still_true)


class _Nobody:
    """Looks on and does nothing."""

    def framed(self, key: object, step: int) -> None: ...

    def stepped(self, source: object, axes: object, step: int, now: float) -> None: ...

    def ticked(self, source: object, axes: object, step: int, now: float) -> None: ...

    def went_back(self, step: int) -> None: ...


def test_looking_on_changes_nothing() -> None:
    one = rule("robust_z(loss, window=8, floor=0.1) > 3")
    told = list(_told(_losses(*[2.0, 2.1] * 10, 9.0, 2.0)))
    replay = Replay("run", [one])
    fired = [alert for moment in told for alert in begins_to_fire(replay.take(moment))]
    found = _explain(dataclasses.replace(one), iter(told), 21)
    assert [alert.fired_step for alert in fired] == [21]
    assert found.explanation.alerts[0].state == "firing"
