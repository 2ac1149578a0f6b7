"""Charts over HTTP: what is answered is what made-up ranks have said to a real daemon."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from msgspec import structs

from sentinel import clock, wire
from tests.daemon.fake_job import FakeJob, FakeRank, Register
from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import broken

RUN = "charted run"
RANKS, STEPS = 3, 700
LIMIT = 1000.0 * (1 << 30)
SERIES = (
    *map(
        wire.Series,
        ("loss", "step_seconds", "host_memory_used_bytes", "host_memory_limit_bytes"),
    ),
    *(wire.Series("layer_grad_norm", f"layers.{at}") for at in range(3)),
    *(wire.Series("collective_seconds", kind) for kind in ("all_reduce", "all_gather")),
)


def value_of(signal: str, label: str, rank: int, step: int) -> float:
    """What a rank says: spikes of rank 1, a NaN of rank 2, memory that grows."""
    if signal == "loss":
        return math.nan if (rank, step) == (2, 500) else 2.0 + rank + step / 1024
    if signal == "step_seconds":
        return 0.5 + (1.0 if (rank, step) == (1, 333) else 0.0)
    if signal == "host_memory_used_bytes":
        return float(step << 30)
    if signal == "host_memory_limit_bytes":
        return LIMIT
    if signal == "layer_grad_norm":
        return 1e4 if (label, rank, step) == ("layers.1", 1, 444) else 3.0
    return 0.25 + rank / 8  # collectives: rank 0 comes last


class Rank(FakeRank):
    """One that measures more."""

    def hello(self) -> wire.Hello:
        """See `FakeRank`."""
        return structs.replace(super().hello(), series=SERIES)

    def say(self, step: int) -> None:
        """The frame of a step."""
        self.step = step
        values = [value_of(one.signal, one.label, self.rank, step) for one in SERIES]
        packed = struct.pack(f"<{len(values)}d", *values)
        self.sent = getattr(self, "sent", 0) + 1
        self.send(wire.Frame(step, self.sent, clock.steady(), packed))


@pytest.fixture(scope="module")
def charted(shared: Daemon) -> Iterator[Daemon]:
    """A daemon that has seen a run of some hundred steps."""
    register = Register()
    ranks = [
        Rank(shared.place, register, run=RUN, rank=rank, world_size=RANKS) for rank in range(RANKS)
    ]
    for rank in ranks:
        rank.connect()
    for step in range(1, STEPS + 1):
        for rank in ranks:
            rank.say(step)
        if step % 50 == 0:  # a rank that is far ahead of others is not waited for
            eventually(partial(_has_come_to, shared, step), f"step {step}")
    yield shared
    for rank in ranks:
        rank.close()


def _has_come_to(daemon: Daemon, step: int) -> bool:
    return bool(ask(daemon, "series", signal="loss")[1]["last_step"] == step)


def ask(daemon: Daemon, what: str, run: str = RUN, **query: Any) -> tuple[int, Any]:
    """Status and answer."""
    text = urlencode(query, doseq=True)
    status, body = daemon.get(f"/api/v1/runs/{quote(run)}/{what}?{text}")
    return status, json.loads(body)


def series(daemon: Daemon, **query: Any) -> Any:
    status, answer = ask(daemon, "series", **query)
    assert status == 200, answer
    return answer


def loss_at(step: int) -> float:
    return sum(value_of("loss", "", rank, step) for rank in range(RANKS)) / RANKS


def test_what_there_is_to_draw_is_listed_with_its_unit_and_help(charted: Daemon) -> None:
    status, found = ask(charted, "signals")
    assert status == 200
    by_name = {one["signal"]: one for one in found}
    assert [*by_name][:2] == ["loss", "layer_grad_norm"], "in the catalog's order"
    assert by_name["loss"]["labels"] == [""]
    assert by_name["loss"]["by_rank"]
    assert by_name["layer_grad_norm"]["labels"] == ["layers.0", "layers.1", "layers.2"]
    assert by_name["collective_wait_seconds"]["unit"] == "s"
    assert (by_name["loss"]["first_step"], by_name["loss"]["last_step"]) == (1, STEPS)


def test_every_step_is_exact_when_there_are_points_enough(charted: Daemon) -> None:
    answer = series(charted, signal=["loss", "step_seconds"], **{"from": 320, "to": 340})
    assert (answer["bin"], answer["steps"]) == (1, [*range(320, 341)])
    loss, seconds = answer["series"]
    assert loss["mean"] == pytest.approx([loss_at(step) for step in range(320, 341)], rel=1e-6)
    assert loss["min"] == loss["max"] == loss["mean"]
    assert loss["nonfinite"] == [0] * 21
    assert seconds["max"][13] == 1.5
    assert (seconds["rank"][12], seconds["rank"][13]) == (0, 1)
    assert answer["times"] == sorted(answer["times"])
    assert abs(answer["times"][0] - clock.wall()) < 600


def test_an_extreme_and_a_nan_survive_any_downsampling(charted: Daemon) -> None:
    for points in (2, 9, 100):
        answer = series(charted, signal=["loss", "step_seconds", "layer_grad_norm"], points=points)
        assert len(answer["steps"]) <= points
        assert answer["bin"] & (answer["bin"] - 1) == 0
        loss, seconds, *layers = answer["series"]
        assert sum(loss["nonfinite"]) == 1
        assert max(seconds["max"]) == 1.5
        assert seconds["rank"][seconds["max"].index(1.5)] == 1
        assert min(seconds["min"]) == 0.5
        top = [max(layer["max"]) for layer in layers]
        assert top[1] == pytest.approx(math.sqrt(1e4 + 3.0 + 3.0), rel=1e-6)
        assert top[0] == top[2] == 3.0


def test_a_nan_is_named_and_nothing_measured_is_null(charted: Daemon) -> None:
    answer = series(charted, signal="loss", **{"from": 499, "to": 501})
    assert answer["series"][0]["mean"][1] == "NaN"
    assert answer["series"][0]["nonfinite"] == [0, 1, 0]
    assert answer["series"][0]["rank"][1] == 2
    assert series(charted, signal=["loss", "lr"])["series"][1:] == [], "nobody measures lr"
    later = series(charted, signal="loss", **{"from": STEPS + 1})
    assert (later["steps"], later["last_step"]) == ([], STEPS)


def test_one_label_of_many_can_be_asked_for(charted: Daemon) -> None:
    answer = series(charted, signal="layer_grad_norm", label="layers.2", points=4)
    assert [one["label"] for one in answer["series"]] == ["layers.2"]
    assert series(charted, signal="layer_grad_norm", label="layers.9")["series"] == []


def test_the_band_is_what_was_normal_before(charted: Daemon) -> None:
    """Of a line that rises by h a step, the last 200 values have their median 100.5 h below the
    next one, and the median distance from it is 50 h."""
    answer = series(charted, signal="loss", band=1, **{"from": 400, "to": 450})
    band = answer["series"][0]["band"]
    rise = 1 / 1024
    for at, step in enumerate(range(400, 451)):
        center = loss_at(step) - 100.5 * rise
        assert band["low"][at] == pytest.approx(center - 5 * 1.4826 * 50 * rise, abs=1e-4)
        assert band["high"][at] == pytest.approx(center + 5 * 1.4826 * 50 * rise, abs=1e-4)
    young = series(charted, signal="loss", band=1, **{"from": 31, "to": 34})["series"][0]["band"]
    assert [one is None for one in young["low"]] == [True, True, False, False]
    memory = series(charted, signal="host_memory_used_bytes", band=1, **{"from": 400, "to": 450})
    low = memory["series"][0]["band"]["low"]
    assert (low[0], min(low)) == (0.0, 0.0), "no memory is less than none"
    coarse = series(charted, signal="step_seconds", band=1, points=5)["series"][0]["band"]
    assert coarse["high"][2:] == pytest.approx([0.5] * len(coarse["high"][2:]))


def test_of_steps_that_are_not_there_charts_are_empty(charted: Daemon) -> None:
    found = series(charted, signal="loss", band=1, **{"from": 10 * STEPS})
    assert found["steps"] == []
    assert found["series"][0]["band"] == {"low": [], "high": []}


def test_memory_is_told_when_it_will_be_used_up(charted: Daemon) -> None:
    used, other = series(charted, signal=["host_memory_used_bytes", "loss"])["series"]
    assert used["forecast"] == {"limit": LIMIT, "per_step": 2.0**30, "reaches_step": 1000}
    assert other["forecast"] is None
    (past,) = series(charted, signal="host_memory_used_bytes", to=300)["series"]
    assert past["forecast"] is None, "told of what is newest only"


def test_a_heat_map_shows_which_layer_and_which_rank(charted: Daemon) -> None:
    status, layers = ask(charted, "heatmap", signal="layer_grad_norm", rows="label", columns=10)
    assert (status, layers["rows"]) == (200, ["layers.0", "layers.1", "layers.2"])
    tops = [max(row) for row in layers["values"]]
    assert tops.index(max(tops)) == 1
    column = layers["values"][1].index(max(tops))
    assert 0 <= 444 - layers["steps"][column] < layers["bin"]

    _, seconds = ask(charted, "heatmap", signal="step_seconds", rows="rank", columns=50)
    assert seconds["rows"] == ["0", "1", "2"]
    assert [max(row) for row in seconds["values"]] == [0.5, 1.5, 0.5]
    _, loss = ask(charted, "heatmap", signal="loss", rows="rank")
    assert [sum(row) for row in loss["nonfinite"]] == [0, 0, 1]
    _, wait = ask(charted, "heatmap", signal="collective_wait_seconds", rows="rank", columns=1)
    assert wait["values"] == [[0.0], [0.25], [0.5]], "of both collectives together"
    _, few = ask(charted, "heatmap", signal="step_seconds", rows="rank", columns=50, max_rows=1)
    assert (few["rows"], few["dropped_rows"]) == (["1"], 2)


@pytest.mark.parametrize(
    ("what", "query", "said"),
    [
        ("series", {}, "signal"),
        ("series", {"signal": "los"}, "did you mean 'loss'"),
        ("series", {"signal": "loss", "points": 1}, "points"),
        ("series", {"signal": "loss", "points": 4001}, "points"),
        ("series", {"signal": "loss", "points": "many"}, "points"),
        ("series", {"signal": "loss", "from": -1}, "from"),
        ("series", {"signal": "loss", "from": 1 << 60}, "from"),
        ("series", {"signal": "loss", "from": "NaN"}, "from"),
        ("series", {"signal": "loss", "from": 5, "to": 4}, "from 5 is after to 4"),
        ("series", {"signal": "loss", "from": [1, 2]}, "given 2 times"),
        ("series", {"signal": "loss", "band": 2}, "band"),
        ("series", {"signal": "loss", "labels": "x"}, "labels"),
        ("series", {"signal": "loss", "label": "x"}, "no labels"),
        ("series", {"signal": ["loss"] * 65}, "64"),
        ("heatmap", {"signal": "loss"}, "rows"),
        ("heatmap", {"signal": "loss", "rows": "layer"}, "rows"),
        ("heatmap", {"signal": "loss", "rows": "label"}, "no labels"),
        ("heatmap", {"signal": "los", "rows": "rank"}, "did you mean"),
        ("heatmap", {"signal": "loss", "rows": "rank", "columns": 1001}, "columns"),
        ("heatmap", {"signal": ["loss", "lr"], "rows": "rank"}, "given 2 times"),
        ("signals", {"from": 1}, "from"),
        ("marks", {"until": 1}, "until"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_the_reason(
    charted: Daemon, what: str, query: dict[str, Any], said: str
) -> None:
    status, answer = ask(charted, what, **query)
    assert status == 400
    assert said in answer["error"]


def test_of_an_unknown_run_nothing_is_told(charted: Daemon) -> None:
    for what in ("signals", "series?signal=loss", "heatmap?signal=loss&rows=rank", "marks"):
        status, body = charted.get(f"/api/v1/runs/charted/{what}")
        assert status == 404
        assert "did you mean 'charted run'" in body.decode()


def test_a_run_of_which_no_step_is_known_has_empty_charts(charted: Daemon) -> None:
    job = FakeJob(charted.place, run="young", ranks=1).connect()
    answer = ask(charted, "series", "young", signal="loss")[1]
    assert (answer["first_step"], answer["steps"], answer["series"]) == (None, [], [])
    assert ask(charted, "signals", "young") == (200, [])
    assert ask(charted, "heatmap", "young", signal="loss", rows="rank")[1]["rows"] == []
    job.goodbye()


def test_what_befell_a_run_and_what_was_done_is_marked(daemon: Daemon) -> None:
    job = broken(daemon)
    for rank in job.ranks:
        rank.send(wire.Checkpoint(3, "step3", "/checkpoints", 0.1))

    def marked() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = ask(daemon, "marks", "run")[1]
        kinds = {one["kind"] for one in found}
        return found if {"incident", "hold", "checkpoint"} <= kinds else None

    found = eventually(marked, "the marks")
    assert [one["step"] for one in found] == sorted(one["step"] for one in found)
    by_kind = {one["kind"]: one for one in found}
    assert by_kind["incident"]["step"] == 6
    assert by_kind["incident"]["severity"] == "critical"
    assert by_kind["hold"]["incident"] == by_kind["incident"]["incident"]
    assert by_kind["hold"]["step"] == job.step
    assert by_kind["checkpoint"]["step"] == 3
    assert ask(daemon, "marks", "run", **{"from": 4, "to": 5}) == (200, [])

    before = ask(daemon, "series", "run", signal=["loss", "nonfinite_update"])[1]
    assert before["last_step"] == job.step
    assert daemon.stop() == 0
    daemon.start()
    assert ask(daemon, "series", "run", signal=["loss", "nonfinite_update"])[1] == before
